"""Asks about one image and shows the answer as it is made: `python ask.py photo.jpg "How many people?"`."""

from __future__ import annotations

import argparse
import sys

import tessera

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("image", help="a file, a URL that the gateway may fetch, or a handle")
arguments.add_argument("question")
arguments.add_argument("--server", default="http://127.0.0.1:50051")
arguments.add_argument("--token", help="where the gateway asks who you are")
given = arguments.parse_args()

with tessera.Client(given.server, token=given.token) as client:
    try:
        answer = client.ask(given.question, [given.image], max_tokens=200)
        for piece in answer:
            print(piece, end="", flush=True)
    except tessera.TesseraError as error:
        sys.exit(f"{error.message} ({error.reason})")
    print()
    (plan,) = answer.images
    print(
        f"{plan.tiles} tiles, {plan.image_tokens} image tokens, {answer.usage.completion_tokens} new ones, "
        f"{answer.timings.total:.2f} s",
        file=sys.stderr,
    )
