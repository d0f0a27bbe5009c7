"""The client whose calls block."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from tessera import results
from tessera.access import Retries, Tls, access, left
from tessera.answer import Answer, begun
from tessera.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from tessera.errors import TesseraError, from_rpc, from_status
from tessera.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from tessera.images import Image, file_of, handle_of
from tessera.settings import Settings, Turn, generate_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from types import TracebackType

    from typing_extensions import Unpack

    from tessera.results import Encoded, ImagePlan, Outcome, Stored

    Result = TypeVar("Result")


class Client:
    """Asks a gateway. Threads may share one; it holds one connection."""

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
        """Connects when it is first used.

        server: `http://HOST:PORT`, or `https://…` for TLS. token: shown with every call. timeout: seconds that a call
        may take unless it says otherwise. retries: how often to call again. compress: what is sent, with gzip (not
        worth it for image files, which are compressed).
        """
        self._access = access(server, token, tls, timeout, retries, compress)
        target, options, compression = self._access.target, self._access.options(), self._access.compression
        if self._access.tls:
            credentials = self._access.tls.credentials()
            self.channel = grpc.secure_channel(target, credentials, options, compression)
        else:
            self.channel = grpc.insecure_channel(target, options, compression)
        #: The generated stubs, for what has no method here.
        self.gateway = gateway_pb2_grpc.GatewayStub(self.channel)
        self.store = embedding_pb2_grpc.EmbeddingStoreStub(self.channel)

    def ask(
        self,
        text: str,
        images: Iterable[Image] = (),
        *,
        system: str | None = None,
        history: Iterable[Turn | tuple[str, str]] = (),
        timeout: float | None = None,
        request_id: str = "",
        **settings: Unpack[Settings],
    ) -> Answer:
        """Asks about images; returns once the server has begun to answer.

        Shortly before the deadline the server ends the answer, with the reason `deadline`; where that comes too late
        the call raises.
        """
        request = generate_request(text, images, system, history, settings)
        request.request_id = request_id

        def begin(seconds: float | None) -> Answer:
            call = self.gateway.Generate(request, timeout=seconds, metadata=self._access.metadata)
            return Answer(call, begun(next(call, None)))

        return self._again(begin, timeout)

    def encode(self, image: Image, *, lease: int = 0, timeout: float | None = None) -> Encoded:
        """Encodes an image ahead of time and keeps it, for `lease` seconds at least."""
        request = gateway_pb2.EncodeRequest(image=file_of(image), lease_seconds=lease)

        def call(seconds: float | None) -> list[gateway_pb2.EncodeResponse]:
            return list(self.gateway.Encode(request, timeout=seconds, metadata=self._access.metadata))

        return results.encoded(self._again(call, timeout)[0].encoded)

    def encode_many(
        self, images: Iterable[Image], *, lease: int = 0, in_order: bool = False, timeout: float | None = None
    ) -> Iterator[Outcome]:
        """Encodes any number of images over one call; yields what became of each as soon as it is known.

        Takes images only as fast as they are encoded, on another thread. One that fails does not disturb the others. A
        call that breaks off raises: what was encoded until then is stored, and costs next to nothing the second time.
        """
        unread: deque[Outcome] = deque()
        broken: list[BaseException] = []

        def requests() -> Iterator[gateway_pb2.EncodeBatchRequest]:
            try:
                for index, image in enumerate(images):
                    try:
                        file = file_of(image)
                    except OSError as error:
                        unread.append(results.Outcome(index, error=error))
                        continue
                    yield gateway_pb2.EncodeBatchRequest(
                        id=str(index), image=file, lease_seconds=lease, in_order=in_order
                    )
            except BaseException as error:  # the thread that it would end is grpcio's
                broken.append(error)
                call.cancel()

        ends = self._access.ends(timeout)
        call = self.gateway.EncodeBatch(requests(), timeout=left(ends), metadata=self._access.metadata)
        try:
            for response in call:
                done = outcome(response)
                while unread and (not in_order or unread[0].index < done.index):
                    yield unread.popleft()
                yield done
        except grpc.RpcError as error:
            if broken:
                raise broken[0] from None
            raise from_rpc(error) from error
        finally:
            call.cancel()
        yield from unread

    def stat(
        self, handles: Iterable[str | Encoded | ImagePlan], *, timeout: float | None = None
    ) -> list[Stored | None]:
        """Says of each handle what is stored; at most 1024."""
        request = embedding_pb2.StatRequest(keys=keys(handles))
        return [results.stored(status) for status in self._unary(self.store.Stat, request, timeout).keys]

    def lease(
        self, handles: Iterable[str | Encoded | ImagePlan], seconds: int, *, timeout: float | None = None
    ) -> list[datetime | None]:
        """Promises to keep images for so long; returns until when, or none for what is not stored."""
        request = embedding_pb2.LeaseRequest(keys=keys(handles), seconds=seconds)
        return list(map(results.moment, self._unary(self.store.Lease, request, timeout).leased_until_unix_seconds))

    def release(self, handles: Iterable[str | Encoded | ImagePlan], *, timeout: float | None = None) -> int:
        """Ends promises; returns how many there were."""
        request = embedding_pb2.ReleaseRequest(keys=keys(handles))
        return int(self._unary(self.store.Release, request, timeout).released)

    def delete(self, handles: Iterable[str | Encoded | ImagePlan], *, timeout: float | None = None) -> int:
        """Forgets stored images, leased or not; returns how many there were."""
        request = embedding_pb2.DeleteRequest(keys=embedding_pb2.Keys(keys=keys(handles)))
        return int(self._unary(self.store.Delete, request, timeout).deleted)

    def delete_image(self, image: Image, *, timeout: float | None = None) -> int:
        """Forgets what is stored of an image file."""
        request = embedding_pb2.DeleteRequest(image=file_of(image))
        return int(self._unary(self.store.Delete, request, timeout).deleted)

    def delete_everything(self, *, timeout: float | None = None) -> int:
        """Forgets everything that is stored for whoever asks."""
        request = embedding_pb2.DeleteRequest(tenant=embedding_pb2.Tenant())
        return int(self._unary(self.store.Delete, request, timeout).deleted)

    def close(self) -> None:
        """Ends the connection, and what is in progress on it."""
        self.channel.close()

    def __enter__(self) -> Client:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()

    def _unary(self, method: Any, request: Any, timeout: float | None) -> Any:
        return self._again(lambda seconds: method(request, timeout=seconds, metadata=self._access.metadata), timeout)

    def _again(self, call: Callable[[float | None], Result], timeout: float | None) -> Result:
        """Calls, and calls again where that is worth while and in time."""
        ends, made = self._access.ends(timeout), 0
        while True:
            try:
                return call(left(ends))
            except grpc.RpcError as failed:
                error, made = from_rpc(failed), made + 1
                wait = self._access.retries.wait(error, made, ends)
                if wait is None:
                    raise error from failed
            time.sleep(wait)


def keys(handles: Iterable[str | Encoded | ImagePlan]) -> list[bytes]:
    """Returns the keys of handles, which are a list."""
    if isinstance(handles, str):
        raise TypeError("handles is a list of handles: put the one that there is into a list")
    return [handle_of(handle).key for handle in handles]


def outcome(response: gateway_pb2.EncodeBatchResponse) -> Outcome:
    """Reads what became of one of many images."""
    index = int(response.id)
    if response.HasField("encoded"):
        return results.Outcome(index, results.encoded(response.encoded))
    code = next((code for code in grpc.StatusCode if code.value[0] == response.failure.code), grpc.StatusCode.UNKNOWN)
    kind = from_status(code, "", ()).kind
    return results.Outcome(index, error=TesseraError(kind, response.failure.reason, response.failure.message))
