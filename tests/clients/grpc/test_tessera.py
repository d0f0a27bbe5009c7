"""The Python package against the gateway, blocking."""

import datetime
import io
import json

import pytest
import tessera
from asking import EASY
from conftest import QUESTIONS, SAMPLES
from PIL import Image
from tessera.settings import generate_request

QUESTION, ANSWER = EASY["turns"][0]["question"], EASY["turns"][0]["answer"]
WITH_IMAGES = [question for question in QUESTIONS if question["images"]]
PATH = SAMPLES / EASY["images"][0]
CLIENT = "tessera (Python)"


@pytest.fixture
def client(gateway):
    """A client of the suite's gateway."""
    with tessera.Client(gateway.url, timeout=60) as client:
        yield client


@pytest.mark.feature(CLIENT, "stream an answer")
def test_an_answer_comes_in_pieces_and_tells_what_it_took(client):
    question = next(question for question in QUESTIONS if question["kind"] == "describe")
    answer = client.ask(question["turns"][0]["question"], [SAMPLES / question["images"][0]], request_id="mine")
    (image,) = answer.images
    assert (answer.request_id, image.tiles, image.image_tokens > 100) == ("mine", 5, True)
    pieces = list(answer)
    assert len(pieces) > 1
    assert "".join(pieces) == answer.text == question["reference"]
    assert answer.reason == "stop"
    assert answer.usage.prompt_tokens == answer.prompt_tokens > answer.usage.image_tokens == image.image_tokens
    assert answer.usage.completion_tokens == len(answer.token_ids)
    assert 0 < answer.timings.first_token < answer.timings.total < 60
    assert list(answer) == [], "what was taken does not come again"


@pytest.mark.feature(CLIENT, "stream an answer")
def test_an_image_is_a_path_bytes_a_pillow_image_or_a_handle(client):
    encoded = client.encode(PATH)
    buffer = io.BytesIO()
    Image.open(PATH).save(buffer, "PNG")
    images = [PATH, str(PATH), PATH.read_bytes(), bytearray(PATH.read_bytes()), Image.open(PATH)]
    for image in [
        *images,
        Image.open(PATH).convert("CMYK"),
        encoded,
        encoded.image,
        encoded.handle,
        str(encoded.handle),
    ]:
        assert client.ask(QUESTION, [image]).text == ANSWER, image
    assert client.ask(QUESTION, [Image.open(PATH)]).images == client.ask(QUESTION, [buffer.getvalue()]).images


@pytest.mark.feature(CLIENT, "conversations")
def test_a_conversation_goes_on_with_its_history(client):
    question = next(question for question in QUESTIONS if len(question["turns"]) > 1)
    *earlier, last = question["turns"]
    images = [SAMPLES / name for name in question["images"]]
    history = [(turn["question"], turn["answer"]) for turn in earlier]
    history[0] = tessera.Turn(*history[0], images=images)
    assert client.ask(last["question"], history=history).text == question["reference"]
    # The embedded model never saw a system message, so its template leaves them out.
    assert client.ask(last["question"], history=history, system="Answer.").text == question["reference"]
    request = generate_request("c", [], "s", [("a", "b")], {})
    shown = [(message.role, message.parts[0].text) for message in request.messages]
    assert shown == [(1, "s"), (2, "a"), (3, "b"), (2, "c")]


@pytest.mark.feature(CLIENT, "sampling settings")
def test_settings_say_how_an_answer_is_made(client):
    drawn = client.ask(QUESTION, [PATH], temperature=1.5, top_k=20, seed=7, samples=3, logprobs=2, prompt_logprobs=1)
    again = client.ask(QUESTION, [PATH], temperature=1.5, top_k=20, seed=7, samples=3)
    assert [sample.text for sample in drawn.samples] == [sample.text for sample in again.samples]
    assert len(drawn.samples) == 3
    assert len(drawn.prompt_logprobs) == drawn.prompt_tokens - 1
    for sample in drawn.samples:
        assert len(sample.logprobs) == len(sample.token_ids)
        assert all(len(place.likeliest) == 2 and place.chosen.logprob <= 0 for place in sample.logprobs)
    searched = client.ask(QUESTION, [PATH], beams=3, samples=2, length_penalty=0.5, early_stopping="never")
    assert searched.samples[0].text == ANSWER
    assert client.ask(QUESTION, [PATH], stop=ANSWER[-2:]).text == ANSWER[:-2]
    assert client.ask(QUESTION, [PATH], stop=[ANSWER[-2:]], include_stop=True).text == ANSWER
    assert client.ask(QUESTION, [PATH], max_tokens=1).reason == "length"


@pytest.mark.feature(CLIENT, "forms of answers")
def test_an_answer_has_the_form_that_was_asked_for(client):
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
        "additionalProperties": False,
    }
    schema["x-guidance"] = {"whitespace_flexible": False}
    assert json.loads(client.ask(QUESTION, [PATH], json_schema=schema).text).keys() == {"yes"}
    assert client.ask(QUESTION, [PATH], json_schema=json.dumps(schema)).text.startswith('{"yes":')
    assert client.ask(QUESTION, [PATH], regex="[0-9]{3}").text.isdigit()
    assert client.ask(QUESTION, [PATH], choices=["left", "right"]).text in ("left", "right")
    assert client.ask(QUESTION, [PATH], lark='start: "over"').text == "over"


@pytest.mark.feature(CLIENT, "ask by handle")
def test_what_is_stored_is_shown_kept_and_forgotten(client):
    path = SAMPLES / WITH_IMAGES[40]["images"][0]
    encoded = client.encode(path, lease=600)
    assert encoded.leased_until > datetime.datetime.now(datetime.timezone.utc)
    assert client.encode(path).stored_before
    shown, missing = client.stat([encoded, "0" * 64])
    assert (shown.handle, shown.image_size, shown.in_memory) == (encoded.handle, encoded.image.image_size, True)
    assert missing is None
    assert client.release([encoded]) == 1
    until, none = client.lease([encoded.handle, tessera.Handle("0" * 64)], 3600)
    assert (until > shown.created, none) == (True, None)
    assert client.delete([encoded]) == 1
    assert client.stat([encoded]) == [None]
    client.encode(path)
    assert client.delete_image(path) == 1
    with pytest.raises(tessera.TesseraError) as failed:
        client.ask(QUESTION, [encoded])
    assert (failed.value.kind, failed.value.reason) == (tessera.Kind.NOT_FOUND, "EMBEDDING_NOT_FOUND")
    assert failed.value.metadata["key"] == encoded.handle


@pytest.mark.feature(CLIENT, "encode many images in a stream")
def test_many_images_are_encoded_over_one_call(client):
    paths = [SAMPLES / question["images"][0] for question in WITH_IMAGES[50:60]]
    given = [*paths[:4], SAMPLES / "nowhere.jpg", b"no image", *paths[4:]]
    outcomes = list(client.encode_many(given, lease=60, in_order=True))
    assert [outcome.index for outcome in outcomes] == list(range(len(given)))
    assert isinstance(outcomes[4].error, FileNotFoundError)
    assert outcomes[5].error.reason == "IMAGE_FORMAT_UNKNOWN"
    assert [outcome.index for outcome in outcomes if outcome.encoded] == [0, 1, 2, 3, *range(6, 12)]
    assert {outcome.index for outcome in client.encode_many(given)} == set(range(len(given)))
    assert list(client.encode_many([])) == []


@pytest.mark.feature(CLIENT, "encode many images in a stream")
def test_what_fails_while_images_are_listed_is_raised(client):
    def listed():
        yield PATH
        raise ZeroDivisionError("while listing")

    with pytest.raises(ZeroDivisionError, match="while listing"):
        list(client.encode_many(listed()))


@pytest.mark.feature(CLIENT, "errors with their reasons")
def test_an_error_says_what_and_where(client):
    with pytest.raises(tessera.TesseraError, match=r"VALUE_OUT_OF_RANGE: settings\.top_p: 1\.5") as failed:
        client.ask(QUESTION, [PATH], top_p=1.5)
    assert failed.value.kind is tessera.Kind.INVALID
    assert [field.field for field in failed.value.fields] == ["settings.top_p"]
    assert failed.value.retry_after is None


@pytest.mark.feature(CLIENT, "errors with their reasons")
def test_a_mistake_of_the_caller_is_told_before_anything_is_sent():
    with tessera.Client("127.0.0.1:1") as client:
        for error, words, call in [
            (TypeError, "unknown settings: temprature", lambda: client.ask("?", temprature=1)),
            (TypeError, "need beams", lambda: client.ask("?", length_penalty=1.0)),
            (TypeError, "one form", lambda: client.ask("?", regex="a", choices=["b"])),
            (ValueError, "early_stopping", lambda: client.ask("?", beams=2, early_stopping="maybe")),
            (TypeError, "a list of images", lambda: client.ask("?", str(PATH))),
            (TypeError, "no image file", lambda: client.ask("?", [1])),
            (FileNotFoundError, "nowhere", lambda: client.ask("?", ["nowhere"])),
            (ValueError, "no handle", lambda: client.stat(["abc"])),
            (TypeError, "a list of handles", lambda: client.stat("0" * 64)),
            (ValueError, "no gateway", lambda: tessera.Client("ftp://a")),
            (ValueError, "no path", lambda: tessera.Client("http://a/b")),
            (ValueError, "not encrypted", lambda: tessera.Client("http://a", tls=tessera.Tls())),
        ]:
            with pytest.raises(error, match=words):
                call()


@pytest.mark.feature(CLIENT, "deadlines")
def test_a_deadline_ends_an_answer_and_leaves_what_there_was(client):
    answer = client.ask(QUESTION, [PATH], timeout=1.5, max_tokens=30_000, ignore_end=True)
    try:
        assert answer.reason == "deadline"
    except tessera.TesseraError as error:
        assert error.kind is tessera.Kind.DEADLINE
    assert answer.text_so_far.startswith(ANSWER)


@pytest.mark.feature(CLIENT, "cancel")
def test_an_answer_that_is_left_is_cancelled(client):
    with client.ask(QUESTION, [PATH], max_tokens=30_000, ignore_end=True) as answer:
        next(iter(answer))
    with pytest.raises(tessera.TesseraError) as failed:
        list(answer)
    assert failed.value.kind is tessera.Kind.CANCELLED
