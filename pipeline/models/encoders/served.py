"""A multimodal embedder (Qwen3-VL-Embedding and the like) behind vLLM's ``/v1/embeddings``.

One conversation a request: the instruction as system turn, then the user's image and text, then the
empty turn of the assistant that is gone on with (vLLM issues 33167 and 32069). Each part of that
form matters: without one, vectors come that are wrong and do not look it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.errors import ModelError
from pipeline.images.files import data_url
from pipeline.models.encoders import _selfcheck
from pipeline.models.encoders.base import (
    INSTRUCTION,
    EncoderKind,
    Features,
    JointEncoder,
    Vector,
)
from pipeline.models.serving.endpoints import EMBEDDINGS
from pipeline.models.serving.replicas import connect

ADVICE = (
    "It must be served by vLLM with --runner pooling and its own chat template "
    "(docs/encoders.md#served)."
)

RETRIES_AT_FIRST = 2
"""Retries of the self-check's requests: a server that fails from the start is refused soon, where
one that fails after hours is waited for."""


@dataclass(frozen=True)
class Sent:
    """Makes a picture ready to be sent: a data URL, scaled down to ``longest_side`` pixels."""

    longest_side: int

    def __call__(self, image: Image.Image) -> str:
        return data_url(image, self.longest_side)


def conversation(instruction: str, image: str | None, text: str) -> dict[str, Any]:
    """Return a request's body for an image, a data URL, with a text, or for either alone."""
    shown = [] if image is None else [{"type": "image_url", "image_url": {"url": image}}]
    return {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": instruction}]},
            {"role": "user", "content": [*shown, {"type": "text", "text": text}]},
            {"role": "assistant", "content": [{"type": "text", "text": ""}]},
        ],
        "continue_final_message": True,
        "add_special_tokens": True,
        "encoding_format": "float",
    }


class ServedEncoder(JointEncoder):
    """Asks for a vector a request, with as many in flight as the server takes."""

    def __init__(self, config: ClipConfig, runtime: RuntimeConfig) -> None:
        self.config = config
        self._prepare = Sent(config.longest_side)
        self.name = f"The encoder {config.model} at {_shown(config.url)}"
        self._checked_pairs = False
        impatient = runtime.model_copy(update={"retries": min(runtime.retries, RETRIES_AT_FIRST)})
        self.client = connect(config.url, config.model, impatient, endpoint=EMBEDDINGS)
        _selfcheck.check(self, self.name, ADVICE)
        self.client = connect(config.url, config.model, runtime, endpoint=EMBEDDINGS)

    @property
    def prepare(self) -> Callable[[Image.Image], str]:
        """Scaling down and encoding for the request."""
        return self._prepare

    def stream(self, prepared: Iterable[str]) -> Iterator[tuple[int, Vector | str]]:
        """Yield each image's place, and its vector or why the server gave none, as they come."""
        told = self.config.image_instruction or INSTRUCTION
        return self._ask(conversation(told, image, "") for image in prepared)

    def images(self, prepared: Sequence[str]) -> Features:
        """Return features (n, d) of pictures; raises ModelError, also where one has none."""
        return _all(self.stream(prepared), len(prepared), "an image")

    def texts(self, texts: Sequence[str]) -> Features:
        """Return features (n, d) of texts; raises ModelError, also where one has none."""
        told = self.config.text_instruction or INSTRUCTION
        made = self._ask(conversation(told, None, text) for text in texts)
        return _all(made, len(texts), "a text")

    def pairs(self, prepared: Sequence[str], texts: Sequence[str], instruction: str) -> Features:
        """Return features (n, d) of pictures with a text each; raises ModelError, as above."""
        asked = zip(prepared, texts, strict=True)
        made = self._ask(conversation(instruction, image, text) for image, text in asked)
        return _all(made, len(texts), "an image with a text")

    def check_pairs(self) -> None:
        """Raise ModelError where the server embeds an image with a text as one of the two."""
        if not self._checked_pairs:
            _selfcheck.check_pairs(self, self.name, INSTRUCTION, ADVICE)
            self._checked_pairs = True

    def _ask(self, bodies: Iterable[dict[str, Any]]) -> Iterator[tuple[int, Vector | str]]:
        for done in self.client.complete(enumerate(bodies)):
            yield done.key, done.content if done.reason is None else done.reason


def _all(made: Iterable[tuple[int, Vector | str]], count: int, what: str) -> Features:
    """Return vectors by their place (count, d); raises ModelError where one is missing."""
    found: dict[int, Vector] = {}
    for place, vector in made:
        if isinstance(vector, str):
            raise ModelError(
                f"The server embeds {what} not: {vector}. What was embedded is kept; mend that, "
                "then repeat the same command."
            )
        found[place] = vector
    if len({len(vector) for vector in found.values()}) > 1:
        raise ModelError("The server's vectors differ in length: it serves several models as one.")
    return np.stack([found[place] for place in range(count)])


def _shown(url: str | Sequence[str]) -> str:
    from pipeline.masking import without_credentials

    urls = [url] if isinstance(url, str) else list(url)
    return ", ".join(without_credentials(one.rstrip("/"))[0] for one in urls)


def _identity(settings: ClipConfig) -> dict[str, Any]:
    return {
        "encoder": "served",
        "model": settings.model,
        "image_instruction": settings.image_instruction or INSTRUCTION,
        "text_instruction": settings.text_instruction or INSTRUCTION,
        "longest_side": settings.longest_side,
    }


KIND = EncoderKind(load=ServedEncoder, identity=_identity, served=True, threads=True, joint=True)
