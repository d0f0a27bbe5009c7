"""Asks LLaVA-NeXT models that Tessera serves about pictures.

`Client` blocks, `AsyncClient` is for asyncio; both have the same methods. The generated messages and stubs are beside
them: `tessera.gateway.v1.gateway_pb2`, `tessera.embedding.v1.embedding_pb2`.
"""

from tessera.access import Retries, Tls
from tessera.aio import AsyncClient
from tessera.answer import Answer, AsyncAnswer
from tessera.client import Client
from tessera.errors import Field, Kind, TesseraError
from tessera.images import Handle, Image
from tessera.results import (
    Delta,
    Encoded,
    FinishReason,
    ImagePlan,
    Logprobs,
    Outcome,
    Sample,
    Size,
    Stored,
    Timings,
    TokenLogprob,
    Usage,
)
from tessera.settings import Settings, Turn

__all__ = [
    "Answer",
    "AsyncAnswer",
    "AsyncClient",
    "Client",
    "Delta",
    "Encoded",
    "Field",
    "FinishReason",
    "Handle",
    "Image",
    "ImagePlan",
    "Kind",
    "Logprobs",
    "Outcome",
    "Retries",
    "Sample",
    "Settings",
    "Size",
    "Stored",
    "TesseraError",
    "Timings",
    "Tls",
    "TokenLogprob",
    "Turn",
    "Usage",
]
