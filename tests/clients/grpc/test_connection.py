"""What goes on below the calls: compression and keep-alive, seen on the wire."""

import time

import grpc
import pytest
from asking import EASY, request_of, stub_of, text_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from reflected import VERSIONS, Reflected
from relay import Relay
from tessera.embedding.v1 import embedding_pb2, embedding_pb2_grpc

# Neither side of the channel compresses, nor says that it could.
NO_COMPRESSION = [("grpc.compression_enabled_algorithms_bitset", 1)]


@pytest.fixture
def relay(gateway):
    """Counts bytes on their way to the gateway."""
    with Relay(gateway.host, gateway.port) as relay:
        yield relay


def exchange(relay: Relay, request, options=(), compression=None) -> tuple[str, int, int]:
    """The text of an answer, and the bytes that were sent for it and that came."""
    sent, received = relay.sent, relay.received
    with grpc.insecure_channel(relay.address, options, compression) as channel:
        text = text_of(stub_of(channel).Generate(request))
    return text, relay.sent - sent, relay.received - received


@pytest.mark.feature("grpcio", "compression")
def test_what_the_client_compresses_is_understood_and_what_it_accepts_is_compressed(relay):
    request = request_of(prompt_logprobs=20)
    # Words that compress well, to ask and in the answer.
    request.messages[0].parts[1].text += " Read the text." * 200
    plain, plain_sent, plain_received = exchange(relay, request, NO_COMPRESSION)
    zipped, zipped_sent, zipped_received = exchange(relay, request, (), grpc.Compression.Gzip)
    assert plain == zipped
    # Most of what is sent is the picture, which does not become smaller.
    assert zipped_sent < plain_sent - 2000
    assert zipped_received < plain_received / 2
    assert plain_received > 100_000, "a client that does not accept compression gets none"


@pytest.mark.feature("grpcio", "compression")
def test_every_service_takes_what_is_compressed(gateway):
    with grpc.insecure_channel(gateway.address, compression=grpc.Compression.Gzip) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stored = embedding_pb2_grpc.EmbeddingStoreStub(channel).Stat(embedding_pb2.StatRequest(keys=[bytes(32)]))
        assert len(stored.keys) == 1
        for version in VERSIONS:
            assert "tessera.gateway.v1.Gateway" in Reflected(channel, version).services()


@pytest.mark.feature("grpcio", "keep-alive of an idle connection")
def test_a_client_that_pings_without_calls_keeps_its_connection(relay):
    options = [
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.keepalive_timeout_ms", 2000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    answer = EASY["turns"][0]["answer"]
    with grpc.insecure_channel(relay.address, options) as channel:
        assert text_of(stub_of(channel).Generate(request_of())) == answer
        sent = relay.sent
        time.sleep(10)
        # A ping and its answer are 17 bytes each way.
        assert relay.sent - sent >= 5 * 17, "the client did not ping"
        assert text_of(stub_of(channel).Generate(request_of())) == answer
        assert relay.connections == 1, "the server must not send away who pings"
