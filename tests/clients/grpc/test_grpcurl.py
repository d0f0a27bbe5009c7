"""grpcurl, the program that people try a gRPC server with."""

import base64
import json
import subprocess

import pytest
from asking import EASY, image_of

ANSWER = EASY["turns"][0]["answer"]


def grpcurl(*arguments: str, given: str = "") -> subprocess.CompletedProcess:
    """Runs it to its end."""
    return subprocess.run(
        ["grpcurl", "-plaintext", *arguments], input=given, capture_output=True, text=True, timeout=60
    )


def objects(text: str) -> list[dict]:
    """The JSON objects that stand one after the other."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def question() -> dict:
    """A question with its image, as JSON has it."""
    image = base64.b64encode(image_of(EASY)).decode()
    parts = [{"image": {"data": image}}, {"text": EASY["turns"][0]["question"]}]
    return {"messages": [{"role": "ROLE_USER", "parts": parts}]}


@pytest.mark.feature("grpcurl", "reflection")
def test_it_lists_the_services(gateway):
    listed = grpcurl(gateway.address, "list")
    assert listed.returncode == 0, listed.stderr
    assert {"tessera.gateway.v1.Gateway", "tessera.embedding.v1.EmbeddingStore"} <= set(listed.stdout.split())
    assert "LanguageWorker" not in listed.stdout


@pytest.mark.feature("grpcurl", "reflection")
def test_it_describes_methods_and_messages_with_their_comments(gateway):
    described = grpcurl(gateway.address, "describe", "tessera.gateway.v1.Gateway.Generate")
    assert "returns ( stream .tessera.gateway.v1.GenerateResponse )" in described.stdout, described.stderr
    message = grpcurl(gateway.address, "describe", "tessera.gateway.v1.GenerationSettings")
    assert "optional float temperature = 2;" in message.stdout
    assert "0: greedy." in message.stdout
    template = grpcurl("-msg-template", gateway.address, "describe", "tessera.gateway.v1.GenerateRequest")
    assert '"messages"' in template.stdout


@pytest.mark.feature("grpcurl", "stream an answer")
def test_it_asks_about_an_image_that_comes_with_the_standard_input(gateway):
    answered = grpcurl("-d", "@", gateway.address, "tessera.gateway.v1.Gateway/Generate", given=json.dumps(question()))
    assert answered.returncode == 0, answered.stderr
    events = objects(answered.stdout)
    assert "".join(event.get("delta", {}).get("text", "") for event in events) == ANSWER
    assert events[-1]["finished"]["reason"] == "FINISH_REASON_STOP"


@pytest.mark.feature("grpcurl", "ask by handle")
def test_it_encodes_an_image_and_asks_by_the_handle(gateway):
    image = base64.b64encode(image_of(EASY)).decode()
    request = json.dumps({"image": image, "leaseSeconds": "60"})
    encoded = grpcurl("-d", "@", gateway.address, "tessera.gateway.v1.Gateway/Encode", given=request)
    key = objects(encoded.stdout)[0]["encoded"]["image"]["key"]
    asked = question()
    asked["messages"][0]["parts"][0] = {"image": {"key": key}}
    answered = grpcurl("-d", json.dumps(asked), gateway.address, "tessera.gateway.v1.Gateway/Generate")
    assert "".join(event.get("delta", {}).get("text", "") for event in objects(answered.stdout)) == ANSWER


@pytest.mark.feature("grpcurl", "encode many images in a stream")
def test_it_encodes_images_over_one_stream(gateway):
    requests = [{"id": "good", "image": base64.b64encode(image_of(EASY)).decode()}, {"id": "bad", "image": "AAAA"}]
    given = "\n".join(map(json.dumps, requests))
    encoded = grpcurl("-d", "@", gateway.address, "tessera.gateway.v1.Gateway/EncodeBatch", given=given)
    answers = {answer["id"]: answer for answer in objects(encoded.stdout)}
    assert answers["good"]["encoded"]["image"]["tiles"] > 1
    assert answers["bad"]["failure"]["reason"] == "IMAGE_FORMAT_UNKNOWN"


@pytest.mark.feature("grpcurl", "errors with their reasons")
def test_it_shows_why_a_call_failed(gateway):
    asked = question() | {"settings": {"topP": 1.5}}
    failed = grpcurl("-d", "@", gateway.address, "tessera.gateway.v1.Gateway/Generate", given=json.dumps(asked))
    assert failed.returncode != 0
    for part in (
        "Code: InvalidArgument",
        "settings.top_p",
        "VALUE_OUT_OF_RANGE",
        "google.rpc.ErrorInfo",
        "google.rpc.BadRequest",
    ):
        assert part in failed.stderr, failed.stderr


@pytest.mark.feature("grpcurl", "deadlines")
def test_its_deadline_ends_an_answer(gateway):
    asked = question() | {"settings": {"maxTokens": 30000, "ignoreEnd": True}}
    ended = grpcurl(
        "-max-time", "1.5", "-d", "@", gateway.address, "tessera.gateway.v1.Gateway/Generate", given=json.dumps(asked)
    )
    assert "FINISH_REASON_DEADLINE" in ended.stdout or "DeadlineExceeded" in ended.stderr, ended.stderr


@pytest.mark.feature("grpcurl", "health")
def test_it_asks_for_health(gateway):
    health = grpcurl("-d", '{"service": "tessera.gateway.v1.Gateway"}', gateway.address, "grpc.health.v1.Health/Check")
    assert objects(health.stdout) == [{"status": "SERVING"}]
