"""CLIP, SigLIP and their like through transformers: an image tower and a text tower."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from pipeline.config import ClipConfig, RuntimeConfig, in_precision, resolve_device
from pipeline.errors import ModelError
from pipeline.models.encoders import _selfcheck
from pipeline.models.encoders.base import Encoder
from pipeline.models.loading import failed, pretrained
from pipeline.models.quiet import tame_transformers

ADVICE = "Its weights or its tokenizer are not those it was trained with: copy the folder again."
TOWERS = ("get_image_features", "get_text_features")
FIXED = "siglip"
"""Model types that begin so were trained on texts padded to their full length."""


@dataclass(frozen=True)
class Processed:
    """Makes a picture ready as the checkpoint's processor does: float32 (3, height, width)."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        pixels: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels


class TwoTowers(Encoder):
    """Features are returned raw (not normalised), as ``--method sum`` adds them."""

    def __init__(self, config: ClipConfig, runtime: RuntimeConfig) -> None:
        name = config.model
        self.name = f"The encoder {name}"
        self.device = resolve_device(runtime.device)
        self.dtype = getattr(torch, in_precision(config, runtime).precision)
        tame_transformers()
        try:
            processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            model: Any = pretrained(AutoModel, name, dtype=self.dtype)
        except Exception as error:
            advice = "Check the name and the network, or give a folder."
            raise failed(self.name, error, advice, name=name) from error
        if not all(hasattr(model, tower) for tower in TOWERS):
            kind = type(model).__name__
            raise ModelError(f"{self.name} is a {kind}, which has no image and text tower.")
        self._prepare = Processed(processor)
        if self.prepare(_selfcheck.pictures()[0]).ndim != 3:
            raise ModelError(f"{self.name} takes images of any shape, which is not supported.")
        text = model.config.text_config
        self.padding = "max_length" if model.config.model_type.startswith(FIXED) else True
        self.length = int(text.max_position_embeddings)
        self.model = model.to(self.device).eval().requires_grad_(False)
        _selfcheck.check(self, self.name, ADVICE)

    @property
    def prepare(self) -> Callable[[Image.Image], Tensor]:
        """Resizing, cropping and colours, as the checkpoint's own processor has them."""
        return self._prepare

    @torch.inference_mode()
    def images(self, prepared: Tensor) -> NDArray[np.float32]:
        """Encode prepared images (n, 3, height, width) to features (n, d)."""
        pixels = prepared.to(self.device, self.dtype)
        return _numpy(self.model.get_image_features(pixel_values=pixels))

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to features (n, d); longer texts are cut at the model's length."""
        tokens = self.tokenizer(
            list(texts),
            padding=self.padding,
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        ).to(self.device)
        if self.padding is not True:
            tokens = {"input_ids": tokens["input_ids"]}  # it attends to the padding, too
        return _numpy(self.model.get_text_features(**tokens))


def _numpy(features: Any) -> NDArray[np.float32]:
    """Return features; transformers gives them in an output with others since version 5."""
    found = features if isinstance(features, Tensor) else features.pooler_output
    array: NDArray[np.float32] = found.float().cpu().numpy()
    return array
