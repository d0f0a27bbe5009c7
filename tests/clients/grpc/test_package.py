"""The Python package as one gets it: its examples, and what `python -m build` makes of it."""

import json
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from asking import EASY
from conftest import QUESTIONS, ROOT, SAMPLES

PACKAGE = ROOT / "proto/python"


def example(gateway, name: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs an example to its end."""
    command = [sys.executable, str(PACKAGE / "examples" / name), *arguments, "--server", gateway.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.feature("tessera (Python)", "its examples")
def test_the_first_example_asks(gateway):
    image, turn = str(SAMPLES / EASY["images"][0]), EASY["turns"][0]
    shown = example(gateway, "ask.py", image, turn["question"])
    assert (shown.returncode, shown.stdout) == (0, turn["answer"] + "\n"), shown.stderr
    assert "image tokens" in shown.stderr
    failed = example(gateway, "ask.py", __file__, turn["question"])
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "(IMAGE_FORMAT_UNKNOWN)" in failed.stderr


@pytest.mark.feature("tessera asyncio (Python)", "its examples")
def test_the_second_example_encodes_a_folder_and_asks_about_it(gateway, tmp_path):
    asked = [question for question in QUESTIONS if question["kind"] == "read word"][:4]
    for question in asked:
        shutil.copy(SAMPLES / question["images"][0], tmp_path)
    shown = example(gateway, "encode_folder_then_ask.py", str(tmp_path), "Read the text.")
    assert shown.returncode == 0, shown.stderr
    assert dict(line.split(": ") for line in shown.stdout.splitlines()).keys() == {
        question["images"][0] for question in asked
    }
    (tmp_path / "broken.png").write_bytes(b"no image")
    shown = example(gateway, "encode_folder_then_ask.py", str(tmp_path), "Read the text.")
    assert (shown.returncode, len(shown.stdout.splitlines())) == (1, len(asked))
    assert "broken.png: IMAGE_FORMAT_UNKNOWN" in shown.stderr


@pytest.mark.feature("tessera (Python)", "its examples")
def test_the_third_example_has_an_answer_of_a_form(gateway):
    question = next(question for question in QUESTIONS if question["turns"][0]["question"] == "Do you see a word?")
    shown = example(gateway, "structured_output.py", str(SAMPLES / question["images"][0]))
    assert shown.returncode == 0, shown.stderr
    described, _, judged = shown.stdout.rpartition("a word: ")
    assert json.loads(described).keys() == {"description", "has_text", "shapes"}
    assert judged.startswith(question["reference"])


@pytest.mark.feature("tessera (Python)", "built from a source distribution")
def test_a_source_distribution_holds_all_that_a_wheel_is_made_of(tmp_path):
    # Makes the wheel from the source distribution, away from the repository.
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(PACKAGE)], check=True, capture_output=True
    )
    (source,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    names = {
        pathlib.PurePath(name).relative_to(source.name.removesuffix(".tar.gz")).as_posix()
        for name in tarfile.open(source).getnames()
    }
    assert {"proto/tessera/gateway/v1/gateway.proto", "src/tessera/client.py", "examples/ask.py"} <= names
    assert not {name for name in names if "_pb2" in name}, "what is generated is generated where it is needed"
    wheel_names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "tessera/py.typed",
        "tessera/gateway/v1/gateway_pb2.pyi",
        "tessera/embedding/v1/embedding_pb2_grpc.py",
    } <= wheel_names
