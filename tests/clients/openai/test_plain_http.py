"""What has no method in OpenAI's client: tokens, health, the document; and the stream as it is written."""

import json

import httpx
import pytest
from chatting import EASY, MODEL, asked_of, messages_of
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

TEXT = "[INST]What?[/INST]</s>"


@pytest.fixture(scope="module")
def http(gateway):
    """Of the gateway."""
    with httpx.Client(base_url=gateway.url, timeout=120) as http:
        yield http


@pytest.mark.feature("httpx", "count tokens")
def test_a_prompt_is_tokenized_and_its_tokens_are_its_text(http):
    said = http.post("/tokenize", json={"model": MODEL, "prompt": TEXT, "return_token_strs": True}).json()
    assert said["count"] == len(said["tokens"]) == len(said["token_strs"])
    assert said["max_model_len"] == 4096
    assert "".join(said["token_strs"]) == f"<s>{TEXT}"
    assert http.post("/detokenize", json={"tokens": said["tokens"]}).json() == {"prompt": f"<s>{TEXT}"}


@pytest.mark.feature("httpx", "count tokens")
def test_a_conversation_has_as_many_tokens_as_its_answer_says(http):
    messages = messages_of(EASY)
    said = http.post("/tokenize", json={"model": MODEL, "messages": messages}).json()
    answer = http.post("/v1/chat/completions", json=asked_of(EASY)).json()
    assert said["count"] == len(said["tokens"]) == answer["usage"]["prompt_tokens"]
    (image,) = answer["tessera"]["images"]
    image_token = max(set(said["tokens"]), key=said["tokens"].count)
    assert said["tokens"].count(image_token) == image["image_tokens"]
    assert said["token_strs"] is None


@pytest.mark.feature("httpx", "count tokens")
@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "FIELD_MISSING", "prompt"),
        ({"prompt": "a", "messages": []}, "INPUT_CONFLICT", "prompt"),
        ({"prompt": "a", "add_special_tokens": False}, "FIELD_UNSUPPORTED", "add_special_tokens"),
        ({"prompt": "<image>"}, "PROMPT_IMAGE_COUNT", "images"),
    ],
)
def test_what_cannot_be_tokenized_is_refused(http, body, code, param):
    response = http.post("/tokenize", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)


@pytest.mark.feature("httpx", "count tokens")
def test_what_is_no_token_has_no_text(http):
    response = http.post("/detokenize", json={"tokens": [1, 10**9]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tokens[1]")


@pytest.mark.feature("httpx", "health and version")
def test_the_gateway_says_that_it_is_there(http):
    assert http.get("/health").status_code == 200
    assert http.get("/version").json()["version"].count(".") == 2


@pytest.mark.feature("httpx", "OpenAPI document")
def test_the_document_is_one_of_openapi(http):
    response = http.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    validate(document, cls=OpenAPIV31SpecValidator)
    assert document["openapi"].startswith("3.1.")
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert all(field.get("description") or "$ref" in field for field in fields.values())


@pytest.mark.feature("httpx", "OpenAPI document")
def test_requests_and_answers_are_what_the_document_says(http):
    from openapi_schema_validator import OAS31Validator

    document = http.get("/openapi.json").json()

    def check(schema: dict, value: dict) -> None:
        OAS31Validator({**schema, "components": document["components"]}).validate(value)

    def content(path: str, part: str) -> dict:
        operation = document["paths"][path]["post"]
        return (operation["requestBody"] if part == "request" else operation["responses"]["200"])["content"]

    asked = asked_of(EASY, logprobs=True, top_logprobs=1, seed=1, stop=["x"], extra_body=None)
    del asked["extra_body"]
    check(content("/v1/chat/completions", "request")["application/json"]["schema"], asked)
    answer = http.post("/v1/chat/completions", json=asked).json()
    check(content("/v1/chat/completions", "response")["application/json"]["schema"], answer)
    with http.stream("POST", "/v1/chat/completions", json={**asked, "stream": True}) as response:
        for data in (line[6:] for line in response.iter_lines() if line.startswith("data: {")):
            check(content("/v1/chat/completions", "response")["text/event-stream"]["schema"], json.loads(data))
    completion = http.post(
        "/v1/completions", json={"model": MODEL, "prompt": "Hello", "logprobs": 1, "max_tokens": 3}
    ).json()
    check(content("/v1/completions", "response")["application/json"]["schema"], completion)
    tokens = http.post("/tokenize", json={"prompt": "Hello"}).json()
    check(content("/tokenize", "response")["application/json"]["schema"], tokens)
    failed = http.post("/tokenize", json={}).json()
    check(document["components"]["responses"]["Failed"]["content"]["application/json"]["schema"], failed)


@pytest.mark.feature("httpx", "server-sent events")
def test_a_stream_is_events_and_ends_with_done(http):
    with http.stream("POST", "/v1/chat/completions", json={**asked_of(EASY), "stream": True}) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-cache"
        text = response.read().decode()
    events = text.split("\n\n")
    assert events[-1] == "" and events[-2] == "data: [DONE]"
    assert all(event.startswith("data: {") and "\n" not in event for event in events[:-2])


@pytest.mark.feature("httpx", "bodies that are no requests")
@pytest.mark.parametrize(
    ("content", "kind", "code"),
    [
        (b"{", "application/json", "JSON_MALFORMED"),
        (b"{}", "text/plain", "CONTENT_TYPE_UNSUPPORTED"),
        (b'{"model": 1}', "application/json", "VALUE_INVALID"),
    ],
)
def test_bodies_that_are_no_requests_are_refused(http, content, kind, code):
    response = http.post("/v1/chat/completions", content=content, headers={"content-type": kind})
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


@pytest.mark.feature("httpx", "bodies that are no requests")
def test_a_body_that_is_too_large_is_refused(http):
    body = b" " * (128 * 1024 * 1024 * 4 // 3 + 1)
    response = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "MESSAGE_TOO_LARGE")
