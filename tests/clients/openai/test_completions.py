"""Prompts without a template, with OpenAI's own client."""

import openai
import pytest
from chatting import EASY, MODEL, client_of, handle_of, image_part, messages_of

QUESTION = EASY["turns"][0]["question"]
# What the embedded model's chat template makes of the question; the tokenizer puts the start token in front.
PROMPT = f"[INST]<image>{QUESTION}[/INST]"


@pytest.fixture(scope="module")
def client(gateway):
    """Of the gateway."""
    with client_of(gateway) as client:
        yield client


def complete(client, prompt=PROMPT, images=(), **settings):
    """Continues a prompt with the images that stand in it."""
    extra = settings.pop("extra_body", {})
    if images:
        extra = {**extra, "images": list(images)}
    return client.completions.create(
        model=MODEL, prompt=prompt, max_tokens=settings.pop("max_tokens", 64), extra_body=extra, **settings
    )


@pytest.mark.feature("openai", "prompts as they are")
def test_a_prompt_is_continued_as_the_conversation_would_be(client):
    extra = {"return_token_ids": True}
    chat = client.chat.completions.create(model=MODEL, messages=messages_of(EASY), max_tokens=64, extra_body=extra)
    completion = complete(client, images=[image_part(EASY["images"][0])], extra_body=extra)
    (choice,) = completion.choices
    assert choice.text == chat.choices[0].message.content == EASY["reference"]
    assert choice.token_ids == chat.choices[0].token_ids
    assert (choice.finish_reason, completion.object) == ("stop", "text_completion")
    assert completion.usage.prompt_tokens == chat.usage.prompt_tokens
    assert completion.id.startswith("cmpl-")
    assert completion.tessera["images"] == chat.tessera["images"]


@pytest.mark.feature("openai", "prompts as they are")
def test_a_prompt_takes_handles_and_an_array_of_one_text(gateway, client):
    part = {"type": "image_embedding", "image_embedding": {"handle": handle_of(gateway, EASY["images"][0])}}
    assert complete(client, [PROMPT], [part]).choices[0].text == EASY["reference"]


@pytest.mark.feature("openai", "prompts as they are")
def test_special_tokens_in_a_prompt_are_special(client):
    once = complete(client, "Hello", max_tokens=1).usage.prompt_tokens
    assert complete(client, "Hello</s>", max_tokens=1).usage.prompt_tokens == once + 1


@pytest.mark.feature("openai", "prompts as they are")
def test_a_continuation_is_streamed(client):
    images = [image_part(EASY["images"][0])]
    chunks = list(complete(client, images=images, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == EASY["reference"]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert chunks[0].tessera["images"] and chunks[-1].tessera["samples"]


@pytest.mark.feature("openai", "prompts as they are")
def test_log_probabilities_are_four_lists(client):
    images = [image_part(EASY["images"][0])]
    places = complete(client, images=images, logprobs=2).choices[0].logprobs
    length = len(places.tokens)
    assert length == len(places.token_logprobs) == len(places.top_logprobs) == len(places.text_offset)
    assert all(0 < len(top) <= 2 for top in places.top_logprobs)
    assert "".join(places.tokens[:-1]) == EASY["reference"]
    assert places.text_offset == [len("".join(places.tokens[:index])) for index in range(length)]
    streamed = [
        choice.logprobs
        for chunk in complete(client, images=images, logprobs=2, stream=True)
        for choice in chunk.choices
    ]
    streamed = [part for part in streamed if part]
    assert [token for part in streamed for token in part.tokens] == places.tokens
    assert [offset for part in streamed for offset in part.text_offset] == places.text_offset


@pytest.mark.feature("openai", "sampling settings")
def test_several_continuations_are_drawn(client):
    settings = {"n": 2, "temperature": 1.5, "seed": 3, "images": [image_part(EASY["images"][0])]}
    texts = [choice.text for choice in complete(client, **settings).choices]
    assert len(texts) == 2
    assert [choice.text for choice in complete(client, **settings).choices] == texts


WRONG = [
    ({"prompt": [1, 2, 3]}, "TOKEN_PROMPT_UNSUPPORTED", "prompt[0]"),
    ({"prompt": ["a", "b"]}, "PROMPTS_UNSUPPORTED", "prompt"),
    ({"echo": True}, "FIELD_UNSUPPORTED", "echo"),
    ({"suffix": "a"}, "FIELD_UNSUPPORTED", "suffix"),
    ({"best_of": 2}, "FIELD_UNSUPPORTED", "best_of"),
    ({"logprobs": 21}, "VALUE_OUT_OF_RANGE", "logprobs"),
    ({"prompt": "<image>"}, "PROMPT_IMAGE_COUNT", "images"),
    ({"prompt": "word " * 9000}, "PROMPT_TOO_LONG", "prompt"),
    (
        {
            "prompt": "<image>",
            "extra_body": {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        },
        "IMAGE_FORMAT_UNKNOWN",
        "images[0].image_url",
    ),
]


@pytest.mark.feature("openai", "errors with their reasons")
@pytest.mark.parametrize(("asked", "code", "param"), WRONG, ids=[f"{code}-{param}" for _, code, param in WRONG])
def test_what_cannot_be_had_is_refused_by_its_name(client, asked, code, param):
    with pytest.raises(openai.BadRequestError) as failed:
        client.completions.create(**{"model": MODEL, "prompt": "a", **asked})
    assert (failed.value.code, failed.value.param) == (code, param), failed.value.message
