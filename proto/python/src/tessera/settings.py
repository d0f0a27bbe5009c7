"""How an answer is made, and the request that says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from tessera.gateway.v1 import gateway_pb2
from tessera.images import Image, part_of

if TYPE_CHECKING:
    from collections.abc import Iterable

_EARLY_STOPPING = {
    "heuristic": gateway_pb2.EARLY_STOPPING_HEURISTIC,
    "always": gateway_pb2.EARLY_STOPPING_ALWAYS,
    "never": gateway_pb2.EARLY_STOPPING_NEVER,
}
_GENERATORS = {"counter": gateway_pb2.GENERATOR_UNSPECIFIED, "torch": gateway_pb2.GENERATOR_TORCH}
#: Settings that are called the same on the wire.
_PLAIN = frozenset(
    {
        "max_tokens", "min_tokens", "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty",
        "presence_penalty", "frequency_penalty", "no_repeat_ngram", "logit_bias", "seed", "stop_token_ids",
        "include_stop", "ignore_end", "logprobs", "prompt_logprobs", "samples",
    }
)  # fmt: skip
_FORMS = ("json_schema", "regex", "lark", "choices")


class Settings(TypedDict, total=False):
    """How an answer is made. What is left out comes from the checkpoint, then from the server's defaults."""

    #: New tokens at most, the end token included.
    max_tokens: int
    #: No end before so many tokens.
    min_tokens: int
    #: 0: greedy.
    temperature: float
    #: Keep the k likeliest; 0: all.
    top_k: int
    #: Keep the likeliest whose probabilities reach this sum.
    top_p: float
    #: Keep those with at least this share of the likeliest one's probability.
    min_p: float
    #: Keep the most typical up to this sum of probabilities.
    typical_p: float
    #: Divides the scores of tokens that occurred already.
    repetition_penalty: float
    #: Subtracted once from the score of every token that the answer holds.
    presence_penalty: float
    #: Subtracted as often as the answer holds the token.
    frequency_penalty: float
    #: No run of so many tokens occurs twice.
    no_repeat_ngram: int
    #: Added to the scores of these tokens; minus infinity forbids one.
    logit_bias: Mapping[int, float]
    #: Runs of tokens that never occur.
    bad_words: Sequence[Sequence[int]]
    #: Equal seeds give equal answers.
    seed: int
    #: Where the numbers of a draw come from.
    generator: Literal["counter", "torch"]
    #: The answer ends in front of the first of these.
    stop: str | Sequence[str]
    #: These end an answer as well.
    stop_token_ids: Sequence[int]
    #: Keep the text of what stopped the answer.
    include_stop: bool
    #: Do not end at the checkpoint's end tokens.
    ignore_end: bool
    #: Log-probabilities with every new token, and those of so many of the likeliest at its place.
    logprobs: int
    #: The same for the prompt.
    prompt_logprobs: int
    #: Answers to the same prompt.
    samples: int
    #: Search with so many beams instead of choosing a token at a time.
    beams: int
    #: The sum of log-probabilities is divided by the length to this power.
    length_penalty: float
    #: When a search ends that has enough finished answers.
    early_stopping: Literal["heuristic", "always", "never"]
    #: The answer is JSON of this schema.
    json_schema: str | Mapping[str, Any]
    #: The whole answer matches this regular expression.
    regex: str
    #: The answer is of this grammar, in Lark's notation.
    lark: str
    #: The answer is one of these.
    choices: Sequence[str]


class Turn(NamedTuple):
    """An earlier question and its answer. A pair of texts is one, too."""

    question: str
    answer: str
    #: Images that stood before the question.
    images: Sequence[Image] = ()


def generate_request(
    text: str,
    images: Iterable[Image],
    system: str | None,
    history: Iterable[Turn | tuple[str, str]],
    settings: Settings,
) -> gateway_pb2.GenerateRequest:
    """Builds the request of a question. Reads the files of its images."""
    messages = []
    if system is not None:
        messages.append(_message(gateway_pb2.ROLE_SYSTEM, system, ()))
    for turn in history:
        question, answer, shown = Turn(*turn)
        messages.append(_message(gateway_pb2.ROLE_USER, question, shown))
        messages.append(_message(gateway_pb2.ROLE_ASSISTANT, answer, ()))
    messages.append(_message(gateway_pb2.ROLE_USER, text, images))
    return gateway_pb2.GenerateRequest(messages=messages, settings=generation_settings(settings))


def _message(role: gateway_pb2.Role, text: str, images: Iterable[Image]) -> gateway_pb2.Message:
    if isinstance(images, (str, bytes)):
        raise TypeError("images is a list of images: put the one that there is into a list")
    parts = [gateway_pb2.Part(image=part_of(image)) for image in images]
    return gateway_pb2.Message(role=role, parts=[*parts, gateway_pb2.Part(text=text)])


def generation_settings(settings: Settings) -> gateway_pb2.GenerationSettings:
    """Turns settings into those of the wire. Values are judged by the server, names here."""
    rest: dict[str, Any] = dict(settings)
    wire = gateway_pb2.GenerationSettings(**{name: rest.pop(name) for name in _PLAIN & rest.keys()})
    if "stop" in rest:
        stop = rest.pop("stop")
        wire.stop.extend([stop] if isinstance(stop, str) else stop)
    for run in rest.pop("bad_words", ()):
        wire.bad_words.add(token_ids=run)
    if "generator" in rest:
        wire.generator = _named("generator", rest.pop("generator"), _GENERATORS)
    if "beams" in rest:
        wire.beam_search.beams = rest.pop("beams")
        if "length_penalty" in rest:
            wire.beam_search.length_penalty = rest.pop("length_penalty")
        if "early_stopping" in rest:
            wire.beam_search.early_stopping = _named("early_stopping", rest.pop("early_stopping"), _EARLY_STOPPING)
    forms = [form for form in _FORMS if form in rest]
    if len(forms) > 1:
        raise TypeError(f"an answer has one form, not {' and '.join(forms)}")
    for form in forms:
        _set_form(wire.constraint, form, rest.pop(form))
    if rest:
        needs = (
            " (length_penalty and early_stopping need beams)"
            if rest.keys() <= {"length_penalty", "early_stopping"}
            else ""
        )
        raise TypeError(f"unknown settings: {', '.join(sorted(rest))}{needs}")
    return wire


def _set_form(constraint: gateway_pb2.Constraint, form: str, value: Any) -> None:
    if form == "choices":
        constraint.choices.texts.extend(value)
        constraint.choices.SetInParent()
    else:
        setattr(constraint, form, json.dumps(value) if isinstance(value, Mapping) else value)


def _named(setting: str, name: str, names: Mapping[str, Any]) -> Any:
    if name not in names:
        raise ValueError(f"{setting} is {name!r}, not one of {', '.join(names)}")
    return names[name]
