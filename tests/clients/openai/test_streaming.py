"""Answers as they are made, with OpenAI's own client."""

import asyncio
import time

import openai
import pytest
from chatting import EASY, MODEL, asked_of, client_of, run

LONG = {"min_tokens": 3500}


@pytest.fixture(scope="module")
def client(gateway):
    """Of the gateway."""
    with client_of(gateway) as client:
        yield client


def texts_of(chunks) -> dict[int, str]:
    """What each choice says."""
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts


@pytest.mark.feature("openai", "stream an answer")
def test_a_streamed_answer_is_the_whole_one(client):
    extra = {"return_token_ids": True}
    whole = client.chat.completions.create(**asked_of(EASY, extra_body=extra))
    chunks = list(client.chat.completions.create(**asked_of(EASY, stream=True, extra_body=extra)))
    assert texts_of(chunks) == {0: whole.choices[0].message.content}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    ids = [id for chunk in chunks for id in getattr(chunk.choices[0], "token_ids", None) or []]
    assert ids == whole.choices[0].token_ids
    assert len(chunks) > 4, "it comes in pieces"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.feature("openai", "what the system did with an image")
def test_the_first_and_the_last_chunk_say_what_the_system_did(client):
    chunks = list(client.chat.completions.create(**asked_of(EASY, stream=True)))
    first, *between, last = [getattr(chunk, "tessera", None) for chunk in chunks]
    assert first["images"][0]["tiles"] > 1 and first["prompt_tokens"] > 0 and "samples" not in first
    assert not any(between)
    assert last["samples"][0]["finish_reason"] == "stop" and "images" not in last


@pytest.mark.feature("openai", "stream usage")
def test_usage_comes_in_a_last_chunk_if_it_is_asked_for(client):
    usage = client.chat.completions.create(**asked_of(EASY)).usage
    chunks = list(client.chat.completions.create(**asked_of(EASY, stream=True, stream_options={"include_usage": True})))
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (
        usage.prompt_tokens,
        usage.completion_tokens,
    )
    assert all(chunk.usage is None and chunk.choices for chunk in chunks[:-1])
    assert chunks[-1].tessera["samples"]


@pytest.mark.feature("openai", "several answers")
def test_several_answers_share_a_stream(client):
    asked = asked_of(EASY, n=3, temperature=1.5, seed=7)
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert texts_of(chunks) == {choice.index: choice.message.content for choice in whole.choices}
    ends = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(ends) == [0, 1, 2]
    assert [sample["index"] for sample in chunks[-1].tessera["samples"]] == [0, 1, 2]


@pytest.mark.feature("openai", "log-probabilities")
def test_log_probabilities_are_streamed(client):
    asked = asked_of(EASY, logprobs=True, top_logprobs=2)
    whole = client.chat.completions.create(**asked).choices[0].logprobs.content
    chunks = client.chat.completions.create(**asked, stream=True)
    streamed = [
        place for chunk in chunks for choice in chunk.choices if choice.logprobs for place in choice.logprobs.content
    ]
    assert [(place.token, place.logprob, place.bytes) for place in streamed] == [
        (place.token, place.logprob, place.bytes) for place in whole
    ]


@pytest.mark.feature("openai", "log-probabilities")
def test_log_probabilities_of_the_prompt_come_in_chunks_of_their_own(client):
    extra = {"prompt_logprobs": 0}
    chunks = list(client.chat.completions.create(**asked_of(EASY, stream=True, extra_body=extra)))
    places = [place for chunk in chunks for place in (getattr(chunk, "tessera", None) or {}).get("prompt_logprobs", [])]
    assert len(places) == chunks[0].tessera["prompt_tokens"] - 1
    assert texts_of(chunks) == {0: EASY["reference"]}


@pytest.mark.feature("openai", "sampling settings")
def test_a_stop_string_ends_a_stream(client):
    stream = client.chat.completions.create(**asked_of(EASY, stream=True, stop=EASY["reference"][4:7]))
    assert texts_of(stream) == {0: EASY["reference"][:4]}


@pytest.mark.feature("openai", "deadlines")
def test_a_stream_ends_at_its_deadline(client):
    extra = {**LONG, "deadline_ms": 700}
    chunks = list(
        client.chat.completions.create(**{**asked_of(EASY), "max_tokens": 3500}, stream=True, extra_body=extra)
    )
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].tessera["samples"][0]["finish_reason"] == "deadline"


@pytest.mark.feature("openai", "asynchronous calls")
def test_answers_are_streamed_at_once(gateway):
    async def read(client, seed: int) -> str:
        stream = await client.chat.completions.create(**asked_of(EASY, stream=True, temperature=1.5, seed=seed))
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client:
            return await asyncio.gather(*(read(client, seed % 4) for seed in range(8)))

    texts = asyncio.run(ask())
    assert texts[:4] == texts[4:]


@pytest.mark.feature("openai", "cancel")
def test_whoever_leaves_a_stream_frees_what_it_held(gateway, client):
    """Sixteen answers of thousands of tokens, none of which anybody waits for."""
    asked = {**asked_of(EASY), "max_tokens": 3500, "stream": True, "extra_body": LONG}
    for _ in range(16):
        with client.chat.completions.create(**asked) as stream:
            assert next(iter(stream)).choices
            assert next(iter(stream)).choices
    began = time.monotonic()
    completion = client.chat.completions.create(**asked_of(EASY))
    assert completion.choices[0].message.content == EASY["reference"]
    assert time.monotonic() - began < 20
    assert completion.tessera["samples"][0]["timings"]["queue_ms"] < 10_000


@pytest.mark.feature("openai", "beside the native API")
def test_the_native_api_goes_on_beside_a_stream(gateway, client):
    with client.chat.completions.create(**asked_of(EASY, stream=True)) as stream:
        assert next(iter(stream)).model == MODEL
        assert run("ask", "--server", gateway.url, "Hello!").strip()
