"""An answer that is streamed: blocking, and with asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from tessera import results
from tessera.errors import Kind, TesseraError, from_rpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType

    from tessera.gateway.v1 import gateway_pb2
    from tessera.results import Delta, FinishReason, ImagePlan, Logprobs, Sample, Timings, Usage


def begun(event: Any) -> gateway_pb2.Started:
    """Returns how the answer begins, from the first event of its stream: none where that ended before."""
    started = getattr(event, "started", None)
    if started is None:
        raise TesseraError(Kind.INTERNAL, "CONTRACT_BROKEN", "the answer ended before it began")
    return started  # type: ignore[no-any-return]


class _Answer:
    """What was told so far, and of the whole what both kinds of answer say."""

    def __init__(self, call: Any, started: gateway_pb2.Started) -> None:
        """Made by `ask`."""
        #: The name of the request in the server's logs.
        self.request_id: str = started.request_id
        #: Tokens of the prompt, images included.
        self.prompt_tokens: int = started.prompt_tokens
        #: The seed in force.
        self.seed: int = started.seed
        #: How each image was cut, in order; their handles stand for them in later questions.
        self.images: tuple[ImagePlan, ...] = tuple(map(results.image_plan, started.images))
        self._call = call
        self._prompt_logprobs: list[Logprobs] = []
        self._deltas: dict[int, list[Delta]] = {}
        self._samples: dict[int, Sample] = {}
        self._ended = False

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All answers, whole."""
        self._wait()
        return tuple(self._samples[index] for index in sorted(self._samples))

    @property
    def text(self) -> str:
        """The whole text."""
        return self.samples[0].text

    @property
    def text_so_far(self) -> str:
        """What came of it until now; of an answer that broke off, all that there is."""
        return "".join(delta.text for delta in self._deltas.get(0, ()))

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of the whole answer."""
        return self.samples[0].token_ids

    @property
    def reason(self) -> FinishReason:
        """Why the answer ended."""
        return self.samples[0].reason

    @property
    def usage(self) -> Usage:
        """Its tokens."""
        return self.samples[0].usage

    @property
    def timings(self) -> Timings:
        """Where the time went."""
        return self.samples[0].timings

    @property
    def logprobs(self) -> tuple[Logprobs, ...]:
        """Of every token, if they were asked for."""
        return self.samples[0].logprobs

    @property
    def prompt_logprobs(self) -> tuple[Logprobs, ...]:
        """Of every place of the prompt but the first, if they were asked for."""
        self._wait()
        return tuple(self._prompt_logprobs)

    def cancel(self) -> None:
        """Tells the server to stop, if it has not ended. What came until then stays."""
        self._call.cancel()

    def _wait(self) -> None:
        raise NotImplementedError

    def _take(self, event: gateway_pb2.GenerateResponse) -> Delta | None:
        """Takes an event; returns it where it is more of an answer."""
        if event.HasField("delta"):
            delta = results.delta(event.delta)
            self._deltas.setdefault(delta.sample, []).append(delta)
            return delta
        if event.HasField("prompt_logprobs"):
            self._prompt_logprobs.extend(results.logprobs(event.prompt_logprobs.positions))
        elif event.HasField("finished"):
            index = event.finished.sample
            self._samples[index] = results.sample(self._deltas.get(index, ()), event.finished)
        return None

    def _end(self) -> None:
        if not self._samples:
            raise TesseraError(Kind.INTERNAL, "CONTRACT_BROKEN", "the answer ended without saying why")
        self._ended = True


class Answer(_Answer):
    """An answer on its way: iterate over it for its text, piece by piece, or ask for what you need of the whole.

    With several samples the pieces are those of the first; `deltas` has all of them.
    """

    def __iter__(self) -> Iterator[str]:
        """Yields the pieces of the text as they come."""
        return (delta.text for delta in self.deltas() if delta.sample == 0 and delta.text)

    def deltas(self) -> Iterator[Delta]:
        """Yields what comes, of all samples. What was taken once does not come again."""
        if self._ended:
            return
        try:
            for event in self._call:
                delta = self._take(event)
                if delta is not None:
                    yield delta
        except grpc.RpcError as error:
            raise from_rpc(error) from error
        self._end()

    def _wait(self) -> None:
        for _ in self.deltas():
            pass

    def __enter__(self) -> Answer:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancels what has not come yet."""
        self.cancel()


class AsyncAnswer(_Answer):
    """An answer on its way: `async for` gives its text piece by piece, `finish` waits for its end.

    What is only known of the whole can be asked for when it has ended.
    """

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yields the pieces of the text as they come."""
        async for delta in self.deltas():
            if delta.sample == 0 and delta.text:
                yield delta.text

    async def deltas(self) -> AsyncIterator[Delta]:
        """Yields what comes, of all samples. What was taken once does not come again."""
        if self._ended:
            return
        try:
            # grpcio does not let a call be iterated over of which `read` took the first event.
            while (event := await self._call.read()) is not grpc.aio.EOF:
                delta = self._take(event)
                if delta is not None:
                    yield delta
        except grpc.RpcError as error:
            raise from_rpc(error) from error
        except asyncio.CancelledError as error:
            # grpcio raises the same for a call that was cancelled as for a task that is.
            if self._is_cancelled:
                raise TesseraError(Kind.CANCELLED, "CANCELLED", "the answer was cancelled") from error
            raise
        self._end()

    async def finish(self) -> AsyncAnswer:
        """Waits for the end; returns itself."""
        async for _ in self.deltas():
            pass
        return self

    _is_cancelled = False

    def cancel(self) -> None:
        """Tells the server to stop, if it has not ended. What came until then stays."""
        self._is_cancelled = True
        super().cancel()

    def _wait(self) -> None:
        if not self._ended:
            raise RuntimeError("the answer has not ended: wait for `finish()`, or iterate to its end, first")

    async def __aenter__(self) -> AsyncAnswer:
        """Returns itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancels what has not come yet."""
        self.cancel()
