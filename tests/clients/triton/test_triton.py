"""Triton's client, as it is used from one thread and with callbacks."""

import base64
import functools
import json
import queue
import threading

import numpy as np
import pytest
import tritonclient.grpc as triton
from asking import ask, elements, flag, handle, is_last, question, text
from tritonclient.utils import InferenceServerException

feature = functools.partial(pytest.mark.feature, "tritonclient")
LONG = {"max_tokens": 100000, "ignore_eos": True}


class Stream:
    """A stream of requests whose responses wait in a queue."""

    def __init__(self, client, **settings):
        self.client = client
        self.responses = queue.Queue()
        client.start_stream(lambda result, error: self.responses.put((result, error)), **settings)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_stream(cancel_requests=True)

    def next(self):
        """The next response: a result, or the error in its place."""
        result, error = self.responses.get(timeout=120)
        return error or result

    def answer(self) -> tuple[list, object]:
        """The responses to a request: the pieces, and the last one."""
        pieces = []
        while not is_last(response := self.next()):
            pieces.append(response)
        return pieces, response


@feature("server is live and ready")
def test_the_server_is_live_and_ready(client, model):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(model) and client.is_model_ready(model, "1")
    assert not client.is_model_ready("llama") and not client.is_model_ready(model, "2")


@feature("metadata")
def test_server_and_model_describe_themselves(client, model):
    server = client.get_server_metadata()
    assert server.name == "tessera" and "statistics" in server.extensions
    metadata = client.get_model_metadata(model, as_json=True)
    inputs = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in metadata["inputs"]}
    assert metadata["versions"] == ["1"]
    assert (
        inputs["text_input"] == ("BYTES", ["1"])
        and inputs["image"] == ("BYTES", ["-1"])
        and inputs["stream"] == ("BOOL", ["1"])
    )
    assert [tensor["name"] for tensor in metadata["outputs"]][:2] == ["text_output", "finish_reason"]


@feature("model configuration")
def test_the_configuration_says_that_answers_may_come_in_pieces(client, model):
    config = client.get_model_config(model).config
    assert config.name == model and config.max_batch_size == 0
    assert config.model_transaction_policy.decoupled
    optional = {tensor.name: tensor.optional for tensor in config.input}
    assert not optional["text_input"] and optional["image"]
    assert list(config.version_policy.specific.versions) == [1]


@feature("repository index")
def test_the_index_has_the_one_model(client, model):
    (found,) = client.get_model_repository_index().models
    assert (found.name, found.version, found.state, found.reason) == (model, "1", "READY", "")


@feature("statistics")
def test_statistics_count_what_was_asked(client, model, picture):
    def counts():
        (stats,) = client.get_inference_statistics(model).model_stats
        return stats, stats.inference_count, stats.inference_stats.fail.count

    _, successes, failures = counts()
    client.infer(model, question(*picture))
    with pytest.raises(InferenceServerException):
        client.infer(model, question("What?", max_tokens=0))
    stats, *after = counts()
    assert after == [successes + 1, failures + 1]
    times = stats.inference_stats
    assert times.success.count == times.queue.count == times.compute_infer.count == after[0]
    assert 0 < times.compute_input.ns and 0 < times.compute_infer.ns < times.success.ns
    assert stats.last_inference > 0 and len(client.get_inference_statistics().model_stats) == 1


@feature("ask without an image")
def test_a_text_is_answered_as_by_our_own_program(client, model, gateway):
    answer = client.infer(model, question("What do you see?"), request_id="7")
    assert text(answer) == ask(gateway, "What do you see?")
    assert answer.get_response().id == "7" and answer.get_response().model_version == "1"


@feature("ask without an image")
def test_an_answer_begins_with_its_input_where_nobody_says_otherwise(client, model, gateway):
    asked = "What do you see?"
    assert text(client.infer(model, [elements("text_input", asked)])) == asked + ask(gateway, asked)


@feature("ask about an image")
def test_a_picture_is_seen(client, model, gateway, picture):
    answer = text(client.infer(model, question(*picture)))
    assert answer == ask(gateway, *picture) == "U"


@feature("ask about an image")
def test_a_picture_may_come_as_base64(client, model, picture):
    asked, path = picture
    inputs = [*question(asked), elements("image", base64.b64encode(path.read_bytes()))]
    assert text(client.infer(model, inputs)) == "U"


@feature("several images")
def test_two_pictures_are_compared(client, model, gateway, pictures):
    answer = text(client.infer(model, question(*pictures)))
    assert answer == ask(gateway, *pictures) == "The blue star is now green."


@feature("ask by handle")
def test_a_handle_stands_for_its_picture(client, model, gateway, picture):
    asked, path = picture
    stored = handle(gateway, path)
    for spelling in (stored, bytes.fromhex(stored)):
        assert text(client.infer(model, [*question(asked), elements("image_embedding", spelling)])) == "U"


@feature("ask by handle")
def test_a_handle_and_a_picture_are_seen_in_the_order_of_their_inputs(client, model, gateway, pictures):
    asked, first, second = pictures
    stored = elements("image_embedding", handle(gateway, first))
    sent = elements("image", second.read_bytes())
    assert text(client.infer(model, [*question(asked), stored, sent])) == ask(gateway, *pictures)
    assert text(client.infer(model, [*question(asked), sent, stored])) == ask(gateway, asked, second, first)


@feature("prompts as they are")
def test_a_prompt_is_taken_as_it_is(client, model, gateway, pictures):
    asked, *files = pictures
    counted = flag("return_num_input_tokens", True)
    turn = client.infer(model, [*question(asked, *files), counted])
    # What the embedded model's template makes of it.
    prompt = f"[INST]<image><image>{asked}[/INST]"
    raw = client.infer(model, [*question(prompt, *files, chat_template=False), counted])
    assert text(raw) == text(turn) == ask(gateway, *pictures)
    assert raw.as_numpy("num_input_tokens") == turn.as_numpy("num_input_tokens")
    with pytest.raises(InferenceServerException, match=r'inputs\["text_input"\]: has <image> 2 times, for 0 images'):
        client.infer(model, question(prompt, chat_template=False))


@feature("sampling settings")
def test_sampling_parameters_are_numbers_or_strings(client, model, pictures):
    outputs = [triton.InferRequestedOutput(name) for name in ("text_output", "finish_reason", "token_ids")]
    for limit in (2, "2"):
        answer = client.infer(model, question(*pictures, max_tokens=limit, temperature="0"), outputs=outputs)
        assert text(answer) == "The blue"
        assert text(answer, "finish_reason") == "length" and json.loads(text(answer, "token_ids")) == [435, 477]


@feature("sampling settings")
def test_stop_strings_end_an_answer(client, model, pictures):
    inputs = [*question(*pictures, stop=[" now"]), flag("return_finish_reason", True)]
    answer = client.infer(model, inputs)
    assert text(answer) == "The blue star is" and text(answer, "finish_reason") == "stop"


@feature("sampling settings")
def test_equal_seeds_give_equal_samples(client, model, picture):
    drawn = question(*picture, n=3, temperature=5, seed=11, max_tokens=8)
    first, second = (client.infer(model, drawn).as_numpy("text_output").tolist() for _ in range(2))
    assert first == second and len(first) == 3 and len(set(first)) > 1


@feature("sampling settings")
def test_parameters_may_stand_beside_the_tensors(client, model, pictures):
    assert text(client.infer(model, question(*pictures), parameters={"max_tokens": 2})) == "The blue"


@feature("forms of answers")
def test_an_answer_has_the_form_that_was_asked_for(client, model, picture):
    choice = question(*picture, guided_decoding={"choice": ["yes", "no"]})
    assert text(client.infer(model, choice)) in ("yes", "no")
    pattern = question(*picture, guided_decoding=json.dumps({"regex": "[0-9]{3}"}))
    assert len(text(client.infer(model, pattern))) == 3
    schema = {"type": "object", "properties": {"n": {"enum": [1]}}, "required": ["n"], "additionalProperties": False}
    assert json.loads(text(client.infer(model, question(*picture, guided_decoding={"json": schema})))) == {"n": 1}


@feature("log-probabilities")
def test_log_probabilities_are_told_by_token(client, model, picture):
    asked = [*question(*picture, logprobs=2), flag("return_logprobs", True), flag("return_cumulative_logprob", True)]
    answer = client.infer(model, asked)
    places = json.loads(text(answer, "logprobs"))
    assert [place["1" if index else "58"]["rank"] for index, place in enumerate(places)] == [1, 1]
    chosen = places[0]["58"]["logprob"] + places[1]["1"]["logprob"]
    assert answer.as_numpy("cumulative_logprob")[0] == pytest.approx(chosen, abs=1e-5)


@feature("token counts")
def test_tokens_are_counted(client, model, picture):
    asked = [*question(*picture), flag("return_num_input_tokens", True), flag("return_num_output_tokens", True)]
    answer = client.infer(model, asked)
    (before,), (new,) = answer.as_numpy("num_input_tokens"), answer.as_numpy("num_output_tokens")
    assert before > 100 and new == 2


@feature("asynchronous calls")
def test_calls_may_run_beside_each_other(client, model, gateway, picture, pictures):
    answers = queue.Queue()
    for id, asked in (("one", picture), ("two", pictures)):
        client.async_infer(model, question(*asked), lambda result, error: answers.put((result, error)), request_id=id)
    results = [answers.get(timeout=120) for _ in range(2)]
    assert [error for _, error in results] == [None, None]
    told = {result.get_response().id: text(result) for result, _ in results}
    assert told == {"one": ask(gateway, *picture), "two": ask(gateway, *pictures)}


@feature("asynchronous calls")
def test_a_call_can_be_cancelled(client, model, picture):
    answers = queue.Queue()
    call = client.async_infer(model, question(*picture, **LONG), lambda result, error: answers.put(error))
    call.cancel()
    assert "Locally cancelled" in str(answers.get(timeout=60))


@feature("stream an answer")
def test_an_answer_comes_in_pieces(client, model, gateway, pictures):
    with Stream(client) as stream:
        client.async_stream_infer(model, [*question(*pictures), flag("stream", True)], request_id="7")
        pieces, last = stream.answer()
    assert len(pieces) == 8 and "".join(map(text, pieces)) == ask(gateway, *pictures)
    assert {piece.get_response().id for piece in [*pieces, last]} == {"7"}
    assert text(last) == ""


@feature("stream an answer")
def test_the_last_response_may_be_empty_and_tells_the_end_if_that_is_asked_for(client, model, picture):
    asked = [*question(*picture), flag("stream", True)]
    with Stream(client) as stream:
        client.async_stream_infer(model, asked, enable_empty_final_response=True)
        _, last = stream.answer()
        assert last.as_numpy("text_output") is None
        client.async_stream_infer(model, [*asked, flag("return_finish_reason", True)], enable_empty_final_response=True)
        pieces, last = stream.answer()
    assert [text(piece, "finish_reason") for piece in [*pieces, last]] == ["None"] * len(pieces) + ["stop"]


@feature("stream an answer")
def test_samples_come_in_pieces_beside_each_other(client, model, pictures):
    inputs = question(*pictures, n=2, temperature=3, seed=5, max_tokens=6)
    whole = client.infer(model, inputs).as_numpy("text_output").tolist()
    with Stream(client) as stream:
        client.async_stream_infer(model, [*inputs, flag("stream", True)])
        pieces, last = stream.answer()
    columns = np.array([response.as_numpy("text_output") for response in [*pieces, last]])
    assert [b"".join(column) for column in columns.T] == whole


@feature("several requests in one stream")
def test_requests_of_a_stream_are_answered_each_with_its_id(client, model, gateway, picture, pictures):
    answers: dict[str, str] = {}
    with Stream(client) as stream:
        for id, asked, in_pieces in (("one", picture, True), ("two", pictures, True), ("three", picture, False)):
            client.async_stream_infer(model, [*question(*asked), flag("stream", in_pieces)], request_id=id)
        ended = 0
        while ended < 3:
            response = stream.next()
            id = response.get_response().id
            answers[id] = answers.get(id, "") + text(response)
            ended += is_last(response)
    assert answers == {"one": ask(gateway, *picture), "two": ask(gateway, *pictures), "three": ask(gateway, *picture)}


@feature("cancel")
def test_a_stream_that_is_cancelled_ends_at_once(client, model, picture):
    stream = Stream(client)
    client.async_stream_infer(model, [*question(*picture, **LONG), flag("stream", True)])
    stream.next()
    stopping = threading.Thread(target=client.stop_stream, kwargs={"cancel_requests": True})
    stopping.start()
    stopping.join(timeout=30)
    assert not stopping.is_alive()
    while not isinstance(end := stream.next(), InferenceServerException):
        pass
    assert end.status() == "StatusCode.CANCELLED"


@feature("errors with their reasons")
def test_errors_have_a_code_and_name_what_is_wrong(client, model, picture):
    asked, path = picture
    for inputs, code, words in (
        (
            question(asked, max_tokens=0),
            "INVALID_ARGUMENT",
            'inputs["sampling_parameters"].max_tokens: 0 is not at least 1',
        ),
        (
            question(asked, max_token=5),
            "INVALID_ARGUMENT",
            'inputs["sampling_parameters"].max_token: there is no sampling parameter',
        ),
        ([*question(asked), elements("image", b"no picture")], "INVALID_ARGUMENT", 'inputs["image"][0]: '),
        (
            [*question(asked), elements("image_embedding", "00" * 32)],
            "NOT_FOUND",
            'inputs["image_embedding"][0]: image 0000',
        ),
        (
            [*question(asked), elements("picture", path.read_bytes())],
            "INVALID_ARGUMENT",
            'inputs["picture"]: there is no such input',
        ),
        ([*question(asked), flag("stream", True)], "INVALID_ARGUMENT", 'inputs["stream"]: must be false'),
        (question(asked, temperature=-1), "INVALID_ARGUMENT", 'inputs["sampling_parameters"].temperature: -1'),
        (
            question(asked, guided_decoding={"regex": "("}),
            "INVALID_ARGUMENT",
            'inputs["sampling_parameters"].guided_decoding.regex',
        ),
    ):
        with pytest.raises(InferenceServerException) as raised:
            client.infer(model, inputs)
        assert raised.value.status() == f"StatusCode.{code}"
        assert raised.value.message().startswith(words), raised.value.message()


@feature("errors with their reasons")
def test_a_model_that_is_not_there_is_not_found(client, model):
    for call in (
        lambda: client.infer("llama", question("What?")),
        lambda: client.infer(model, question("What?"), model_version="2"),
        lambda: client.get_model_metadata("llama"),
        lambda: client.get_model_config(model, "2"),
        lambda: client.get_inference_statistics("llama"),
    ):
        with pytest.raises(InferenceServerException, match="the one that is served is") as raised:
            call()
        assert raised.value.status() == "StatusCode.NOT_FOUND"


@feature("deadlines")
def test_an_answer_ends_at_its_deadline_with_what_there_is(client, model, picture):
    inputs = [*question(*picture, **LONG), flag("return_finish_reason", True)]
    for deadline in ({"timeout": 300_000}, {"client_timeout": 0.5}):
        answer = client.infer(model, inputs, **deadline)
        assert text(answer, "finish_reason") == "deadline" and text(answer)


@feature("errors in a stream")
def test_a_stream_goes_on_after_an_error(client, model, picture):
    with Stream(client) as stream:
        client.async_stream_infer(model, question("What?", max_tokens=0), request_id="bad")
        error = stream.next()
        assert error.message().startswith('VALUE_OUT_OF_RANGE: inputs["sampling_parameters"].max_tokens: ')
        client.async_stream_infer("llama", question("What?"))
        assert stream.next().message().startswith("MODEL_NOT_FOUND: ")
        client.async_stream_infer(model, question(*picture), request_id="good")
        answer = stream.next()
    assert (answer.get_response().id, text(answer), is_last(answer)) == ("good", "U", True)


@feature("errors in a stream")
def test_an_error_ends_a_stream_whose_client_wants_that(client, model):
    with Stream(client, headers={"triton_grpc_error": "true"}) as stream:
        client.async_stream_infer(model, question("What?", max_tokens=0))
        assert stream.next().status() == "StatusCode.INVALID_ARGUMENT"


@feature("compression")
def test_messages_may_be_compressed(client, model, gateway, picture):
    answer = client.infer(model, question(*picture), compression_algorithm="gzip")
    assert text(answer) == ask(gateway, *picture)
    with Stream(client, compression_algorithm="gzip") as stream:
        client.async_stream_infer(model, question(*picture))
        assert text(stream.next()) == ask(gateway, *picture)


@feature("what is not served says why")
def test_what_is_not_served_says_why(client, model):
    for call in (
        lambda: client.load_model(model),
        lambda: client.unload_model(model),
        lambda: client.get_system_shared_memory_status(),
        lambda: client.register_system_shared_memory("a", "/a", 1),
        lambda: client.unregister_system_shared_memory(),
        lambda: client.get_cuda_shared_memory_status(),
        lambda: client.register_cuda_shared_memory("a", base64.b64encode(b"a"), 0, 1),
        lambda: client.unregister_cuda_shared_memory(),
        lambda: client.get_trace_settings(),
        lambda: client.update_trace_settings(settings={"trace_rate": "1"}),
        lambda: client.get_log_settings(),
        lambda: client.update_log_settings({"log_info": True}),
    ):
        with pytest.raises(InferenceServerException) as raised:
            call()
        assert raised.value.status() == "StatusCode.UNIMPLEMENTED" and raised.value.message()
    shared = triton.InferInput("text_input", [1], "BYTES")
    shared.set_shared_memory("a", 8)
    with pytest.raises(InferenceServerException, match="not by shared memory"):
        client.infer(model, [shared])
