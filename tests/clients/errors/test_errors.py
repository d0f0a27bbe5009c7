"""The same bad requests at every face of the gateway: kind and reason are the same, whoever asks."""

import struct
import zlib
from dataclasses import dataclass, field

import pytest
from faces import (
    FACES,
    Asked,
    File,
    Inference,
    InferenceStream,
    Key,
    Native,
    OpenAi,
    OpenAiStream,
    Refused,
    Url,
    generate_inference,
)

from conftest import SAMPLES

PICTURE = (SAMPLES / "001.jpg").read_bytes()
CLIENTS = {Native: "grpcio", OpenAi: "httpx", OpenAiStream: "httpx", Inference: "grpcio", InferenceStream: "grpcio"}
PROTOCOLS = {
    Native: "bad requests, natively",
    OpenAi: "bad requests, by OpenAI's API",
    OpenAiStream: "bad requests, by OpenAI's API",
    Inference: "bad requests, by the Open Inference Protocol",
    InferenceStream: "bad requests, by the Open Inference Protocol",
}

# What protocols cannot say, and why.
ONE_TURN = {Inference: "a request is one turn with one text", InferenceStream: "a request is one turn with one text"}
NO_URL = {Inference: "no input holds a URL", InferenceStream: "no input holds a URL"}
NO_NAN = {OpenAi: "JSON has no such number", OpenAiStream: "JSON has no such number"}


@dataclass(frozen=True)
class Bad:
    """A bad request, what it must be refused with, and the faces in whose protocol it cannot be said, with the reason."""

    name: str
    reason: str
    asked: Asked
    kind: str = "Invalid"
    unsayable: dict = field(default_factory=dict)


def setting(name: str, reason: str = "VALUE_OUT_OF_RANGE", unsayable: dict | None = None, **settings) -> Bad:
    """A request with bad settings."""
    return Bad(name, reason, Asked(settings=settings), unsayable=unsayable or {})


def images(name: str, reason: str, *shown, kind: str = "Invalid", unsayable: dict | None = None) -> Bad:
    """A request with bad images."""
    return Bad(name, reason, Asked(images=list(shown)), kind, unsayable or {})


def png(width: int, height: int) -> bytes:
    """A PNG of this size, with nothing in it."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + bytes(64)


BAD = [
    Bad("no message", "FIELD_MISSING", Asked(messages=[]), unsayable=ONE_TURN),
    Bad("an empty message", "PROMPT_EMPTY", Asked(messages=[[]]), unsayable=ONE_TURN),
    images("no image", "IMAGE_FORMAT_UNKNOWN", File(b"this is no image")),
    images("a truncated image", "IMAGE_TRUNCATED", File(PICTURE[: len(PICTURE) // 2])),
    images("an image without bytes", "IMAGE_EMPTY", File(b"")),
    images("an image that is too large", "IMAGE_TOO_LARGE", File(png(60_000, 60_000))),
    images("17 images", "TOO_MANY_IMAGES", *[File(PICTURE)] * 17),
    images("an unknown handle", "EMBEDDING_NOT_FOUND", Key(bytes(32)), kind="NotFound"),
    images("a malformed handle", "KEY_INVALID", Key(b"short")),
    images(
        "a URL where none may be named",
        "URLS_DISABLED",
        Url("https://a.test/b.png"),
        kind="Precondition",
        unsayable=NO_URL,
    ),
    images("a URL of another scheme", "URL_INVALID", Url("ftp://a.test/b.png"), unsayable=NO_URL),
    setting("a negative temperature", temperature=-0.5),
    setting("a temperature that is no number", temperature=float("nan"), unsayable=NO_NAN),
    setting("a top_p over 1", top_p=1.5),
    setting("a top_p of 0", top_p=0.0),
    setting("a min_p over 1", min_p=1.5),
    setting("a typical_p of 0", typical_p=0.0),
    setting("a repetition penalty of 0", repetition_penalty=0.0),
    setting("no new tokens", max_tokens=0),
    setting("more tokens at least than at most", min_tokens=3, max_tokens=2),
    setting("a seed that torch does not take", seed=2**32, generator="torch", temperature=1.0),
    setting("17 stop strings", stop=[f"stop {index}" for index in range(17)]),
    setting("an empty stop string", "STOP_EMPTY", stop=["a", ""]),
    setting("21 log-probabilities", logprobs=21),
    setting("65 samples", samples=65, temperature=1.0),
    setting("no samples", samples=0),
    setting("two samples that are drawn from nothing", "SETTINGS_CONFLICT", samples=2),
    setting("65 beams", beams=65),
    setting("fewer beams than samples", "SETTINGS_CONFLICT", beams=2, samples=3),
    setting("beams and stop strings", "SETTINGS_CONFLICT", beams=2, stop=["a"]),
    setting("beams and a draw", "SETTINGS_CONFLICT", beams=2, temperature=1.0),
    setting("a schema that is none", "CONSTRAINT_INVALID", json_schema={"type": "nothing"}),
    setting("a regular expression that is none", "CONSTRAINT_INVALID", regex="(a"),
    setting("a grammar that is none", "CONSTRAINT_INVALID", lark="start: nothing"),
    setting("a choice of nothing", choices=[]),
    Bad("a prompt that is too long", "PROMPT_TOO_LONG", Asked(text="one two " * 50_000)),
]


@pytest.fixture(scope="session")
def faces(gateway, tmp_path_factory):
    """All faces of one gateway."""
    generate_inference(tmp_path_factory.mktemp("generated"))
    return {face: face(gateway) for face in FACES}


def every_face():
    """Each bad request with each face that it can be said to."""
    for bad in BAD:
        for face in FACES:
            if face not in bad.unsayable:
                mark = pytest.mark.feature(CLIENTS[face], PROTOCOLS[face])
                yield pytest.param(bad, face, marks=mark, id=f"{bad.name}-{face.name}")


@pytest.mark.parametrize(("bad", "face"), every_face())
def test_a_bad_request_is_refused_alike_everywhere(faces, bad, face):
    assert faces[face].ask(bad.asked) == Refused(bad.kind, bad.reason)


def test_what_a_protocol_cannot_say_is_little_and_has_a_reason():
    assert len(BAD) >= 20
    for bad in BAD:
        assert all(bad.unsayable.values())
        assert Native not in bad.unsayable
    for face in FACES:
        assert sum(face in bad.unsayable for bad in BAD) <= len(BAD) / 8, face.name
