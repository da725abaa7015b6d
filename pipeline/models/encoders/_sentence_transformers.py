"""An embedder through sentence-transformers, with none of its checkpoint's own code."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from pipeline.config import ClipConfig, RuntimeConfig, in_precision, resolve_device
from pipeline.errors import ModelError
from pipeline.models.encoders import _selfcheck
from pipeline.models.encoders.base import INSTRUCTION, Features, JointEncoder
from pipeline.models.loading import failed
from pipeline.models.quiet import tame_transformers

ADVICE = "Its folder is damaged, or it is another kind of model: choose another with --clip."
BOTH = ({"image", "text"}, {"message"})
"""Modalities of sentence-transformers by which an image is embedded with a text."""


@dataclass(frozen=True)
class Scaled:
    """Scales a picture down to ``longest_side`` pixels, as it would be sent to a server."""

    longest_side: int

    def __call__(self, image: Image.Image) -> Image.Image:
        small = image.copy()
        small.thumbnail((self.longest_side, self.longest_side))
        return small


class SentenceEncoder(JointEncoder):
    """Features as the checkpoint's last module gives them; most end in unit length."""

    def __init__(self, config: ClipConfig, runtime: RuntimeConfig) -> None:
        self.name = f"The encoder {config.model}"
        self.device = resolve_device(runtime.device)
        self.batch = runtime.embed_batch
        self._prepare = Scaled(config.longest_side)
        tame_transformers()
        dtype = getattr(torch, in_precision(config, runtime).precision)
        weights = {} if runtime.allow_pickle else {"use_safetensors": True}
        try:
            self.model = SentenceTransformer(
                config.model,
                device=self.device,
                trust_remote_code=False,
                model_kwargs={"dtype": dtype, **weights},
            )
        except Exception as error:
            advice = "Check the name and the network, or give a folder."
            raise failed(self.name, error, advice, "--allow-pickle", config.model) from error
        self.model.eval().requires_grad_(False)
        first: Any = self.model[0]
        known: Any = getattr(first, "modality_config", {})
        self._modalities = [{key} if isinstance(key, str) else set(key) for key in known]
        if {"image"} not in self._modalities:
            raise ModelError(f"{self.name} embeds no images. Choose another with --clip.")
        told = INSTRUCTION if {"message"} in self._modalities else None
        self._told = (config.image_instruction or told, config.text_instruction or told)
        self._checked_pairs = False
        _selfcheck.check(self, self.name, ADVICE)

    @property
    def prepare(self) -> Callable[[Image.Image], Image.Image]:
        """Scaling down; the model's own processor does the rest."""
        return self._prepare

    def images(self, prepared: Sequence[Image.Image]) -> Features:
        """Return features (n, d) of pictures."""
        return self._encode([{"image": image} for image in prepared], self._told[0])

    def texts(self, texts: Sequence[str]) -> Features:
        """Return features (n, d) of texts; one that is too long is cut."""
        return self._encode([{"text": text} for text in texts], self._told[1])

    def pairs(
        self, prepared: Sequence[Image.Image], texts: Sequence[str], instruction: str
    ) -> Features:
        """Return features (n, d) of pictures with a text each."""
        pairs = zip(prepared, texts, strict=True)
        return self._encode([{"image": i, "text": text} for i, text in pairs], instruction)

    def check_pairs(self) -> None:
        """Raise ModelError for a model that embeds no image with a text."""
        if not any(BOTH[0] <= one or one == BOTH[1] for one in self._modalities):
            raise ModelError(
                f"{self.name} embeds no image together with a text. --method sum adds the two; or "
                "choose a joint embedder with --clip."
            )
        if not self._checked_pairs:
            _selfcheck.check_pairs(self, self.name, INSTRUCTION, ADVICE)
            self._checked_pairs = True

    def _encode(self, inputs: list[dict[str, Any]], instruction: str | None) -> Features:
        made = self.model.encode(
            inputs,
            prompt=instruction,
            batch_size=self.batch,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(made, dtype=np.float32)
