"""What gRPC's own conventions promise to any client: errors with details, deadlines, cancelling, unknown fields."""

import threading
import time

import grpc
import pytest
from asking import EASY, image_of, long_request, request_of, stub_of, text_of
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tessera.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from tessera.gateway.v1 import gateway_pb2

ANSWER = EASY["turns"][0]["answer"]


@pytest.fixture
def channel(gateway):
    """A plain channel."""
    with grpc.insecure_channel(gateway.address) as channel:
        yield channel


def details_of(error: grpc.RpcError) -> dict:
    """The details of an error, by the names of their messages."""
    status = rpc_status.from_call(error)
    assert status is not None, "the error has no details"
    assert (status.code, status.message) == (error.code().value[0], error.details())
    found = {}
    for detail in status.details:
        name = detail.TypeName().rpartition(".")[2]
        found[name] = getattr(error_details_pb2, name).FromString(detail.value)
    return found


@pytest.mark.feature("grpcio", "stream an answer")
def test_an_answer_is_streamed(channel):
    events = list(stub_of(channel).Generate(request_of()))
    assert [event.WhichOneof("event") for event in events][0 :: len(events) - 1] == ["started", "finished"]
    assert text_of(events) == ANSWER


@pytest.mark.feature("grpcio", "ask by handle")
def test_an_image_is_encoded_once_and_asked_about_by_its_handle(channel):
    (encoded,) = stub_of(channel).Encode(gateway_pb2.EncodeRequest(image=image_of(EASY)))
    request = request_of()
    request.messages[0].parts[0].image.key = encoded.encoded.image.key
    events = list(stub_of(channel).Generate(request))
    assert text_of(events) == ANSWER
    assert events[-1].finished.timings.images_stored_before == 1


@pytest.mark.feature("grpcio", "errors with their reasons")
def test_an_error_has_its_reason_its_field_and_its_values(channel):
    with pytest.raises(grpc.RpcError) as failed:
        list(stub_of(channel).Generate(request_of(top_p=1.5)))
    details = details_of(failed.value)
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (details["ErrorInfo"].domain, details["ErrorInfo"].reason) == ("tessera", "VALUE_OUT_OF_RANGE")
    assert details["BadRequest"].field_violations[0].field == "settings.top_p"

    request = request_of()
    request.messages[0].parts[0].image.key = bytes(32)
    with pytest.raises(grpc.RpcError) as failed:
        list(stub_of(channel).Generate(request))
    assert failed.value.code() == grpc.StatusCode.NOT_FOUND
    info = details_of(failed.value)["ErrorInfo"]
    assert (info.reason, info.metadata["key"]) == ("EMBEDDING_NOT_FOUND", "00" * 32)


@pytest.mark.feature("grpcio", "errors with their reasons")
def test_the_transports_own_errors_have_a_reason_too(channel):
    for path, request, code, reason in [
        ("/tessera.gateway.v1.Gateway/Nothing", b"", grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN"),
        ("/nothing.v1.Nothing/Nothing", b"", grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN"),
        ("/tessera.gateway.v1.Gateway/Generate", b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_MALFORMED"),
    ]:
        with pytest.raises(grpc.RpcError) as failed:
            list(channel.unary_stream(path)(request))
        assert (failed.value.code(), details_of(failed.value)["ErrorInfo"].reason) == (code, reason), path


@pytest.mark.feature("grpcio", "fields that the server does not know")
def test_a_request_with_unknown_fields_is_served(channel):
    known = request_of().SerializeToString()
    # Fields 1000, a number, and 1001, bytes.
    unknown = b"\xc0\x3e\x2a" + b"\xca\x3e\x05hello"
    generate = channel.unary_stream(
        "/tessera.gateway.v1.Gateway/Generate",
        request_serializer=None,
        response_deserializer=gateway_pb2.GenerateResponse.FromString,
    )
    assert text_of(generate(known + unknown)) == ANSWER


@pytest.mark.feature("grpcio", "deadlines")
def test_an_answer_ends_at_its_deadline(channel):
    began = time.monotonic()
    try:
        events = list(stub_of(channel).Generate(long_request(), timeout=1.5))
        assert events[-1].finished.reason == gateway_pb2.FINISH_REASON_DEADLINE
    except grpc.RpcError as error:
        # The client's own clock was faster than the server's last word.
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert 1 < time.monotonic() - began < 5


@pytest.mark.feature("grpcio", "deadlines")
def test_a_call_whose_time_is_over_fails_at_once(channel):
    with pytest.raises(grpc.RpcError) as failed:
        list(stub_of(channel).Generate(request_of(), timeout=1e-6))
    assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.feature("grpcio", "cancel")
def test_answers_that_were_cancelled_make_room_for_others(channel):
    # More tokens than all of the engine's blocks hold, were they not given back.
    for _ in range(40):
        call = stub_of(channel).Generate(long_request())
        assert next(call).HasField("started")
        assert next(call).HasField("delta")
        call.cancel()
        with pytest.raises(grpc.RpcError) as failed:
            list(call)
        assert failed.value.code() == grpc.StatusCode.CANCELLED
    assert text_of(stub_of(channel).Generate(request_of(), timeout=30)) == ANSWER


@pytest.mark.feature("grpcio", "large messages")
def test_an_image_of_many_megabytes_is_taken(channel):
    # A BMP of 3000 x 3000 pixels, white.
    pixels = 3000 * 3000 * 3
    header = b"BM" + (54 + pixels).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += (40).to_bytes(4, "little") + (3000).to_bytes(4, "little") * 2 + (1).to_bytes(2, "little")
    header += (24).to_bytes(2, "little") + bytes(24)
    request = gateway_pb2.EncodeRequest(image=header + b"\xff" * pixels, rows=embedding_pb2.REPRESENTATION_FEATURES)
    first, *rest = stub_of(channel).Encode(request)
    assert (first.encoded.image.image_size.width, first.encoded.image.image_size.height) == (3000, 3000)
    columns, rows = rest[0].rows.header.columns, rest[0].rows.header.rows
    assert sum(len(part.rows.chunk) for part in rest[1:]) == columns * rows * 4


@pytest.mark.feature("grpcio", "large messages")
def test_a_request_above_the_limit_is_refused_with_a_reason(channel):
    request = request_of()
    request.messages[0].parts[1].text = "a" * (129 << 20)
    with pytest.raises(grpc.RpcError) as failed:
        list(stub_of(channel).Generate(request))
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(failed.value)["ErrorInfo"].reason == "MESSAGE_TOO_LARGE"


@pytest.mark.feature("grpcio", "many calls on one connection")
def test_many_calls_share_one_connection(channel):
    texts = [None] * 24

    def ask(index: int) -> None:
        texts[index] = text_of(stub_of(channel).Generate(request_of()))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [ANSWER] * len(texts)


@pytest.mark.feature("grpcio", "encode many images in a stream")
def test_images_are_encoded_over_one_stream_each_with_its_own_answer(channel):
    requests = [
        gateway_pb2.EncodeBatchRequest(id=name, image=image)
        for name, image in [("good", image_of(EASY)), ("bad", b"x")]
    ]
    answers = {answer.id: answer for answer in stub_of(channel).EncodeBatch(iter(requests))}
    assert answers["bad"].failure.reason == "IMAGE_FORMAT_UNKNOWN"
    key = answers["good"].encoded.image.key
    stat = embedding_pb2_grpc.EmbeddingStoreStub(channel).Stat(embedding_pb2.StatRequest(keys=[key, bytes(32)]))
    assert [status.HasField("stored") for status in stat.keys] == [True, False]
