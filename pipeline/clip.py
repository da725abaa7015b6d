"""CLIP through open_clip: one door for any architecture, local folder or hub name."""

import difflib
import functools
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from pipeline.config import ClipConfig, RuntimeConfig, resolve_device, resolve_precision
from pipeline.errors import ModelError, nearest
from pipeline.images import MAX_PIXELS
from pipeline.loading import failed, hub

LONGEST_STRIP = 8_192
"""Pixels that a strip's longer side is scaled down to before it is padded."""


@dataclass(frozen=True)
class TargetPad:
    """Pad an image with black until its sides' ratio is at most ``ratio``.

    Baldrati et al., "Effective conditioned and composed image retrieval combining CLIP-based
    features", CVPR 2022; SEIZE uses 1.25.
    """

    ratio: float

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        longest = max(width, height)
        if longest / min(width, height) < self.ratio:
            return image
        if longest**2 / self.ratio > MAX_PIXELS:  # a strip, which would be padded to gigabytes
            image = image.copy()
            image.thumbnail((LONGEST_STRIP, LONGEST_STRIP))
            width, height = image.size
            longest = max(width, height)
        side = longest / self.ratio
        horizontal = max(int((side - width) / 2), 0)
        vertical = max(int((side - height) / 2), 0)
        padded = Image.new("RGB", (width + 2 * horizontal, height + 2 * vertical))
        padded.paste(image, (horizontal, vertical))
        return padded


class Preprocess(Protocol):
    """RGB image to a uint8 tensor (3, size, size), padded, resized and cropped for the model."""

    def __call__(self, image: Image.Image) -> Tensor: ...


class Clip:
    """A CLIP model on a device. Features are returned raw (not normalised), float32, (n, d)."""

    def __init__(self, config: ClipConfig, runtime: RuntimeConfig) -> None:
        self.device = resolve_device(runtime.device)
        self.dtype = getattr(torch, resolve_precision(config.precision, self.device))
        self.batch = runtime.embed_batch
        self.model = _load(config, runtime, self.device, self.dtype)
        self.tokenizer: Any = open_clip.get_tokenizer(config.model)
        settings = open_clip.get_model_preprocess_cfg(self.model)
        self.preprocess = _preprocess(settings, config.target_pad)
        self._mean, self._std = settings["mean"], settings["std"]

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> NDArray[np.float32]:
        """Encode preprocessed images, uint8 (n, 3, size, size), to features (n, d).

        Colours become normalised floats on the device: a quarter of the bytes travels there.
        """
        scaled = v2.functional.to_dtype(images.to(self.device), torch.float32, scale=True)
        pixels = v2.functional.normalize(scaled, list(self._mean), list(self._std))
        return _numpy(self.model.encode_image(pixels.to(self.dtype)))

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to features (n, d); longer texts are cut at the model's context length."""
        tokens = self.tokenizer(list(texts)).to(self.device)
        return _numpy(self.model.encode_text(tokens))


def width(config: ClipConfig) -> int | None:
    """Return the d of the model's features without loading it; None if that cannot be told.

    Raises ModelError for a name that open_clip does not know.
    """
    _check_names(config)
    _, separator, folder = config.model.partition(":")
    try:
        if not separator:
            return int(open_clip.get_model_config(config.model)["embed_dim"])
        text = (Path(folder) / "open_clip_config.json").read_text(encoding="utf-8")
        return int(json.loads(text)["model_cfg"]["embed_dim"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load(config: ClipConfig, runtime: RuntimeConfig) -> Clip:
    """Load the CLIP model that ``config`` names, once a process; raises ModelError."""
    return _cached(config.model_dump_json(), runtime.model_dump_json())


@functools.lru_cache(maxsize=1)
def _cached(config: str, runtime: str) -> Clip:
    settings = ClipConfig.model_validate_json(config)
    with hub(settings.model.removeprefix("local-dir:")):
        return Clip(settings, RuntimeConfig.model_validate_json(runtime))


def _numpy(features: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = features.float().cpu().numpy()
    return array


def _load(config: ClipConfig, runtime: RuntimeConfig, device: str, dtype: torch.dtype) -> Any:
    tag = _check_names(config)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)  # open_clip reports on the root logger, errors too
    try:
        model = open_clip.create_model(
            config.model,
            pretrained=config.pretrained,
            # OpenAI's weights were trained with QuickGELU; the tag knows, the plain name does not.
            force_quick_gelu=bool(tag.get("quick_gelu", False)),
            require_pretrained=True,
            output_dict=False,
            weights_only=not runtime.allow_pickle,
        )
    except Exception as error:
        advice = (
            "Check the name and the network, or give a local folder with --clip "
            "local-dir:FOLDER, or a weights file with --pretrained FILE."
        )
        what = f"CLIP {config.model} ({config.pretrained or 'no tag'})"
        raise failed(what, error, advice, "--allow-pickle") from error
    finally:
        root.setLevel(level)
    return model.to(device, dtype).eval().requires_grad_(False)


def _check_names(config: ClipConfig) -> dict[str, Any]:
    """Return open_clip's facts on the pretrained tag ({} for files and folders)."""
    if ":" in config.model:
        return {}
    known = open_clip.list_models()
    if config.model not in known:
        close = difflib.get_close_matches(config.model, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ModelError(
            f"open_clip has no model {config.model!r}.{hint} A folder is given as "
            "local-dir:FOLDER; `python -c 'import open_clip; print(open_clip.list_models())'` "
            "lists all."
        )
    tags = open_clip.list_pretrained_tags_by_model(config.model)
    if config.pretrained is None:
        raise ModelError(
            f"{config.model} needs weights: set --pretrained to one of {', '.join(tags)}, "
            "or to a weights file."
        )
    tag = open_clip.get_pretrained_cfg(config.model, config.pretrained)
    if not tag and not os.path.isfile(config.pretrained):
        hint = nearest(config.pretrained, tags)
        raise ModelError(f"{config.model} has no weights {config.pretrained!r}.{hint}")
    return dict(tag or {})


def _preprocess(settings: dict[str, Any], target_pad: float) -> Preprocess:
    size = settings["size"][0] if isinstance(settings["size"], (tuple, list)) else settings["size"]
    interpolation = v2.InterpolationMode(settings.get("interpolation") or "bicubic")
    transform: Preprocess = v2.Compose(
        [
            TargetPad(target_pad),
            v2.Resize(size, interpolation=interpolation),
            v2.CenterCrop(size),
            v2.PILToTensor(),
        ]
    )
    return transform
