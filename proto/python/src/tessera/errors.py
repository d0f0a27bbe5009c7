"""Why a call failed, as the server says it: a kind, a reason that never changes, the values that matter."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import grpc
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: The key of `google.rpc.Status` in a call's trailing metadata.
_DETAILS = "grpc-status-details-bin"


class Kind(str, Enum):
    """What kind of failure it is."""

    #: The request is wrong and stays wrong.
    INVALID = "Invalid"
    #: It is not known who asks.
    UNAUTHENTICATED = "Unauthenticated"
    #: Who asks may not.
    DENIED = "Denied"
    #: Something that the request names is not there.
    NOT_FOUND = "NotFound"
    #: The system is not in the state that the request needs.
    PRECONDITION = "Precondition"
    #: A bound is reached; the same request may pass later.
    EXHAUSTED = "Exhausted"
    #: Somebody who is needed cannot be reached now.
    UNAVAILABLE = "Unavailable"
    #: The caller's time ran out.
    DEADLINE = "Deadline"
    #: The call was cancelled.
    CANCELLED = "Cancelled"
    #: Stored or sent data do not match their checksum.
    CORRUPT = "Corrupt"
    #: Not in this version.
    UNSUPPORTED = "Unsupported"
    #: A bug or a broken machine.
    INTERNAL = "Internal"


#: The kind of a status code, and the reason of a status that carries none: one of the transport.
_TABLE: dict[grpc.StatusCode, tuple[Kind, str]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (Kind.INVALID, "UNSPECIFIED"),
    grpc.StatusCode.OUT_OF_RANGE: (Kind.INVALID, "MESSAGE_TOO_LARGE"),
    grpc.StatusCode.UNAUTHENTICATED: (Kind.UNAUTHENTICATED, "UNSPECIFIED"),
    grpc.StatusCode.PERMISSION_DENIED: (Kind.DENIED, "UNSPECIFIED"),
    grpc.StatusCode.NOT_FOUND: (Kind.NOT_FOUND, "UNSPECIFIED"),
    grpc.StatusCode.FAILED_PRECONDITION: (Kind.PRECONDITION, "UNSPECIFIED"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (Kind.EXHAUSTED, "UNSPECIFIED"),
    grpc.StatusCode.UNAVAILABLE: (Kind.UNAVAILABLE, "UNREACHABLE"),
    grpc.StatusCode.UNKNOWN: (Kind.UNAVAILABLE, "UNREACHABLE"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (Kind.DEADLINE, "DEADLINE_EXCEEDED"),
    grpc.StatusCode.CANCELLED: (Kind.CANCELLED, "CANCELLED"),
    grpc.StatusCode.DATA_LOSS: (Kind.CORRUPT, "UNSPECIFIED"),
    grpc.StatusCode.UNIMPLEMENTED: (Kind.UNSUPPORTED, "METHOD_UNKNOWN"),
}


@dataclass(frozen=True)
class Field:
    """A field of the request that is at fault."""

    #: Its path, such as `messages[0].parts[1].image`.
    field: str
    #: What is wrong with it.
    description: str


class TesseraError(Exception):
    """A call that failed."""

    def __init__(
        self,
        kind: Kind,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        fields: Iterable[Field] = (),
        retry_after: float | None = None,
    ) -> None:
        """Makes an error."""
        super().__init__(f"{reason}: {message}")
        #: What kind of failure it is.
        self.kind = kind
        #: For programs: stable, in capitals.
        self.reason = reason
        #: For people: what, and with which value.
        self.message = message
        #: The values that matter, by name.
        self.metadata = dict(metadata or {})
        #: Fields of the request that are at fault.
        self.fields = tuple(fields)
        #: Seconds after which the same request is worth while, where the server says so.
        self.retry_after = retry_after


def from_status(
    code: grpc.StatusCode, message: str, trailers: Iterable[tuple[str, str | bytes]] | None
) -> TesseraError:
    """Reads how a call ended."""
    kind, reason = _TABLE.get(code, (Kind.INTERNAL, "UNSPECIFIED"))
    metadata: dict[str, str] = {}
    fields: list[Field] = []
    retry_after = None
    for detail in _details(trailers or ()):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            violations = error_details_pb2.BadRequest.FromString(detail.value).field_violations
            fields = [Field(violation.field, violation.description) for violation in violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after = delay.seconds + delay.nanos / 1e9
    return TesseraError(kind, reason, message, metadata=metadata, fields=fields, retry_after=retry_after)


def from_rpc(error: grpc.RpcError) -> TesseraError:
    """Reads how a call ended, from what grpcio raises: of its blocking calls and of those of asyncio."""
    return from_status(error.code(), error.details() or "", error.trailing_metadata())


def _details(trailers: Iterable[tuple[str, str | bytes]]) -> list[any_pb2.Any]:
    for name, value in trailers:
        if name == _DETAILS and isinstance(value, bytes):
            return list(status_pb2.Status.FromString(value).details)
    return []


if TYPE_CHECKING:
    from google.protobuf import any_pb2
