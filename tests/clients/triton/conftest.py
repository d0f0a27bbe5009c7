"""What the tests of Triton's client share."""

import pathlib

import pytest
import tritonclient.grpc as triton

SAMPLES = pathlib.Path(__file__).resolve().parents[3] / "shared/demo-model/sample"


@pytest.fixture(scope="session")
def picture():
    """A question about a picture: text and file."""
    return "Which bar is the highest?", SAMPLES / "001.jpg"


@pytest.fixture(scope="session")
def pictures():
    """A question about two pictures: text and files."""
    return "What differs?", SAMPLES / "013a.jpg", SAMPLES / "013b.jpg"


@pytest.fixture
def client(gateway):
    """A client of the gateway."""
    with triton.InferenceServerClient(gateway.address) as client:
        yield client


@pytest.fixture(scope="session")
def model(gateway):
    """The name of the one model that is served."""
    with triton.InferenceServerClient(gateway.address) as client:
        (model,) = client.get_model_repository_index().models
    return model.name
