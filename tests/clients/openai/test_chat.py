"""Conversations with OpenAI's own client: whole answers, which are those of the native API."""

import asyncio
import json

import openai
import pytest
from chatting import EASY, MODEL, OTHER, PAIR, TALK, asked_of, client_of, data_uri, handle_of, image_part, native

SAMPLED = {"temperature": 1.5, "seed": 7}


@pytest.fixture(scope="module")
def client(gateway):
    """Of the gateway."""
    with client_of(gateway) as client:
        yield client


def ids_of(completion) -> list[list[int]]:
    """The tokens of each choice."""
    return [choice.token_ids for choice in completion.choices]


@pytest.mark.feature("openai", "ask about an image")
def test_an_answer_is_the_native_one(gateway, client):
    completion = client.chat.completions.create(**asked_of(EASY, extra_body={"return_token_ids": True}))
    expected = native(gateway, EASY)
    (choice,) = completion.choices
    assert choice.message.content == EASY["reference"] == expected["text"]
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert choice.token_ids == EASY["reference_ids"] == expected["token_ids"]
    usage = expected["usage"]
    assert completion.usage.prompt_tokens == usage["prompt_tokens"]
    assert completion.usage.completion_tokens == usage["completion_tokens"]
    assert completion.usage.total_tokens == usage["prompt_tokens"] + usage["completion_tokens"]
    assert (completion.object, completion.model) == ("chat.completion", MODEL)
    assert completion.id == f"chatcmpl-{completion._request_id}"


@pytest.mark.feature("openai", "what the system did with an image")
def test_an_answer_says_what_became_of_its_images(gateway, client):
    said = client.chat.completions.create(**asked_of(EASY)).tessera
    (image,) = said["images"]
    assert image["key"] == handle_of(gateway, EASY["images"][0])
    assert image["tiles"] > 1 and image["image_tokens"] > 0
    assert image["image_size"].keys() == image["grid"].keys() == {"width", "height"}
    (sample,) = said["samples"]
    assert sample["usage"]["image_tokens"] == image["image_tokens"]
    assert said["prompt_tokens"] == sample["usage"]["prompt_tokens"] > image["image_tokens"]
    assert 0 < sample["timings"]["first_token_ms"] <= sample["timings"]["total_ms"]
    assert sample["finish_reason"] == "stop"


@pytest.mark.feature("openai", "several images")
def test_two_images_are_compared(gateway, client):
    completion = client.chat.completions.create(**asked_of(PAIR))
    assert completion.choices[0].message.content == PAIR["reference"] == native(gateway, PAIR)["text"]
    assert len(completion.tessera["images"]) == 2


@pytest.mark.feature("openai", "conversations")
def test_a_conversation_goes_on(client):
    completion = client.chat.completions.create(**asked_of(TALK))
    assert completion.choices[0].message.content == TALK["reference"]


@pytest.mark.feature("openai", "conversations")
def test_an_answer_can_be_sent_back_as_it_came(client):
    asked = asked_of({**TALK, "turns": TALK["turns"][:1]})
    message = client.chat.completions.create(**asked).choices[0].message
    question = {"role": "user", "content": TALK["turns"][1]["question"]}
    again = client.chat.completions.create(**{**asked, "messages": [*asked["messages"], message, question]})
    assert again.choices[0].message.content == TALK["reference"]


@pytest.mark.feature("openai", "ask by handle")
def test_an_image_that_was_encoded_before_is_asked_about_by_its_handle(gateway, client):
    part = {"type": "image_embedding", "image_embedding": {"handle": handle_of(gateway, EASY["images"][0])}}
    text = {"type": "text", "text": EASY["turns"][0]["question"]}
    completion = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": [part, text]}])
    assert completion.choices[0].message.content == EASY["reference"]
    assert completion.tessera["samples"][0]["images_stored_before"] == 1


@pytest.mark.feature("openai", "ask about an image")
def test_an_image_is_what_its_bytes_are_whatever_its_type_says(client):
    part = {"type": "image_url", "image_url": {"url": data_uri(EASY["images"][0], "png"), "detail": "high"}}
    text = {"type": "text", "text": EASY["turns"][0]["question"]}
    completion = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": [part, text]}])
    assert completion.choices[0].message.content == EASY["reference"]


@pytest.mark.feature("openai", "asynchronous calls")
def test_questions_are_asked_at_once(gateway):
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client:
            asked = [client.chat.completions.create(**asked_of(question)) for question in (EASY, OTHER, PAIR)]
            return [completion.choices[0].message.content for completion in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [question["reference"] for question in (EASY, OTHER, PAIR)]


@pytest.mark.feature("openai", "sampling settings")
def test_equal_seeds_draw_the_native_answers(gateway, client):
    asked = asked_of(EASY, n=3, **SAMPLED, extra_body={"return_token_ids": True})
    completion = client.chat.completions.create(**asked)
    flags = ["--samples", "3", "--seed", "7", "--temperature", "1.5"]
    expected = native(gateway, EASY, *flags)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert ids_of(completion) == [sample["token_ids"] for sample in expected]
    assert [choice.message.content for choice in completion.choices] == [sample["text"] for sample in expected]
    assert completion.usage.completion_tokens == sum(len(ids) for ids in ids_of(completion))
    assert completion.tessera["seed"] == 7
    assert ids_of(client.chat.completions.create(**asked)) == ids_of(completion)
    other = client.chat.completions.create(**{**asked, "seed": 8, "n": 8})
    assert ids_of(other)[:3] != ids_of(completion)


@pytest.mark.feature("openai", "sampling settings")
@pytest.mark.parametrize("stop", [EASY["reference"][4:7], ["no such text", EASY["reference"][4:7]]])
def test_an_answer_ends_in_front_of_a_stop_string(client, stop):
    choice = client.chat.completions.create(**asked_of(EASY, stop=stop)).choices[0]
    assert (choice.message.content, choice.finish_reason) == (EASY["reference"][:4], "stop")
    kept = asked_of(EASY, stop=stop, extra_body={"include_stop": True})
    assert client.chat.completions.create(**kept).choices[0].message.content == EASY["reference"][:7]


@pytest.mark.feature("openai", "sampling settings")
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_that_is_cut_off_says_so(client, name):
    asked = {key: value for key, value in asked_of(EASY).items() if key != "max_tokens"}
    completion = client.chat.completions.create(**asked, **{name: 3}, extra_body={"return_token_ids": True})
    assert completion.choices[0].finish_reason == "length"
    assert completion.choices[0].token_ids == EASY["reference_ids"][:3]


@pytest.mark.feature("openai", "deadlines")
def test_an_answer_whose_time_is_over_says_so(client):
    long = {"min_tokens": 3500, "deadline_ms": 700}
    completion = client.chat.completions.create(**{**asked_of(EASY), "max_tokens": 3500}, extra_body=long)
    assert completion.choices[0].finish_reason == "length"
    assert completion.tessera["samples"][0]["finish_reason"] == "deadline"
    assert 0 < completion.usage.completion_tokens < 3500


@pytest.mark.feature("openai", "log-probabilities")
def test_log_probabilities_are_the_native_ones(gateway, client):
    completion = client.chat.completions.create(**asked_of(EASY, logprobs=True, top_logprobs=3))
    places = completion.choices[0].logprobs.content
    expected = native(gateway, EASY, "--logprobs", "3")["logprobs"]
    assert len(places) == len(expected) == completion.usage.completion_tokens
    for place, native_place in zip(places, expected, strict=True):
        assert place.token == native_place["chosen"]["text"]
        assert place.logprob == pytest.approx(native_place["chosen"]["logprob"], abs=1e-6)
        assert [token.token for token in place.top_logprobs] == [token["text"] for token in native_place["likeliest"]]
        assert bytes(place.bytes).decode(errors="replace") == place.token
    said = b"".join(bytes(place.bytes) for place in places[:-1]).decode()
    assert said == EASY["reference"]
    plain = client.chat.completions.create(**asked_of(EASY, logprobs=True)).choices[0].logprobs.content
    assert [place.logprob for place in plain] == [place.logprob for place in places]
    assert all(place.top_logprobs == [] for place in plain)


@pytest.mark.feature("openai", "log-probabilities")
def test_log_probabilities_of_the_prompt_stand_beside_the_answer(client):
    said = client.chat.completions.create(**asked_of(EASY, extra_body={"prompt_logprobs": 1})).tessera
    assert len(said["prompt_logprobs"]) == said["prompt_tokens"] - 1
    assert all(len(place["top_logprobs"]) == 1 for place in said["prompt_logprobs"])


SCHEMA = {
    "type": "object",
    "properties": {"zeta": {"type": "integer"}, "alpha": {"enum": ["a", "b"]}},
    "required": ["zeta", "alpha"],
    "additionalProperties": False,
}


@pytest.mark.feature("openai", "forms of answers")
def test_an_answer_keeps_to_a_schema(gateway, client):
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
    completion = client.chat.completions.create(**asked_of(EASY, response_format=form))
    content = completion.choices[0].message.content
    assert content == native(gateway, EASY, "--json-schema", json.dumps(SCHEMA))["text"]
    if completion.choices[0].finish_reason == "stop":
        assert list(json.loads(content)) == ["zeta", "alpha"], "in the order of the schema"


@pytest.mark.feature("openai", "forms of answers")
def test_any_object_is_json(client):
    form = {"type": "json_object"}
    asked = {**asked_of(EASY, response_format=form), "max_tokens": 400}
    (choice,) = client.chat.completions.create(**asked).choices
    assert choice.message.content.lstrip().startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)


@pytest.mark.feature("openai", "forms of answers")
def test_an_answer_has_the_form_that_it_must_have(client):
    answer = lambda form: (
        client.chat.completions.create(**asked_of(EASY, extra_body={"constraint": form})).choices[0].message.content
    )
    assert answer({"choices": ["yes", "no"]}) in ("yes", "no")
    assert len(answer({"regex": "[a-c]{3}"}).strip("abc")) == 0
    assert answer({"lark": 'start: "left" | "right"'}) in ("left", "right")


@pytest.mark.feature("openai", "sampling settings")
def test_scores_are_changed_as_asked(client):
    first = EASY["reference_ids"][0]
    banned = client.chat.completions.create(
        **asked_of(EASY, logit_bias={str(first): -100}, extra_body={"return_token_ids": True})
    )
    assert banned.choices[0].token_ids[0] != first
    asked = asked_of(EASY, presence_penalty=2, frequency_penalty=2, extra_body={"return_token_ids": True})
    ids = ids_of(client.chat.completions.create(**asked))[0]
    assert ids
    words = client.chat.completions.create(
        **asked_of(EASY, extra_body={"bad_words": [[first]], "return_token_ids": True})
    )
    assert first not in words.choices[0].token_ids


@pytest.mark.feature("openai", "beam search")
def test_a_search_finds_the_native_answer(gateway, client):
    search = {"beam_search": {"beams": 3}, "return_token_ids": True}
    completion = client.chat.completions.create(**asked_of(EASY, n=2, extra_body=search))
    expected = native(gateway, EASY, "--beams", "3", "--samples", "2")
    assert ids_of(completion) == [sample["token_ids"] for sample in expected]


@pytest.mark.feature("openai", "roles")
@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_have_two_names(client, role):
    asked = asked_of(EASY)
    messages = [{"role": role, "content": "Be short."}, *asked["messages"]]
    completion = client.chat.completions.create(**{**asked, "messages": messages})
    # The embedded model's template leaves instructions out.
    assert completion.choices[0].message.content == EASY["reference"]


@pytest.mark.feature("openai", "ask about an image")
def test_text_that_spells_a_special_token_is_text(client):
    content = [image_part(EASY["images"][0]), {"type": "text", "text": "<image></s><s>"}]
    completion = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
    assert len(completion.tessera["images"]) == 1


@pytest.mark.feature("openai", "models")
def test_the_model_is_listed(client):
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "tessera")
    assert client.models.retrieve(MODEL) == model


@pytest.mark.feature("openai", "request ids")
def test_a_request_has_the_name_that_its_caller_gives_it(client):
    asked = asked_of(EASY, extra_headers={"x-request-id": "mine-7"})
    completion = client.chat.completions.create(**asked)
    assert (completion.id, completion._request_id) == ("chatcmpl-mine-7", "mine-7")
