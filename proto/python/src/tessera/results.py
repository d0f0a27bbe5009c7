"""What comes back, as values of Python."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal

from tessera.gateway.v1 import gateway_pb2
from tessera.images import Handle

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tessera.embedding.v1 import embedding_pb2
    from tessera.errors import TesseraError

#: Why an answer ended: by itself, at its greatest length, or because the deadline came first.
FinishReason = Literal["stop", "length", "deadline"]
_REASONS: dict[int, FinishReason] = {
    gateway_pb2.FINISH_REASON_STOP: "stop",
    gateway_pb2.FINISH_REASON_LENGTH: "length",
    gateway_pb2.FINISH_REASON_DEADLINE: "deadline",
}


@dataclass(frozen=True)
class Size:
    """Pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class ImagePlan:
    """How an image was cut."""

    #: Stands for the image in later questions.
    handle: Handle
    image_size: Size
    #: The chosen grid in pixels.
    grid: Size
    #: Tiles, the base view included.
    tiles: int
    #: Positions of the prompt that it fills.
    image_tokens: int


@dataclass(frozen=True)
class Encoded:
    """An image that is stored."""

    image: ImagePlan
    #: True when it was stored before this call.
    stored_before: bool
    #: True when a restart does not lose it.
    durable: bool
    #: End of the promise to keep it, if one was asked for.
    leased_until: datetime | None
    #: Decoding to encoding, in seconds; zero for what was stored before.
    encode_seconds: float

    @property
    def handle(self) -> Handle:
        """Stands for the image in questions."""
        return self.image.handle


@dataclass(frozen=True)
class Outcome:
    """What became of one of many images."""

    #: Where it stood among those that were given, from 0.
    index: int
    #: The image, unless it failed.
    encoded: Encoded | None = None
    #: Why it failed: what the server says, or that its file cannot be read.
    error: TesseraError | OSError | None = None


@dataclass(frozen=True)
class Stored:
    """What is stored of an image."""

    handle: Handle
    image_size: Size
    image_tokens: int
    #: What it takes in the store.
    bytes: int
    in_memory: bool
    on_disk: bool
    in_shared_store: bool
    #: Uploaded by a client, not encoded from an image.
    uploaded: bool
    created: datetime | None
    leased_until: datetime | None


@dataclass(frozen=True)
class TokenLogprob:
    """The natural logarithm of one token's probability."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Logprobs:
    """The probabilities at one place."""

    #: Of the token that stands there.
    chosen: TokenLogprob
    #: Likeliest first.
    likeliest: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class Usage:
    """Tokens of an answer."""

    #: Of the prompt, images included.
    prompt_tokens: int
    #: Those of them that images fill.
    image_tokens: int
    #: New ones, the end token included.
    completion_tokens: int
    #: Those of the prompt that were not computed again; unknown where a stop string ended the answer.
    reused_tokens: int | None


@dataclass(frozen=True)
class Timings:
    """Where the time of an answer went, in seconds, seen from the gateway."""

    prepare: float
    encode: float
    queue: float
    #: Until the features of every image had come; part of `prefill`.
    transfer: float
    prefill: float
    decode: float
    #: From receiving the request.
    first_token: float
    #: From receiving the request.
    total: float
    #: Images that were stored before.
    images_stored_before: int
    #: How often another worker went on with the answer.
    continuations: int


@dataclass(frozen=True)
class Delta:
    """More of an answer."""

    #: Whose, from 0.
    sample: int
    #: Whole characters; may be empty.
    text: str
    token_ids: tuple[int, ...]
    #: As many as ids, or none where they were not asked for.
    logprobs: tuple[Logprobs, ...]


@dataclass(frozen=True)
class Sample:
    """One whole answer."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[Logprobs, ...]
    reason: FinishReason
    usage: Usage
    timings: Timings


def _size(size: embedding_pb2.ImageSize) -> Size:
    return Size(size.width, size.height)


def moment(unix_seconds: int) -> datetime | None:
    """Returns a moment; none for 0."""
    return datetime.fromtimestamp(unix_seconds, timezone.utc) if unix_seconds else None


def image_plan(plan: gateway_pb2.ImagePlan) -> ImagePlan:
    """Reads how an image was cut."""
    return ImagePlan(Handle(plan.key.hex()), _size(plan.image_size), _size(plan.grid), plan.tiles, plan.image_tokens)


def encoded(message: gateway_pb2.Encoded) -> Encoded:
    """Reads what is said of a stored image."""
    leased_until = moment(message.leased_until_unix_seconds)
    seconds = message.encode_microseconds / 1e6
    return Encoded(image_plan(message.image), message.stored_before, message.durable, leased_until, seconds)


def stored(status: embedding_pb2.KeyStatus) -> Stored | None:
    """Reads what is stored under a key."""
    if not status.HasField("stored"):
        return None
    image = status.stored
    return Stored(
        handle=Handle(status.key.hex()),
        image_size=_size(image.image_size),
        image_tokens=image.image_tokens,
        bytes=image.bytes,
        in_memory=image.in_memory,
        on_disk=image.on_disk,
        in_shared_store=image.in_shared_store,
        uploaded=image.uploaded,
        created=moment(image.created_unix_seconds),
        leased_until=moment(image.leased_until_unix_seconds),
    )


def logprobs(places: Iterable[gateway_pb2.Logprobs]) -> tuple[Logprobs, ...]:
    """Reads the probabilities at places in a row."""
    return tuple(Logprobs(_token(place.chosen), tuple(map(_token, place.likeliest))) for place in places)


def _token(token: gateway_pb2.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(token.token_id, token.text, token.logprob)


def delta(message: gateway_pb2.Delta) -> Delta:
    """Reads more of an answer."""
    return Delta(message.sample, message.text, tuple(message.token_ids), logprobs(message.logprobs))


def sample(deltas: Iterable[Delta], finished: gateway_pb2.Finished) -> Sample:
    """Puts the parts of one answer together."""
    deltas = list(deltas)
    usage, timings = finished.usage, finished.timings
    return Sample(
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(token for delta in deltas for token in delta.token_ids),
        logprobs=tuple(place for delta in deltas for place in delta.logprobs),
        reason=_REASONS[finished.reason],
        usage=Usage(
            prompt_tokens=usage.prompt_tokens,
            image_tokens=usage.image_tokens,
            completion_tokens=usage.completion_tokens,
            reused_tokens=usage.reused_tokens if usage.HasField("reused_tokens") else None,
        ),
        timings=Timings(
            prepare=timings.prepare_microseconds / 1e6,
            encode=timings.encode_microseconds / 1e6,
            queue=timings.queue_microseconds / 1e6,
            transfer=timings.transfer_microseconds / 1e6,
            prefill=timings.prefill_microseconds / 1e6,
            decode=timings.decode_microseconds / 1e6,
            first_token=timings.first_token_microseconds / 1e6,
            total=timings.total_microseconds / 1e6,
            images_stored_before=timings.images_stored_before,
            continuations=timings.continuations,
        ),
    )
