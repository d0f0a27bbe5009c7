"""Triton's client for asyncio."""

import asyncio
import functools

import pytest
import tritonclient.grpc.aio as triton
from asking import ask, elements, flag, handle, is_last, question, text
from tritonclient.utils import InferenceServerException

feature = functools.partial(pytest.mark.feature, "tritonclient asyncio")


def with_client(test):
    """Runs a test with a client of its own."""

    @functools.wraps(test)
    def run(gateway, model, picture, pictures):
        async def connected():
            async with triton.InferenceServerClient(gateway.address) as client:
                await asyncio.wait_for(test(client, gateway, model, picture, pictures), 120)

        asyncio.run(connected())

    del run.__wrapped__
    return run


async def of(*requests: dict):
    """Requests as a stream takes them."""
    for request in requests:
        yield request


@feature("server is live and ready")
@with_client
async def test_the_server_is_live_and_ready(client, gateway, model, picture, pictures):
    assert await client.is_server_live() and await client.is_server_ready()
    assert await client.is_model_ready(model) and not await client.is_model_ready("llama")


@feature("metadata")
@with_client
async def test_server_and_model_describe_themselves(client, gateway, model, picture, pictures):
    assert (await client.get_server_metadata()).name == "tessera"
    assert (await client.get_model_metadata(model)).name == model


@feature("model configuration")
@with_client
async def test_the_configuration_says_that_answers_may_come_in_pieces(client, gateway, model, picture, pictures):
    assert (await client.get_model_config(model)).config.model_transaction_policy.decoupled


@feature("repository index")
@with_client
async def test_the_index_has_the_one_model(client, gateway, model, picture, pictures):
    (found,) = (await client.get_model_repository_index()).models
    assert (found.name, found.state) == (model, "READY")


@feature("statistics")
@with_client
async def test_statistics_count_what_was_asked(client, gateway, model, picture, pictures):
    (before,) = (await client.get_inference_statistics(model)).model_stats
    await client.infer(model, question(*picture))
    (after,) = (await client.get_inference_statistics(model)).model_stats
    assert after.inference_count == before.inference_count + 1


@feature("ask without an image")
@with_client
async def test_a_text_is_answered(client, gateway, model, picture, pictures):
    assert text(await client.infer(model, question("What do you see?"))) == ask(gateway, "What do you see?")


@feature("ask about an image")
@with_client
async def test_a_picture_is_seen(client, gateway, model, picture, pictures):
    assert text(await client.infer(model, question(*picture))) == ask(gateway, *picture) == "U"


@feature("several images")
@with_client
async def test_two_pictures_are_compared(client, gateway, model, picture, pictures):
    assert text(await client.infer(model, question(*pictures))) == ask(gateway, *pictures)


@feature("ask by handle")
@with_client
async def test_a_handle_stands_for_its_picture(client, gateway, model, picture, pictures):
    asked, path = picture
    assert (
        text(await client.infer(model, [*question(asked), elements("image_embedding", handle(gateway, path))])) == "U"
    )


@feature("sampling settings")
@with_client
async def test_sampling_parameters_are_taken(client, gateway, model, picture, pictures):
    assert text(await client.infer(model, question(*pictures, max_tokens=2))) == "The blue"


@feature("asynchronous calls")
@with_client
async def test_calls_run_beside_each_other(client, gateway, model, picture, pictures):
    one, two = await asyncio.gather(client.infer(model, question(*picture)), client.infer(model, question(*pictures)))
    assert (text(one), text(two)) == (ask(gateway, *picture), ask(gateway, *pictures))


@feature("stream an answer")
@with_client
async def test_an_answer_comes_in_pieces(client, gateway, model, picture, pictures):
    request = {"model_name": model, "inputs": [*question(*pictures), flag("stream", True)], "request_id": "7"}
    responses = [response async for response in client.stream_infer(of(request))]
    assert all(error is None for _, error in responses)
    assert [is_last(result) for result, _ in responses] == [False] * 8 + [True]
    assert "".join(text(result) for result, _ in responses) == ask(gateway, *pictures)


@feature("several requests in one stream")
@with_client
async def test_requests_of_a_stream_are_answered_each_with_its_id(client, gateway, model, picture, pictures):
    asked = {"one": picture, "two": pictures}
    requests = [
        {"model_name": model, "inputs": [*question(*asked[id]), flag("stream", True)], "request_id": id} for id in asked
    ]
    answers = dict.fromkeys(asked, "")
    async for result, error in client.stream_infer(of(*requests)):
        assert error is None
        answers[result.get_response().id] += text(result)
    assert answers == {id: ask(gateway, *asked[id]) for id in asked}


@feature("cancel")
@with_client
async def test_a_stream_that_is_cancelled_ends_at_once(client, gateway, model, picture, pictures):
    inputs = [*question(*picture, max_tokens=100000, ignore_eos=True), flag("stream", True)]
    responses = client.stream_infer(of({"model_name": model, "inputs": inputs}))
    await anext(responses)
    responses.cancel()
    with pytest.raises(asyncio.CancelledError):
        while True:
            await anext(responses)


@feature("errors with their reasons")
@with_client
async def test_errors_have_a_code_and_name_what_is_wrong(client, gateway, model, picture, pictures):
    for name, code, words in ((model, "INVALID_ARGUMENT", "max_tokens: 0 is not"), ("llama", "NOT_FOUND", "no model")):
        with pytest.raises(InferenceServerException, match=words) as raised:
            await client.infer(name, question("What?", max_tokens=0))
        assert raised.value.status() == f"StatusCode.{code}"


@feature("errors in a stream")
@with_client
async def test_a_stream_goes_on_after_an_error(client, gateway, model, picture, pictures):
    good, bad = ({"model_name": model, "inputs": question(*picture, max_tokens=limit)} for limit in (9, 0))
    responses = [response async for response in client.stream_infer(of(bad, good))]
    (error,), (result,) = ([response[at] for response in responses if response[at] is not None] for at in (1, 0))
    assert error.message().startswith("VALUE_OUT_OF_RANGE: ") and text(result) == "U"


@feature("compression")
@with_client
async def test_messages_may_be_compressed(client, gateway, model, picture, pictures):
    assert text(await client.infer(model, question(*picture), compression_algorithm="gzip")) == "U"


@feature("what is not served says why")
@with_client
async def test_what_is_not_served_says_why(client, gateway, model, picture, pictures):
    for call in (
        client.load_model(model),
        client.get_system_shared_memory_status(),
        client.get_cuda_shared_memory_status(),
        client.get_trace_settings(),
        client.get_log_settings(),
    ):
        with pytest.raises(InferenceServerException) as raised:
            await call
        assert raised.value.status() == "StatusCode.UNIMPLEMENTED"
