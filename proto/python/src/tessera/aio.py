"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

from tessera import results
from tessera.access import Retries, Tls, access, left
from tessera.answer import AsyncAnswer, begun
from tessera.client import keys, outcome
from tessera.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from tessera.errors import from_rpc
from tessera.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from tessera.images import Image, file_of
from tessera.settings import Settings, Turn, generate_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
    from datetime import datetime
    from types import TracebackType

    from typing_extensions import Unpack

    from tessera.results import Encoded, ImagePlan, Outcome, Stored

    Result = TypeVar("Result")


class AsyncClient:
    """Asks a gateway. Belongs to the event loop that it is made in; it holds one connection."""

    def __init__(
        self,
        server: str = "http://127.0.0.1:50051",
        *,
        token: str | None = None,
        tls: Tls | None = None,
        timeout: float | None = None,
        retries: Retries | None = None,
        compress: bool = False,
    ) -> None:
        """Connects when it is first used. What it is given is the same as for `Client`."""
        self._access = access(server, token, tls, timeout, retries, compress)
        target, options, compression = self._access.target, self._access.options(), self._access.compression
        if self._access.tls:
            credentials = self._access.tls.credentials()
            self.channel = grpc.aio.secure_channel(target, credentials, options, compression)
        else:
            self.channel = grpc.aio.insecure_channel(target, options, compression)
        #: The generated stubs, for what has no method here.
        self.gateway = gateway_pb2_grpc.GatewayStub(self.channel)
        self.store = embedding_pb2_grpc.EmbeddingStoreStub(self.channel)

    async def ask(
        self,
        text: str,
        images: Iterable[Image] = (),
        *,
        system: str | None = None,
        history: Iterable[Turn | tuple[str, str]] = (),
        timeout: float | None = None,
        request_id: str = "",
        **settings: Unpack[Settings],
    ) -> AsyncAnswer:
        """Asks about images; returns once the server has begun to answer.

        Shortly before the deadline the server ends the answer, with the reason `deadline`; where that comes too late
        the call raises.
        """
        request = await asyncio.to_thread(generate_request, text, images, system, history, settings)
        request.request_id = request_id

        async def begin(seconds: float | None) -> AsyncAnswer:
            call = self.gateway.Generate(request, timeout=seconds, metadata=self._access.metadata)
            return AsyncAnswer(call, begun(await call.read()))

        return await self._again(begin, timeout)

    async def encode(self, image: Image, *, lease: int = 0, timeout: float | None = None) -> Encoded:
        """Encodes an image ahead of time and keeps it, for `lease` seconds at least."""
        request = gateway_pb2.EncodeRequest(image=await asyncio.to_thread(file_of, image), lease_seconds=lease)

        async def call(seconds: float | None) -> list[gateway_pb2.EncodeResponse]:
            parts = self.gateway.Encode(request, timeout=seconds, metadata=self._access.metadata)
            return [part async for part in parts]

        return results.encoded((await self._again(call, timeout))[0].encoded)

    async def encode_many(
        self,
        images: Iterable[Image] | AsyncIterable[Image],
        *,
        lease: int = 0,
        in_order: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[Outcome]:
        """Encodes any number of images over one call; yields what became of each as soon as it is known.

        Takes images only as fast as they are encoded. One that fails does not disturb the others. A call that breaks
        off raises: what was encoded until then is stored, and costs next to nothing the second time.
        """
        unread: deque[Outcome] = deque()
        broken: list[BaseException] = []

        async def requests() -> AsyncIterator[gateway_pb2.EncodeBatchRequest]:
            try:
                index = 0
                async for image in _each(images):
                    try:
                        file = await asyncio.to_thread(file_of, image)
                    except OSError as error:
                        unread.append(results.Outcome(index, error=error))
                    else:
                        yield gateway_pb2.EncodeBatchRequest(
                            id=str(index), image=file, lease_seconds=lease, in_order=in_order
                        )
                    index += 1
            except Exception as error:  # noqa: BLE001 - the task that it would end is grpcio's
                broken.append(error)
                call.cancel()

        ends = self._access.ends(timeout)
        call = self.gateway.EncodeBatch(requests(), timeout=left(ends), metadata=self._access.metadata)
        try:
            async for response in call:
                done = outcome(response)
                while unread and (not in_order or unread[0].index < done.index):
                    yield unread.popleft()
                yield done
        except (grpc.RpcError, asyncio.CancelledError) as error:
            if broken:
                raise broken[0] from None
            if isinstance(error, grpc.RpcError):
                raise from_rpc(error) from error
            raise
        finally:
            call.cancel()
        while unread:
            yield unread.popleft()

    async def stat(
        self, handles: Iterable[str | Encoded | ImagePlan], *, timeout: float | None = None
    ) -> list[Stored | None]:
        """Says of each handle what is stored; at most 1024."""
        request = embedding_pb2.StatRequest(keys=keys(handles))
        return [results.stored(status) for status in (await self._unary(self.store.Stat, request, timeout)).keys]

    async def lease(
        self, handles: Iterable[str | Encoded | ImagePlan], seconds: int, *, timeout: float | None = None
    ) -> list[datetime | None]:
        """Promises to keep images for so long; returns until when, or none for what is not stored."""
        request = embedding_pb2.LeaseRequest(keys=keys(handles), seconds=seconds)
        response = await self._unary(self.store.Lease, request, timeout)
        return list(map(results.moment, response.leased_until_unix_seconds))

    async def release(self, handles: Iterable[str | Encoded | ImagePlan], *, timeout: float | None = None) -> int:
        """Ends promises; returns how many there were."""
        request = embedding_pb2.ReleaseRequest(keys=keys(handles))
        return int((await self._unary(self.store.Release, request, timeout)).released)

    async def delete(self, handles: Iterable[str | Encoded | ImagePlan], *, timeout: float | None = None) -> int:
        """Forgets stored images, leased or not; returns how many there were."""
        request = embedding_pb2.DeleteRequest(keys=embedding_pb2.Keys(keys=keys(handles)))
        return int((await self._unary(self.store.Delete, request, timeout)).deleted)

    async def delete_image(self, image: Image, *, timeout: float | None = None) -> int:
        """Forgets what is stored of an image file."""
        request = embedding_pb2.DeleteRequest(image=await asyncio.to_thread(file_of, image))
        return int((await self._unary(self.store.Delete, request, timeout)).deleted)

    async def delete_everything(self, *, timeout: float | None = None) -> int:
        """Forgets everything that is stored for whoever asks."""
        request = embedding_pb2.DeleteRequest(tenant=embedding_pb2.Tenant())
        return int((await self._unary(self.store.Delete, request, timeout)).deleted)

    async def close(self) -> None:
        """Ends the connection, and what is in progress on it."""
        await self.channel.close()

    async def __aenter__(self) -> AsyncClient:
        """Returns itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        await self.close()

    async def _unary(self, method: Any, request: Any, timeout: float | None) -> Any:
        async def call(seconds: float | None) -> Any:
            return await method(request, timeout=seconds, metadata=self._access.metadata)

        return await self._again(call, timeout)

    async def _again(self, call: Callable[[float | None], Awaitable[Result]], timeout: float | None) -> Result:
        """Calls, and calls again where that is worth while and in time."""
        ends, made = self._access.ends(timeout), 0
        while True:
            try:
                return await call(left(ends))
            except grpc.RpcError as failed:
                error, made = from_rpc(failed), made + 1
                wait = self._access.retries.wait(error, made, ends)
                if wait is None:
                    raise error from failed
            await asyncio.sleep(wait)


async def _each(images: Iterable[Image] | AsyncIterable[Image]) -> AsyncIterator[Image]:
    if hasattr(images, "__aiter__"):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image
