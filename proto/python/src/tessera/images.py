"""What may stand for an image, and the handle that stands for one which is stored."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Union

from tessera.gateway.v1 import gateway_pb2

if TYPE_CHECKING:
    from PIL import Image as PillowImage

    from tessera.results import Encoded, ImagePlan

#: A file by its path or its bytes, a Pillow image, a handle (or what has one), or a URL that the gateway fetches.
Image = Union[
    str, "os.PathLike[str]", bytes, bytearray, memoryview, "PillowImage.Image", "Handle", "Encoded", "ImagePlan"
]
#: What a PNG can hold as it is.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_HANDLE = re.compile(r"[0-9a-fA-F]{64}")


class Handle(str):
    """The key of a stored image: 64 hexadecimal digits, as `tessera encode` prints it."""

    __slots__ = ()

    def __new__(cls, text: str) -> Handle:
        """Checks the digits."""
        if not _HANDLE.fullmatch(text):
            raise ValueError(f"{text!r} is no handle, which is 64 hexadecimal digits")
        return super().__new__(cls, text.lower())

    @property
    def key(self) -> bytes:
        """The 32 bytes of it."""
        return bytes.fromhex(self)


def handle_of(image: str | Encoded | ImagePlan) -> Handle:
    """Returns the handle that is, or is in, what is given."""
    return Handle(image if isinstance(image, str) else image.handle)


def file_of(image: Image) -> bytes:
    """Returns the bytes of an image file. Reads it where a path is given; an image in memory becomes a PNG."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return Path(image).read_bytes()
    pillow = sys.modules.get("PIL.Image")
    if pillow is None or not isinstance(image, pillow.Image):
        raise TypeError(f"a {type(image).__name__} is no image file: give a path, bytes or a Pillow image")
    buffer = io.BytesIO()
    (image if image.mode in _PNG_MODES else image.convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue()


def part_of(image: Image) -> gateway_pb2.Image:
    """Returns what a question says of an image: its file, its handle, or its URL."""
    if isinstance(image, str):
        if image.startswith(("http://", "https://")):
            return gateway_pb2.Image(url=image)
        if _HANDLE.fullmatch(image):
            return gateway_pb2.Image(key=bytes.fromhex(image))
    handle = getattr(image, "handle", None)
    if isinstance(handle, Handle):
        return gateway_pb2.Image(key=handle.key)
    return gateway_pb2.Image(data=file_of(image))
