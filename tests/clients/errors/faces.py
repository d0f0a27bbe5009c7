"""The gateway's faces: each asks the same in a protocol of its own, and says with which kind and reason it was refused."""

import base64
import importlib
import json
import math
import sys
from dataclasses import dataclass, field

import grpc
import httpx
from grpc_tools import protoc
from tessera.errors import TesseraError, from_rpc
from tessera.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from tessera.settings import generation_settings

from conftest import ROOT


@dataclass(frozen=True)
class File:
    """An image by its file."""

    data: bytes


@dataclass(frozen=True)
class Key:
    """An image by its handle: the bytes of it, right or wrong."""

    key: bytes


@dataclass(frozen=True)
class Url:
    """An image by where it is."""

    url: str


@dataclass(frozen=True)
class Asked:
    """A question in no protocol's words. Settings have the names of the native one's Python client."""

    text: str = "What is it?"
    images: list = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    #: What stands for a message with the text and the images, where that is not one of these.
    messages: list | None = None


@dataclass(frozen=True)
class Refused:
    """How a face refused: of an error inside of a stream the kind is not told."""

    kind: str | None
    reason: str


class NotRefused(AssertionError):
    """What should be refused was answered."""


class Native:
    """`tessera.gateway.v1.Gateway`."""

    name = "native"

    def __init__(self, gateway):
        self.channel = grpc.insecure_channel(gateway.address)

    def ask(self, asked: Asked) -> Refused:
        """Asks; the answer is a stream, which fails at its beginning or later."""
        parts = [gateway_pb2.Part(image=self.image(image)) for image in asked.images] + [
            gateway_pb2.Part(text=asked.text)
        ]
        messages = [gateway_pb2.Message(role=gateway_pb2.ROLE_USER, parts=parts)]
        if asked.messages is not None:
            messages = [gateway_pb2.Message(role=gateway_pb2.ROLE_USER, parts=parts) for parts in asked.messages]
        request = gateway_pb2.GenerateRequest(messages=messages, settings=generation_settings(asked.settings))
        return refused(lambda: list(gateway_pb2_grpc.GatewayStub(self.channel).Generate(request, timeout=60)))

    @staticmethod
    def image(image) -> gateway_pb2.Image:
        """The image in this protocol's words."""
        return gateway_pb2.Image(**vars(image))


class OpenAi:
    """`/v1/chat/completions`."""

    name = "openai"
    stream = False

    def __init__(self, gateway):
        self.url = f"{gateway.url}/v1"
        (model,) = httpx.get(f"{self.url}/models", timeout=60).json()["data"]
        self.model = model["id"]

    def ask(self, asked: Asked) -> Refused:
        """Asks; whole, or as server-sent events."""
        content = [*map(self.part, asked.images), {"type": "text", "text": asked.text}]
        messages = [{"role": "user", "content": content}]
        if asked.messages is not None:
            messages = [{"role": "user", "content": parts} for parts in asked.messages]
        body = {"model": self.model, "messages": messages, "stream": self.stream, **self.settings(dict(asked.settings))}
        response = httpx.post(f"{self.url}/chat/completions", json=body, timeout=60)
        error = response.json() if response.status_code != 200 else self.error_of(response.text)
        if "error" not in error:
            raise NotRefused(response.text[:200])
        return Refused(error["error"]["details"]["kind"], error["error"]["code"])

    @staticmethod
    def error_of(events: str) -> dict:
        """The error of a stream, which is an event of it."""
        data = [line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: {")]
        return next((event for event in map(json.loads, data) if "error" in event), {})

    @staticmethod
    def part(image) -> dict:
        """The image in this protocol's words."""
        if isinstance(image, Key):
            return {"type": "image_embedding", "image_embedding": {"handle": image.key.hex()}}
        data = isinstance(image, File) and f"data:image/jpeg;base64,{base64.b64encode(image.data).decode()}"
        return {"type": "image_url", "image_url": {"url": data or image.url}}

    @staticmethod
    def settings(settings: dict) -> dict:
        """The settings in this protocol's words."""
        forms = {form: settings.pop(form) for form in ("json_schema", "regex", "lark", "choices") if form in settings}
        if "json_schema" in forms:
            format_of = {"type": "json_schema", "json_schema": {"name": "it", "schema": forms.pop("json_schema")}}
            settings["response_format"] = format_of
        if forms:
            settings["constraint"] = forms
        if "samples" in settings:
            settings["n"] = settings.pop("samples")
        if "logprobs" in settings:
            settings |= {"logprobs": True, "top_logprobs": settings["logprobs"]}
        if "beams" in settings:
            settings["beam_search"] = {"beams": settings.pop("beams")}
        return settings


class OpenAiStream(OpenAi):
    """The same, streamed."""

    name = "openai, streamed"
    stream = True


class Inference:
    """`inference.GRPCInferenceService`, the Open Inference Protocol: ModelInfer."""

    name = "inference"

    def __init__(self, gateway):
        self.channel = grpc.insecure_channel(gateway.address)
        self.pb2 = importlib.import_module("inference.grpc_service_pb2")
        self.stub = importlib.import_module("inference.grpc_service_pb2_grpc").GRPCInferenceServiceStub(self.channel)
        (model,) = self.stub.RepositoryIndex(self.pb2.RepositoryIndexRequest()).models
        self.model = model.name

    def ask(self, asked: Asked) -> Refused:
        """Asks."""
        return refused(lambda: self.stub.ModelInfer(self.request(asked), timeout=60))

    def request(self, asked: Asked):
        """The question in this protocol's words."""
        tensors = {"text_input": [asked.text.encode()]}
        files = [image.data for image in asked.images if isinstance(image, File)]
        keys = [image.key for image in asked.images if isinstance(image, Key)]
        tensors |= {name: data for name, data in (("image", files), ("image_embedding", keys)) if data}
        request = self.pb2.ModelInferRequest(model_name=self.model)
        settings = self.settings(dict(asked.settings))
        for name, value in settings.items():
            # JSON has no such number; the parameters beside the tensors have.
            if isinstance(value, float) and not math.isfinite(value):
                request.parameters[name].double_param = value
        settings = {name: value for name, value in settings.items() if name not in request.parameters}
        if settings:
            tensors["sampling_parameters"] = [json.dumps(settings).encode()]
        for name, data in tensors.items():
            contents = self.pb2.InferTensorContents(bytes_contents=data)
            request.inputs.add(name=name, datatype="BYTES", shape=[len(data)], contents=contents)
        return request

    @staticmethod
    def settings(settings: dict) -> dict:
        """The settings in this protocol's words."""
        forms = {form: settings.pop(form) for form in ("json_schema", "regex", "lark", "choices") if form in settings}
        if forms:
            settings["constraint"] = forms
        if "beams" in settings:
            settings["beam_search"] = {"beams": settings.pop("beams")}
        return settings


class InferenceStream(Inference):
    """The same: ModelStreamInfer, in which an error is a response."""

    name = "inference, streamed"

    def ask(self, asked: Asked) -> Refused:
        """Asks in a stream that goes on after an error, then in one that ends with it, which tells the kind."""
        responses = list(self.stub.ModelStreamInfer(iter([self.request(asked)]), timeout=60))
        reason, colon, _ = responses[-1].error_message.partition(": ")
        if not colon:
            raise NotRefused(str(responses[-1])[:200])
        ending = (("triton_grpc_error", "true"),)
        ended = refused(
            lambda: list(self.stub.ModelStreamInfer(iter([self.request(asked)]), timeout=60, metadata=ending))
        )
        assert ended.reason == reason, "both ways to tell of an error must tell of the same"
        return ended


FACES = [Native, OpenAi, OpenAiStream, Inference, InferenceStream]


def refused(call) -> Refused:
    """How a call of gRPC fails."""
    try:
        answer = call()
    except grpc.RpcError as failed:
        error: TesseraError = from_rpc(failed)
        return Refused(error.kind.value, error.reason)
    raise NotRefused(str(answer)[:200])


def generate_inference(folder) -> None:
    """Generates messages and stubs of the Open Inference Protocol from the contract, to be imported from a folder."""
    files = [str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto/inference").glob("*.proto")]
    options = [f"--proto_path={ROOT / 'proto'}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    assert protoc.main(["protoc", *options, *files]) == 0
    sys.path.insert(0, str(folder))
