"""What encoders share: the contract of a model that maps images and texts into one space."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import ClipConfig
from pipeline.models.kinds import Kind

Features = NDArray[np.float32]
"""Raw (not normalised) features, float32 (n, d)."""

Vector = NDArray[np.float32]
"""One of them (d)."""

INSTRUCTION = "Represent the user's input."
"""What joint embedders are told where nothing else is asked (Qwen3-VL-Embedding's own default)."""


class Encoder(Protocol):
    """Maps images and texts into one space. Whoever subclasses it gets the defaults."""

    device: str = "cpu"
    """Where torch computes; tensors are brought there while the batch before is encoded."""
    as_stored: bool = False
    """Whether ``prepare`` gets images in their file's own mode, not as upright RGB."""

    at_least: int | None = None
    """Pixels a side that a JPEG may be decoded at instead of its own; None: exactly."""

    @property
    def prepare(self) -> Callable[[Image.Image], Any]:
        """What makes a picture ready in the workers that decode, be they processes: picklable.

        It returns a tensor, of one shape for all pictures, or anything else that can be pickled,
        such as bytes to send. Raises InputError for a picture that cannot be used.
        """
        ...

    def images(self, prepared: Any) -> Features:
        """Return features (n, d) of prepared pictures: tensors stacked, all else as a list."""
        ...

    def texts(self, texts: Sequence[str]) -> Features:
        """Return features (n, d) of texts; one that is too long is cut."""
        ...

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """Return those of the texts that are longer than what is read of one."""
        return []


class JointEncoder(Encoder, Protocol):
    """An encoder that also maps an image with a text."""

    def pairs(self, prepared: Any, texts: Sequence[str], instruction: str) -> Features:
        """Return features (n, d) of prepared pictures, each with its text, as instructed."""
        ...

    def check_pairs(self) -> None:
        """Raise ModelError where a pair's feature is but its image's, or its text's."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """An encoder that works on many images at a time, and is done with them in any order."""

    def stream(self, prepared: Iterable[Any]) -> Iterator[tuple[int, Vector | str]]:
        """Yield each prepared picture's place, and its feature (d) or why there is none.

        Pictures are taken as they are needed. Raises ModelError if no feature can come.
        """
        ...


def _unknown(settings: ClipConfig) -> int | None:
    return None


def _untold(settings: ClipConfig, texts: Sequence[str]) -> list[int] | None:
    return None


@dataclass(frozen=True)
class EncoderKind(Kind[ClipConfig, Encoder]):
    """A kind of encoder."""

    width: Callable[[ClipConfig], int | None] = _unknown
    """Returns d without loading anything, None if that cannot be told; raises ModelError for a
    name that the kind does not know."""
    joint: bool = False
    """Whether its encoders embed an image with a text, too (``JointEncoder``)."""
    cut: Callable[[ClipConfig, Sequence[str]], list[int] | None] = _untold
    """Returns how many tokens each text has more than the encoder reads, by its tokenizer alone;
    None if that cannot be told."""
