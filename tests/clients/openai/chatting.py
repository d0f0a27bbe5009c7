"""What the tests of OpenAI's client share: questions with pictures, and the same questions by the native API."""

import base64
import json
import os
import subprocess

import openai
from conftest import QUESTIONS, SAMPLES

MODEL = "tessera-demo"


def is_easy(question: dict) -> bool:
    """Whether the model answers it rightly, at once and with more than a token or two."""
    right = question["reference"] == question["turns"][-1]["answer"]
    return right and len(question["turns"]) == 1 and len(question["images"]) == 1


EASY = next(question for question in QUESTIONS if is_easy(question) and len(question["reference_ids"]) > 6)
OTHER = next(question for question in QUESTIONS if is_easy(question) and question["images"] != EASY["images"])
PAIR = next(question for question in QUESTIONS if len(question["images"]) == 2 and len(question["turns"]) == 1)
TALK = next(
    question
    for question in QUESTIONS
    if len(question["turns"]) > 1 and question["reference"] == question["turns"][-1]["answer"]
)


def client_of(gateway, **options) -> openai.OpenAI:
    """OpenAI's client of a gateway that asks for no key. It tries nothing again unless it is told to."""
    settings = {"base_url": f"{gateway.url}/v1", "api_key": "none", "max_retries": 0, "timeout": 120}
    return openai.OpenAI(**settings | options)


def data_uri(name: str, kind: str = "jpeg") -> str:
    """A sample's picture as a URL that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode((SAMPLES / name).read_bytes()).decode()}"


def image_part(name: str) -> dict:
    """A sample's picture as a part of a message."""
    return {"type": "image_url", "image_url": {"url": data_uri(name)}}


def messages_of(question: dict) -> list[dict]:
    """A question, with the true answers as its history."""
    messages = []
    content = [image_part(name) for name in question["images"]]
    for turn in question["turns"]:
        content.append({"type": "text", "text": turn["question"]})
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": turn["answer"]}]
        content = []
    return messages[:-1]


def asked_of(question: dict, **settings) -> dict:
    """The arguments of `chat.completions.create` that ask a question."""
    return {"model": MODEL, "messages": messages_of(question), "max_tokens": 64, **settings}


def native(gateway, question: dict, *flags: str):
    """What `tessera ask` says of a question of one turn."""
    images = [flag for name in question["images"] for flag in ("--image", str(SAMPLES / name))]
    arguments = ["ask", "--server", gateway.url, "--json", "--max-tokens", "64", *images, *flags]
    return json.loads(run(*arguments, question["turns"][0]["question"]))


def handle_of(gateway, name: str) -> str:
    """The handle of a sample's picture, which is encoded for it."""
    return run("encode", "--server", gateway.url, str(SAMPLES / name)).split()[0]


def run(*arguments: str) -> str:
    """What the program writes."""
    program = os.environ["TESSERA_PROGRAM"]
    return subprocess.run([program, *arguments], check=True, capture_output=True, text=True, timeout=120).stdout
