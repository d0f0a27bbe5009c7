"""The way to a gateway: its address, whom we believe, who we are, and how long to go on trying."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from tessera.errors import Kind, TesseraError

if TYPE_CHECKING:
    import os

#: A way through routers that forget idle connections.
_OPTIONS = [("grpc.keepalive_time_ms", 60_000), ("grpc.keepalive_timeout_ms", 20_000)]
#: The first wait of a call that is made again, in seconds, where the server does not say how long.
_FIRST_WAIT = 0.2


@dataclass(frozen=True)
class Tls:
    """Certificates, as PEM: the bytes themselves, or the path of their file."""

    #: Authorities that may vouch for the server; those of the system unless they are given.
    ca: bytes | str | os.PathLike[str] | None = None
    #: Who we are, with the key of it, where the server asks.
    certificate: bytes | str | os.PathLike[str] | None = None
    key: bytes | str | os.PathLike[str] | None = None
    #: The name in the server's certificate, where it is not the address's.
    name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files."""
        return grpc.ssl_channel_credentials(_pem(self.ca), _pem(self.key), _pem(self.certificate))


def _pem(source: bytes | str | os.PathLike[str] | None) -> bytes | None:
    return source if source is None or isinstance(source, bytes) else Path(source).read_bytes()


@dataclass(frozen=True)
class Retries:
    """How often and how long a call is made again that failed before anything of its answer came.

    That is one that the server refused with the time after which to come back, or one that did not reach it.
    """

    #: How often it is made, the first time included.
    attempts: int = 4
    #: Longest wait, in seconds; where the server says a longer one the call fails at once.
    longest_wait: float = 10.0

    def wait(self, error: TesseraError, made: int, ends: float | None) -> float | None:
        """Returns the seconds to wait after so many calls; none where the error stands."""
        if made >= self.attempts:
            return None
        if error.retry_after is not None:
            wait = error.retry_after
        elif error.kind is Kind.UNAVAILABLE:
            # Clients that lost the same server do not come back all at once.
            wait = min(_FIRST_WAIT * 2 ** (made - 1), self.longest_wait) * random.uniform(0.5, 1)  # noqa: S311
        else:
            return None
        in_time = ends is None or time.monotonic() + wait < ends
        return wait if wait <= self.longest_wait and in_time else None


@dataclass(frozen=True)
class Access:
    """The way to a gateway."""

    #: host:port
    target: str
    tls: Tls | None
    #: Sent with every call.
    metadata: tuple[tuple[str, str], ...]
    compression: grpc.Compression
    #: Seconds that a call may take, unless it says otherwise.
    timeout: float | None
    retries: Retries

    def options(self) -> list[tuple[str, Any]]:
        """Returns the settings of a channel."""
        name = self.tls.name if self.tls else None
        return [*_OPTIONS, *([("grpc.ssl_target_name_override", name)] if name else [])]

    def ends(self, timeout: float | None) -> float | None:
        """Returns when a call must have ended, by the monotonic clock."""
        timeout = self.timeout if timeout is None else timeout
        return None if timeout is None else time.monotonic() + timeout


def left(ends: float | None) -> float | None:
    """Returns the seconds until then, as grpcio wants them."""
    return None if ends is None else max(ends - time.monotonic(), 0.0)


def access(
    server: str, token: str | None, tls: Tls | None, timeout: float | None, retries: Retries | None, compress: bool
) -> Access:
    """Reads what a client was given."""
    scheme, separator, target = server.rpartition("://")
    target = target.rstrip("/")
    if separator and scheme not in ("http", "https"):
        raise ValueError(f"{server} is no gateway: name it http://HOST:PORT, https://HOST:PORT or HOST:PORT")
    if not target or "/" in target:
        raise ValueError(f"{server} is no gateway: an address has a host, a port and no path")
    if scheme == "http" and tls is not None:
        raise ValueError(f"{server} is not encrypted, so tls means nothing: name it https://{target}")
    if scheme == "https":
        tls = tls or Tls()
    if ":" not in target.rpartition("]")[2]:
        target = f"{target}:{443 if tls else 80}"
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    compression = grpc.Compression.Gzip if compress else grpc.Compression.NoCompression
    return Access(target, tls, metadata, compression, timeout, retries or Retries())
