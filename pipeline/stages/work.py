"""What an item of each stage costs its model, for ``seize plan``: by names and configurations.

BLIP-2's vision tower and Q-Former have 1.1 billion parameters beside the language model that the
name tells (3.8 of OPT-2.7b, 7.8 of OPT-6.7b: Li et al., arXiv 2301.12597, table 2) and read 257
tokens an image; the language model reads 32 of the Q-Former.
"""

import math
from typing import TYPE_CHECKING, Any

from pipeline.models import captioners, encoders, llms, sizes, verifiers
from pipeline.models.kinds import Choice
from pipeline.stages.rates import Kind, Work

if TYPE_CHECKING:
    from pipeline.run import Run

VISION, VISION_TOKENS, QUERY_TOKENS = 1.1e9, 257, 32
PROMPT_TOKENS = 5
"""Of a captioner's prompt."""
PATCH = 28
"""Pixels of an image's side that are one token of a verifier (Qwen2.5-VL)."""
QUESTION_TOKENS = 100
"""Of a verifier's question beside its images."""
CACHED = 2 * 4_096 * 32
"""Numbers of the key-value cache a token, of a language model of 7 billion parameters."""


def caption(run: "Run") -> Work:
    """Return the work of captioning an image: seen once, described several times."""
    config = run.config.captioner
    choice = captioners.ROLE.chosen(run.config)
    language, told = _size(choice)
    vision = VISION if told == "its name" else 0.0
    read, written = QUERY_TOKENS + PROMPT_TOKENS, config.max_new_tokens
    batch = run.config.runtime.caption_batch
    return Work(
        "caption", "images", choice.name, "decode",
        None if language is None
        else 2 * (vision * VISION_TOKENS + language * config.samples * (read + written)),
        streamed=written * (language or 0.0) / batch,
        weights=None if language is None else language + vision,
        values=batch * config.samples * (read + written) * _cached(language),
        served=choice.kind.served,
        told=told,
    )  # fmt: skip


def edit(run: "Run", prompt_tokens: float, answered: float) -> Work:
    """Return the work of one prompt; of ``prompt_tokens`` and at most ``answered`` ones."""
    choice = llms.ROLE.chosen(run.config)
    return _generated("edit", "captions", choice, prompt_tokens, answered, _at_once(run, choice))


def write(run: "Run", prompt_tokens: float, answered: float) -> Work:
    """Return the work of one prompt of the synthesize stage, as that of ``edit``."""
    choice = llms.ROLE.chosen(run.config)
    at_once = _at_once(run, choice)
    return _generated("synthesize", "texts", choice, prompt_tokens, answered, at_once)


def verify(run: "Run", images: int) -> Work:
    """Return the work of one call with so many images: all is read, one token is answered."""
    choice = verifiers.ROLE.chosen(run.config)
    tokens = images * (run.config.verifier.longest_side / PATCH) ** 2 + QUESTION_TOKENS
    at_once = run.config.runtime.verify_batch
    return _generated("verify", "verdicts", choice, tokens, 1, at_once)


def _generated(
    stage: str, unit: str, choice: Choice[Any, Any], read: float, written: float, at_once: int
) -> Work:
    size, told = _size(choice)
    return Work(
        stage, unit, choice.name, "decode",
        None if size is None else 2 * size * (read + written),
        streamed=written * (size or 0.0) / at_once,
        weights=size,
        values=at_once * (read + written) * _cached(size),
        served=choice.kind.served,
        told=told,
    )  # fmt: skip


def embed(run: "Run", unit: str) -> Work:
    """Return the work of embedding one of the ``images`` or ``texts``."""
    choice = encoders.ROLE.chosen(run.config)
    both = sizes.towers(choice.settings) if choice.kind_name == "open_clip" else None
    kind: Kind = "encode"
    if both is None:
        size, told = _size(choice)
        served = choice.kind.served
        return Work("embed", unit, choice.name, kind, None, 0, size, 0, served, told)
    tower = both[0 if unit == "images" else 1]
    return Work(
        "embed", unit, choice.name, kind,
        tower.operations,
        weights=sum(one.parameters for one in both),
        values=run.config.runtime.embed_batch * tower.values,
        told="its configuration",
    )  # fmt: skip


def search(run: "Run", images: float, width: int | None) -> Work:
    """Return the work of ranking ``images`` of ``width`` dimensions for a query, at both ends."""
    operations = None if width is None else 4.0 * images * width
    method = run.config.search.method
    return Work("search", "queries", method, "scan", operations, told="two products a query")


def untold(run: "Run", stage: str, unit: str) -> Work:
    """Return the work of what no formula is kept for: a run's own timing tells."""
    role = llms.ROLE if stage == "decompose" else encoders.ROLE
    return Work(stage, unit, role.chosen(run.config).name, "decode", None)


def _at_once(run: "Run", choice: Choice[Any, Any]) -> int:
    """Return how many prompts are worked on at a time."""
    return (run.config.runtime.concurrency if choice.kind.served else None) or (
        run.config.runtime.edit_batch
    )


def _size(choice: Choice[Any, Any]) -> tuple[float | None, str]:
    found = sizes.parameters(choice.name)
    return found or (None, "")


def _cached(size: float | None) -> float:
    """Return the numbers of the key-value cache a token: they grow about as the weights do."""
    return CACHED * math.pow(min((size or 0.0) / 7e9, 10.0), 2 / 3)
