"""The Python package against the gateway, with asyncio."""

import asyncio

import pytest
import tessera
from asking import EASY
from conftest import QUESTIONS, SAMPLES

QUESTION, ANSWER = EASY["turns"][0]["question"], EASY["turns"][0]["answer"]
WITH_IMAGES = [question for question in QUESTIONS if question["images"]]
PATH = SAMPLES / EASY["images"][0]
CLIENT = "tessera asyncio (Python)"


@pytest.fixture
def run(gateway):
    """Runs what a test does with a client of the suite's gateway."""

    def run(test):
        async def with_client():
            async with tessera.AsyncClient(gateway.url, timeout=60) as client:
                return await test(client)

        return asyncio.run(with_client())

    return run


@pytest.mark.feature(CLIENT, "stream an answer")
def test_an_answer_comes_in_pieces_and_tells_what_it_took(run):
    question = next(question for question in QUESTIONS if question["kind"] == "describe")

    async def test(client):
        answer = await client.ask(question["turns"][0]["question"], [SAMPLES / question["images"][0]])
        assert answer.images[0].tiles == 5
        with pytest.raises(RuntimeError, match="finish"):
            _ = answer.text
        pieces = [piece async for piece in answer]
        assert len(pieces) > 1
        assert "".join(pieces) == answer.text == question["reference"]
        assert answer.usage.completion_tokens == len(answer.token_ids)
        assert (await answer.finish()).reason == "stop"

    run(test)


@pytest.mark.feature(CLIENT, "many calls on one connection")
def test_many_questions_are_asked_at_once(run):
    asked = [question for question in QUESTIONS if question["kind"] == "colour"][:12]

    async def ask(client, question):
        answer = await client.ask(question["turns"][0]["question"], [SAMPLES / question["images"][0]])
        return (await answer.finish()).text

    async def test(client):
        return await asyncio.gather(*(ask(client, question) for question in asked))

    assert run(test) == [question["reference"] for question in asked]


@pytest.mark.feature(CLIENT, "ask by handle")
def test_what_is_stored_is_shown_kept_and_forgotten(run):
    path = SAMPLES / WITH_IMAGES[41]["images"][0]

    async def test(client):
        encoded = await client.encode(path, lease=600)
        answer = await client.ask(QUESTION, [encoded])
        assert (await answer.finish()).timings.images_stored_before == 1
        shown, missing = await client.stat([encoded, "0" * 64])
        assert (shown.handle, missing) == (encoded.handle, None)
        assert await client.release([encoded]) == 1
        assert (await client.lease([encoded], 60))[0] is not None
        assert await client.delete([encoded]) == 1
        assert await client.delete_image(path) == 0

    run(test)


@pytest.mark.feature(CLIENT, "encode many images in a stream")
def test_many_images_are_encoded_over_one_call(run):
    paths = [SAMPLES / question["images"][0] for question in WITH_IMAGES[50:60]]
    given = [*paths[:4], SAMPLES / "nowhere.jpg", b"no image", *paths[4:]]

    async def listed():
        for image in given:
            yield image

    async def broken():
        yield PATH
        raise ZeroDivisionError("while listing")

    async def test(client):
        outcomes = [outcome async for outcome in client.encode_many(listed(), in_order=True)]
        assert [outcome.index for outcome in outcomes] == list(range(len(given)))
        assert isinstance(outcomes[4].error, FileNotFoundError)
        assert outcomes[5].error.reason == "IMAGE_FORMAT_UNKNOWN"
        assert {outcome.index async for outcome in client.encode_many(given)} == set(range(len(given)))
        with pytest.raises(ZeroDivisionError, match="while listing"):
            _ = [outcome async for outcome in client.encode_many(broken())]

    run(test)


@pytest.mark.feature(CLIENT, "errors with their reasons")
def test_an_error_says_what_and_where(run):
    async def test(client):
        with pytest.raises(tessera.TesseraError) as failed:
            await client.ask(QUESTION, [PATH], top_p=1.5)
        assert (failed.value.kind, failed.value.reason) == (tessera.Kind.INVALID, "VALUE_OUT_OF_RANGE")
        assert [field.field for field in failed.value.fields] == ["settings.top_p"]

    run(test)


@pytest.mark.feature(CLIENT, "deadlines")
def test_a_deadline_ends_an_answer_and_leaves_what_there_was(run):
    async def test(client):
        answer = await client.ask(QUESTION, [PATH], timeout=1.5, max_tokens=30_000, ignore_end=True)
        try:
            assert (await answer.finish()).reason == "deadline"
        except tessera.TesseraError as error:
            assert error.kind is tessera.Kind.DEADLINE
        assert answer.text_so_far.startswith(ANSWER)

    run(test)


@pytest.mark.feature(CLIENT, "cancel")
def test_an_answer_is_cancelled_by_itself_and_with_its_task(run):
    async def test(client):
        answer = await client.ask(QUESTION, [PATH], max_tokens=30_000, ignore_end=True)
        with pytest.raises(tessera.TesseraError) as failed:
            async for _ in answer:
                answer.cancel()
        assert failed.value.kind is tessera.Kind.CANCELLED
        other = await client.ask(QUESTION, [PATH], max_tokens=30_000, ignore_end=True)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(other.finish(), 0.5)

    run(test)
