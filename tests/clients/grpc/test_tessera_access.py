"""What the Python package does that a gateway of one machine does not ask for: retries, TLS and tokens, before a server of its own making."""

import asyncio
import contextlib
import time
from concurrent import futures

import grpc
import pytest
import tessera
import trustme
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from tessera.gateway.v1 import gateway_pb2, gateway_pb2_grpc

CLIENTS = ["tessera (Python)", "tessera asyncio (Python)"]


class Server(gateway_pb2_grpc.GatewayServicer):
    """Answers with what it was told, in turn; the last one again and again."""

    def __init__(self, *turns):
        self.turns = list(turns)
        self.calls: list[dict] = []

    def Generate(self, _, context):  # noqa: N802 - the contract's name
        """Answers one question."""
        self.calls.append(
            dict(context.invocation_metadata()) | {"left": context.time_remaining(), "at": time.monotonic()}
        )
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        for event in turn:
            if isinstance(event, status_pb2.Status):
                context.abort_with_status(rpc_status.to_status(event))
            yield event


@contextlib.contextmanager
def serving(server: Server, credentials=None):
    """Serves for a while; gives the port."""
    running = grpc.server(futures.ThreadPoolExecutor(4))
    gateway_pb2_grpc.add_GatewayServicer_to_server(server, running)
    port = (
        running.add_secure_port("localhost:0", credentials) if credentials else running.add_insecure_port("localhost:0")
    )
    running.start()
    yield port
    running.stop(0).wait()


def refusal(code: grpc.StatusCode, reason: str, seconds: float | None = None) -> status_pb2.Status:
    """A refusal as the gateway's are."""
    details = [error_details_pb2.ErrorInfo(reason=reason, domain="tessera")]
    if seconds is not None:
        delay = (
            duration_pb2.Duration(nanos=int(seconds * 1e9))
            if seconds < 1
            else duration_pb2.Duration(seconds=int(seconds))
        )
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message="not now", details=packed)


STARTED = gateway_pb2.GenerateResponse(started=gateway_pb2.Started())
DELTA = gateway_pb2.GenerateResponse(delta=gateway_pb2.Delta(text="yes"))
FINISHED = gateway_pb2.GenerateResponse(finished=gateway_pb2.Finished(reason=gateway_pb2.FINISH_REASON_STOP))
ANSWER = [STARTED, DELTA, FINISHED]
FULL = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 0.3)
LOST = refusal(grpc.StatusCode.UNAVAILABLE, "POOL_LOST")


def ask(client: str, *arguments, timeout: float | None = None, **named) -> str:
    """The text of an answer, through one of the clients."""
    if client == CLIENTS[0]:
        with tessera.Client(*arguments, **named) as blocking:
            return blocking.ask("?", timeout=timeout).text

    async def asking():
        async with tessera.AsyncClient(*arguments, **named) as awaiting:
            return (await (await awaiting.ask("?", timeout=timeout)).finish()).text

    return asyncio.run(asking())


def of_both(feature: str):
    """Makes a test one of both clients, and of a feature of each."""
    return pytest.mark.parametrize(
        "client", [pytest.param(name, marks=pytest.mark.feature(name, feature)) for name in CLIENTS]
    )


@of_both("retries")
def test_a_refusal_is_asked_again_after_the_time_that_it_names(client):
    server = Server([FULL], [FULL], ANSWER)
    with serving(server) as port:
        assert ask(client, f"localhost:{port}") == "yes"
    first, second, third = (call["at"] for call in server.calls)
    assert second - first >= 0.3
    assert third - second >= 0.3


@of_both("retries")
def test_a_server_that_is_lost_is_asked_again_after_a_pause(client):
    server = Server([LOST], ANSWER)
    with serving(server) as port:
        assert ask(client, f"localhost:{port}") == "yes"
    assert len(server.calls) == 2


@of_both("retries")
def test_what_is_not_worth_while_is_not_asked_again(client):
    long = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", 60)
    invalid = refusal(grpc.StatusCode.INVALID_ARGUMENT, "VALUE_OUT_OF_RANGE")
    silent = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    for turn, calls, named, reason in [
        ([long], 1, {}, "QUOTA_EXCEEDED"),
        ([invalid], 1, {}, "VALUE_OUT_OF_RANGE"),
        ([silent], 1, {}, "QUEUE_FULL"),
        ([FULL], 1, {"timeout": 0.25}, "QUEUE_FULL"),
        ([FULL], 3, {"retries": tessera.Retries(attempts=3)}, "QUEUE_FULL"),
        ([STARTED, DELTA, LOST], 1, {}, "POOL_LOST"),
    ]:
        server = Server(turn)
        with serving(server) as port, pytest.raises(tessera.TesseraError) as failed:
            ask(client, f"localhost:{port}", **named)
        assert (failed.value.reason, len(server.calls)) == (reason, calls)
        if turn == [long]:
            assert failed.value.retry_after == 60


@of_both("deadlines")
def test_a_call_has_the_deadline_of_its_own_or_the_clients(client):
    server = Server(ANSWER)
    with serving(server) as port:
        ask(client, f"localhost:{port}", timeout=50)
        # gRPC rounds up what it sends.
        assert 40 < server.calls[-1]["left"] < 55
        ask(client, f"localhost:{port}")
        assert server.calls[-1]["left"] is None or server.calls[-1]["left"] > 1e6


@of_both("TLS and tokens")
def test_the_server_is_known_by_its_certificate_and_the_client_by_its_token(client):
    authority, server = trustme.CA(), Server(ANSWER)
    own, identity = authority.issue_cert("gateway.example"), authority.issue_cert("client")
    ca = authority.cert_pem.bytes()
    chain = b"".join(part.bytes() for part in own.cert_chain_pems)
    mutual = grpc.ssl_server_credentials([(own.private_key_pem.bytes(), chain)], ca, require_client_auth=True)
    certificate = b"".join(part.bytes() for part in identity.cert_chain_pems)
    tls = tessera.Tls(ca=ca, certificate=certificate, key=identity.private_key_pem.bytes(), name="gateway.example")
    never = tessera.Retries(attempts=1)
    with serving(server, mutual) as port:
        url = f"https://localhost:{port}"
        assert ask(client, url, token="secret", tls=tls) == "yes"
        assert server.calls[-1]["authorization"] == "Bearer secret"
        for wrong in (
            tessera.Tls(ca=ca, name="gateway.example"),
            tessera.Tls(name="gateway.example"),
            tessera.Tls(ca=ca),
        ):
            with pytest.raises(tessera.TesseraError) as failed:
                ask(client, url, tls=wrong, retries=never)
            assert failed.value.kind is tessera.Kind.UNAVAILABLE
    assert len(server.calls) == 1


@of_both("errors with their reasons")
def test_who_does_not_keep_to_the_contract_is_told_so(client):
    for turn in ([], [STARTED, DELTA]):
        with serving(Server(turn)) as port, pytest.raises(tessera.TesseraError) as failed:
            ask(client, f"localhost:{port}")
        assert failed.value.reason == "CONTRACT_BROKEN"


@of_both("errors with their reasons")
def test_a_server_that_is_not_there_is_unreachable(client):
    with pytest.raises(tessera.TesseraError) as failed:
        ask(client, "127.0.0.1:1", retries=tessera.Retries(attempts=2))
    assert (failed.value.kind, failed.value.reason) == (tessera.Kind.UNAVAILABLE, "UNREACHABLE")
