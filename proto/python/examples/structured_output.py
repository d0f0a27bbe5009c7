"""Has an answer made in a form that a program reads: `python structured_output.py chart.png`."""

from __future__ import annotations

import argparse
import json

import tessera

SCHEMA = {
    "type": "object",
    "properties": {
        "description": {"type": "string", "maxLength": 40},
        "has_text": {"type": "boolean"},
        "shapes": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["description", "has_text", "shapes"],
    "additionalProperties": False,
    # No blanks but those inside of strings.
    "x-guidance": {"whitespace_flexible": False},
}

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("image")
arguments.add_argument("--server", default="http://127.0.0.1:50051")
given = arguments.parse_args()

with tessera.Client(given.server) as client:
    described = client.ask("Describe the image.", [given.image], json_schema=SCHEMA, max_tokens=300)
    print(json.dumps(json.loads(described.text), indent=2))

    # The answer to a question that has few is one of them, and its probability is known.
    judged = client.ask("Do you see a word?", [described.images[0]], choices=["yes", "no"], logprobs=2)
    print(f"a word: {judged.text}, log-probability {sum(place.chosen.logprob for place in judged.logprobs):.3f}")
