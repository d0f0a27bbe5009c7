"""What is refused, and what OpenAI's own client raises for it."""

import socket

import openai
import pytest
from chatting import EASY, MODEL, asked_of, client_of, data_uri

TEXT = {"type": "text", "text": "What?"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def client(gateway):
    """Of the gateway."""
    with client_of(gateway) as client:
        yield client


def said(*parts: dict) -> dict:
    """The arguments that say and show this."""
    return {"model": MODEL, "messages": [{"role": "user", "content": list(parts)}]}


def shown(url: str, **detail) -> dict:
    """The same with an image at a URL."""
    return said(TEXT, {"type": "image_url", "image_url": {"url": url, **detail}})


URL = "messages[0].content[1].image_url"
WRONG = [
    ({"tools": [TOOL]}, "FIELD_UNSUPPORTED", "tools"),
    ({"tool_choice": "none"}, "FIELD_UNSUPPORTED", "tool_choice"),
    ({"parallel_tool_calls": False}, "FIELD_UNSUPPORTED", "parallel_tool_calls"),
    ({"functions": [{"name": "f"}]}, "FIELD_UNSUPPORTED", "functions"),
    ({"audio": {"voice": "alloy", "format": "wav"}}, "FIELD_UNSUPPORTED", "audio"),
    ({"modalities": ["text", "audio"]}, "FIELD_UNSUPPORTED", "modalities"),
    ({"store": True}, "FIELD_UNSUPPORTED", "store"),
    ({"metadata": {"a": "b"}}, "FIELD_UNSUPPORTED", "metadata"),
    ({"reasoning_effort": "low"}, "FIELD_UNSUPPORTED", "reasoning_effort"),
    ({"verbosity": "low"}, "FIELD_UNSUPPORTED", "verbosity"),
    ({"web_search_options": {}}, "FIELD_UNSUPPORTED", "web_search_options"),
    ({"service_tier": "flex"}, "FIELD_UNSUPPORTED", "service_tier"),
    ({"prediction": {"type": "content", "content": "a"}}, "FIELD_UNSUPPORTED", "prediction"),
    ({"extra_body": {"top_q": 1}}, "FIELD_UNKNOWN", "top_q"),
    ({"extra_body": {"guided_regex": "a"}}, "FIELD_UNKNOWN", "guided_regex"),
    ({"n": 2}, "SETTINGS_CONFLICT", "n"),
    ({"n": 65, "temperature": 1}, "VALUE_OUT_OF_RANGE", "n"),
    ({"temperature": -1}, "VALUE_OUT_OF_RANGE", "temperature"),
    ({"top_p": 1.5}, "VALUE_OUT_OF_RANGE", "top_p"),
    ({"extra_body": {"min_p": 7}}, "VALUE_OUT_OF_RANGE", "min_p"),
    ({"stop": ["a"] * 17}, "VALUE_OUT_OF_RANGE", "stop"),
    ({"stop": ""}, "STOP_EMPTY", "stop[0]"),
    ({"top_logprobs": 2}, "SETTINGS_CONFLICT", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "VALUE_OUT_OF_RANGE", "top_logprobs"),
    ({"max_tokens": None, "max_completion_tokens": 0}, "VALUE_OUT_OF_RANGE", "max_completion_tokens"),
    ({"stream_options": {"include_usage": True}}, "SETTINGS_CONFLICT", "stream_options"),
    ({"extra_body": {"min_tokens": 5, "max_tokens": 4}}, "VALUE_OUT_OF_RANGE", "min_tokens"),
    ({"extra_body": {"ignore_end": True, "constraint": {"regex": "a"}}}, "SETTINGS_CONFLICT", "ignore_end"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nothing"}}}},
        "CONSTRAINT_INVALID",
        "response_format.json_schema.schema",
    ),
    ({"extra_body": {"constraint": {"regex": "("}}}, "CONSTRAINT_INVALID", "constraint.regex"),
    ({"messages": []}, "FIELD_MISSING", "messages"),
    ({"messages": [{"role": "tool", "content": "a", "tool_call_id": "b"}]}, "VALUE_INVALID", "messages[0].role"),
    ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "FIELD_UNSUPPORTED", "messages[0].name"),
    ({"messages": [{"role": "user", "content": []}]}, "PROMPT_EMPTY", "messages"),
    ({"messages": [{"role": "user", "content": "word " * 9000}]}, "PROMPT_TOO_LONG", "messages"),
    (
        said({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}),
        "VALUE_INVALID",
        "messages[0].content[0].type",
    ),
    (shown(data_uri(EASY["images"][0]), detail="low"), "FIELD_UNSUPPORTED", f"{URL}.detail"),
    (shown("data:image/png;base64,!"), "IMAGE_DATA_INVALID", f"{URL}.url"),
    (shown("data:image/png;base64,AAAAAAAAAAAAAAAA"), "IMAGE_FORMAT_UNKNOWN", URL),
    (shown("file:///etc/passwd"), "URL_INVALID", f"{URL}.url"),
    (
        said(*[{"type": "image_url", "image_url": {"url": data_uri(EASY["images"][0])}}] * 17),
        "TOO_MANY_IMAGES",
        "messages",
    ),
]


@pytest.mark.feature("openai", "errors with their reasons")
@pytest.mark.parametrize(("asked", "code", "param"), WRONG, ids=[f"{code}-{param}" for _, code, param in WRONG])
def test_what_cannot_be_had_is_refused_by_its_name(client, asked, code, param):
    with pytest.raises(openai.BadRequestError) as failed:
        client.chat.completions.create(**{**asked_of(EASY), **asked})
    error = failed.value
    assert (error.code, error.param, error.type) == (code, param, "invalid_request_error"), error.message
    assert error.body["message"].startswith(f"{param}: ")
    assert error.body["details"]["kind"] == "Invalid"
    assert error.body["details"]["fields"][0]["field"] == param


@pytest.mark.feature("openai", "errors with their reasons")
def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as failed:
        client.chat.completions.create(**{**asked_of(EASY), "model": "gpt-4o"})
    assert (failed.value.code, failed.value.param) == ("MODEL_NOT_FOUND", "model")
    assert failed.value.body["details"]["metadata"] == {"served": MODEL}
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("some/other-model")


@pytest.mark.feature("openai", "errors with their reasons")
def test_what_is_not_served_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as failed:
        client.embeddings.create(model=MODEL, input="a")
    assert failed.value.code == "ENDPOINT_UNKNOWN"


@pytest.mark.feature("openai", "errors with their reasons")
def test_a_handle_of_nothing_is_not_found(client):
    handle = "0" * 64
    part = {"type": "image_embedding", "image_embedding": {"handle": handle}}
    with pytest.raises(openai.NotFoundError) as failed:
        client.chat.completions.create(**said(TEXT, part))
    assert failed.value.code == "EMBEDDING_NOT_FOUND"
    field = "messages[0].content[1].image_embedding"
    assert failed.value.body["details"]["metadata"] == {"key": handle, "field": field}
    assert failed.value.body["message"].startswith(f"{field}: ")


@pytest.mark.feature("openai", "errors with their reasons")
def test_images_are_fetched_only_where_the_gateway_is_set_up_to(client):
    with pytest.raises(openai.APIStatusError) as failed:
        client.chat.completions.create(**shown("https://example.com/a.png"))
    assert (failed.value.status_code, failed.value.code) == (412, "URLS_DISABLED")
    assert failed.value.body["message"].startswith("messages[0].content[1].image_url: ")


@pytest.mark.feature("openai", "errors in a stream")
def test_an_error_after_the_answer_began_is_raised_from_its_stream(client):
    stream = client.chat.completions.create(**asked_of(EASY, stream=True, extra_body={"constraint": {"regex": "("}}))
    with pytest.raises(openai.APIError) as failed:
        list(stream)
    assert (failed.value.code, failed.value.param) == ("CONSTRAINT_INVALID", "constraint.regex")
    assert not isinstance(failed.value, openai.APIStatusError)


@pytest.mark.feature("openai", "errors in a stream")
def test_what_is_wrong_before_the_answer_begins_has_a_status(client):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**asked_of(EASY, stream=True, top_p=7))


@pytest.mark.feature("openai", "errors with their reasons")
def test_a_gateway_that_is_not_there_is_a_connection_error(gateway):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        with client_of(gateway, base_url=url) as client, pytest.raises(openai.APIConnectionError):
            client.models.list()


@pytest.mark.feature("openai", "deadlines")
def test_a_client_that_waits_no_longer_raises_and_leaves_nothing_behind(gateway, client):
    long = {**asked_of(EASY), "max_tokens": 3500, "extra_body": {"min_tokens": 3500}}
    with client_of(gateway, timeout=0.3) as hasty, pytest.raises(openai.APITimeoutError):
        hasty.chat.completions.create(**long)
    assert client.chat.completions.create(**asked_of(EASY)).choices[0].message.content == EASY["reference"]


@pytest.mark.feature("openai", "retries")
def test_what_is_wrong_is_not_tried_again(gateway):
    seen = []

    class Counting(openai.OpenAI):
        def _prepare_request(self, request):
            seen.append(request.url.path)
            return super()._prepare_request(request)

    with Counting(base_url=f"{gateway.url}/v1", api_key="none", max_retries=2) as counting:
        with pytest.raises(openai.BadRequestError):
            counting.chat.completions.create(**asked_of(EASY, top_p=7))
        with pytest.raises(openai.NotFoundError):
            counting.models.retrieve("other")
    assert len(seen) == 2
