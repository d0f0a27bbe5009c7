"""Encodes a folder of images ahead of time, then asks about each by its handle alone, many at once.

python encode_folder_then_ask.py photos "What is this?"
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import tessera

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


async def main() -> int:
    """Returns the exit code: 1 where an image failed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("question")
    arguments.add_argument("--server", default="http://127.0.0.1:50051")
    arguments.add_argument("--at-once", type=int, default=8, help="questions in progress")
    given = arguments.parse_args()
    files = sorted(file for file in given.folder.iterdir() if file.suffix.lower() in SUFFIXES)

    async with tessera.AsyncClient(given.server) as client:
        handles: dict[Path, tessera.Handle] = {}
        # An hour's promise: the images stay until they were asked about.
        async for outcome in client.encode_many(files, lease=3600):
            file = files[outcome.index]
            if outcome.encoded is None:
                print(f"{file.name}: {outcome.error}", file=sys.stderr)
            else:
                handles[file] = outcome.encoded.handle

        places = asyncio.Semaphore(given.at_once)

        async def ask(handle: tessera.Handle) -> str:
            async with places:
                answer = await client.ask(given.question, [handle], max_tokens=200)
                return (await answer.finish()).text

        answers = await asyncio.gather(*map(ask, handles.values()))
        for file, answer in zip(handles, answers, strict=True):
            print(f"{file.name}: {answer}")
        await client.release(handles.values())
    return 0 if len(handles) == len(files) else 1


sys.exit(asyncio.run(main()))
