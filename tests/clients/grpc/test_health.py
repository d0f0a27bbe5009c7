"""Health, as probes and load balancers ask for it."""

import queue
import threading

import grpc
import pytest
from conftest import start, stop
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICES = ("", "tessera.gateway.v1.Gateway", "tessera.embedding.v1.EmbeddingStore")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.feature("grpcio", "health")
@pytest.mark.parametrize("service", SERVICES)
def test_the_server_and_each_service_are_healthy(gateway, service):
    with grpc.insecure_channel(gateway.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING


@pytest.mark.feature("grpcio", "health")
def test_nothing_is_known_of_a_service_that_is_not_there(gateway):
    with grpc.insecure_channel(gateway.address) as channel, pytest.raises(grpc.RpcError) as failed:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert failed.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.feature("grpcio", "health, watched until the server drains")
def test_a_watch_says_that_the_server_stops_and_ends():
    process, gateway = start()
    try:
        with grpc.insecure_channel(gateway.address) as channel:
            seen = {service: queue.Queue() for service in SERVICES}
            threads = [threading.Thread(target=watch, args=(channel, *one)) for one in seen.items()]
            for thread in threads:
                thread.start()
            for statuses in seen.values():
                assert statuses.get(timeout=30) == SERVING
            assert stop(process) == 0, "an open watch must not hold the server"
            for thread in threads:
                thread.join(timeout=30)
            for service, statuses in seen.items():
                assert statuses.get_nowait() == NOT_SERVING, service
                # The stream ends. C++'s client may see that as the end of the connection, too.
                assert isinstance(statuses.get_nowait(), (type(None), grpc.RpcError)), service
    finally:
        process.kill()


def watch(channel, service, statuses):
    """Puts every status, then how the watch ended."""
    try:
        for response in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service)):
            statuses.put(response.status)
        statuses.put(None)
    except grpc.RpcError as error:
        statuses.put(error)
