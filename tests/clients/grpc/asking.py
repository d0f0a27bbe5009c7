"""What the suite asks: of plain grpcio, with the messages that are generated from the contract."""

import grpc
from conftest import QUESTIONS, SAMPLES
from tessera.gateway.v1 import gateway_pb2, gateway_pb2_grpc

# A question that the embedded model answers rightly.
EASY = next(question for question in QUESTIONS if question["kind"] == "colour")


def image_of(question: dict) -> bytes:
    """The bytes of a question's first image."""
    return (SAMPLES / question["images"][0]).read_bytes()


def request_of(question: dict = EASY, **settings) -> gateway_pb2.GenerateRequest:
    """The request of a question of the sample."""
    parts = [
        gateway_pb2.Part(image=gateway_pb2.Image(data=image_of(question))),
        gateway_pb2.Part(text=question["turns"][0]["question"]),
    ]
    message = gateway_pb2.Message(role=gateway_pb2.ROLE_USER, parts=parts)
    return gateway_pb2.GenerateRequest(messages=[message], settings=gateway_pb2.GenerationSettings(**settings))


def long_request() -> gateway_pb2.GenerateRequest:
    """An answer that takes longer than any test."""
    return request_of(max_tokens=30_000, ignore_end=True)


def text_of(responses) -> str:
    """The text of a stream of events."""
    return "".join(response.delta.text for response in responses)


def stub_of(channel: grpc.Channel) -> gateway_pb2_grpc.GatewayStub:
    """The stub of the gateway."""
    return gateway_pb2_grpc.GatewayStub(channel)
