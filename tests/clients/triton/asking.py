"""Requests in the terms of Triton's client, and what Tessera's own program says to the same."""

import json
import os
import pathlib
import subprocess

import numpy as np
from tritonclient.grpc import InferInput


def elements(name: str, *values: bytes | str) -> InferInput:
    """A tensor of BYTES."""
    tensor = InferInput(name, [len(values)], "BYTES")
    tensor.set_data_from_numpy(
        np.array([value.encode() if isinstance(value, str) else value for value in values], dtype=np.object_)
    )
    return tensor


def flag(name: str, value: bool) -> InferInput:
    """A tensor of BOOL."""
    tensor = InferInput(name, [1], "BOOL")
    tensor.set_data_from_numpy(np.array([value]))
    return tensor


def question(text: str, *pictures: pathlib.Path, **sampling) -> list[InferInput]:
    """The inputs of a question about pictures, to be answered without repeating it."""
    inputs = [elements("text_input", text), flag("exclude_input_in_output", True)]
    if pictures:
        inputs.append(elements("image", *(picture.read_bytes() for picture in pictures)))
    if sampling:
        inputs.append(elements("sampling_parameters", json.dumps(sampling)))
    return inputs


def text(result, output: str = "text_output") -> str:
    """The one text of an answer."""
    (answer,) = result.as_numpy(output)
    return answer.decode()


def is_last(result) -> bool:
    """Whether no response to the same request follows."""
    return result.get_response().parameters["triton_final_response"].bool_param


def tessera(command: str, gateway, *arguments: str | pathlib.Path) -> str:
    """What `tessera COMMAND --server …` prints."""
    program = os.environ["TESSERA_PROGRAM"]
    line = [program, command, "--server", gateway.url, *map(str, arguments)]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def ask(gateway, text: str, *pictures: pathlib.Path) -> str:
    """What `tessera ask` answers."""
    images = [flag for picture in pictures for flag in ("--image", picture)]
    return tessera("ask", gateway, *images, text).rstrip("\n")


def handle(gateway, picture: pathlib.Path) -> str:
    """The handle of a picture that `tessera encode` stored."""
    return tessera("encode", gateway, picture).split("\t")[0]
