"""A client that learns all that it needs from the server."""

import grpc
import pytest
from asking import EASY, image_of
from reflected import VERSIONS, Reflected

SERVICES = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "tessera.embedding.v1.EmbeddingStore",
    "tessera.gateway.v1.Gateway",
}


@pytest.mark.feature("grpcio", "reflection")
@pytest.mark.parametrize("version", VERSIONS)
def test_every_service_is_listed_and_can_be_described(gateway, version):
    with grpc.insecure_channel(gateway.address) as channel:
        services = Reflected(channel, version).services()
        assert SERVICES <= set(services)
        assert not {service for service in services if "Worker" in service}, "the workers are served elsewhere"
        for service in services:
            reflected = Reflected(channel, version)
            reflected.learn(service)
            assert reflected.pool.FindServiceByName(service).methods


@pytest.mark.feature("grpcio", "reflection")
@pytest.mark.parametrize("version", VERSIONS)
def test_a_question_is_asked_with_messages_that_only_reflection_told_of(gateway, version):
    with grpc.insecure_channel(gateway.address) as channel:
        reflected = Reflected(channel, version)
        reflected.learn("tessera.gateway.v1.Gateway")
        request = reflected.message("tessera.gateway.v1.GenerateRequest")()
        message = request.messages.add(role=2)
        message.parts.add().image.data = image_of(EASY)
        message.parts.add().text = EASY["turns"][0]["question"]
        events = list(reflected.method("tessera.gateway.v1.Gateway", "Generate")(request))
    assert "".join(event.delta.text for event in events) == EASY["turns"][0]["answer"]
    assert events[0].started.images[0].tiles > 1
    assert events[-1].finished.usage.completion_tokens > 0
