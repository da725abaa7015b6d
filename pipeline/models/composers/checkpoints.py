"""Checkpoints of composers: safetensors with the whole configuration inside, for one encoder."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from pipeline.errors import ConfigError, ModelError
from pipeline.models import composers
from pipeline.models.composers.base import Head

CONFIGURATION = "configuration"
"""The key of the file's metadata that holds how it was trained, as JSON."""
WEIGHTS = ("model", "pretrained", "kind")
"""What tells one encoder's weights from another's in its identity."""


def configuration(file: Path) -> dict[str, Any]:
    """Return how a checkpoint was trained: head, sizes, encoder, settings; raises ModelError."""
    if not file.is_file():
        raise ModelError(
            f"There is no file {file} with a composer. Train one with `seize train composer`, or "
            "give another: --set search.composer.checkpoint=FILE"
        )
    return dict(_configuration(file.absolute(), _state(file)))


def load(file: Path, encoder: Mapping[str, Any] | None = None, d: int | None = None) -> Head:
    """Return the head of a checkpoint, ready to compose, for an encoder and its width.

    Raises ModelError for a file that holds no composer, and for one of another encoder: by its
    width, with both, or by its weights. What is None is not compared.
    """
    told = configuration(file)
    check(file, told, encoder, d)
    return _loaded(file.absolute(), _state(file))


def check(
    file: Path, told: Mapping[str, Any], encoder: Mapping[str, Any] | None, d: int | None
) -> None:
    """Raise ModelError where a checkpoint's configuration is of another encoder."""
    width = told["sizes"]["d"]
    advice = "Train one for this encoder with `seize train composer`, or choose its encoder."
    if d is not None and d != width:
        raise ModelError(
            f"{file} composes features of shape (queries, {width}), this encoder's have "
            f"(queries, {d}). {advice}"
        )
    theirs = told.get("encoder") or {}
    if encoder is not None and theirs and _weights(theirs) != _weights(encoder):
        raise ModelError(
            f"{file} was trained on features of {_named(theirs)}, and these are of "
            f"{_named(encoder)}: their spaces differ though both may be {width} wide. {advice}"
        )


def _weights(encoder: Mapping[str, Any]) -> dict[str, Any]:
    return {name: encoder.get(name) for name in WEIGHTS} if "model" in encoder else dict(encoder)


def _named(encoder: Mapping[str, Any]) -> str:
    names = [str(encoder[name]) for name in WEIGHTS if encoder.get(name)]
    return " ".join(names) or json.dumps(encoder)


def _state(file: Path) -> tuple[int, ...]:
    """Return what changes with a file's content."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


@functools.lru_cache(maxsize=16)
def _configuration(file: Path, state: tuple[int, ...]) -> dict[str, Any]:
    try:
        with safe_open(file, "pt") as opened:
            told = json.loads((opened.metadata() or {})[CONFIGURATION])
        sizes = {name: int(size) for name, size in told["sizes"].items()}
        return {**told, "head": str(told["head"]), "sizes": {"d": sizes["d"], **sizes}}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, KeyError):
            reason = f"it has no {error.args[0]}"
        raise ModelError(
            f"{file} is no composer of `seize train composer`: its configuration cannot be read "
            f"({reason})."
        ) from None


@functools.lru_cache(maxsize=4)
def _loaded(file: Path, state: tuple[int, ...]) -> Head:
    told = _configuration(file, state)
    try:
        head = composers.find(told["head"])(**told["sizes"])
        head.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    except (ConfigError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{file} does not fit its own configuration: {reason}") from None
    return head.float().eval().requires_grad_(False)
