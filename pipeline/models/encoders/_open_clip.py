"""CLIP through open_clip: one door for any architecture, local folder or hub name."""

import difflib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from pipeline.config import ClipConfig, RuntimeConfig, in_precision, resolve_device
from pipeline.errors import ModelError, nearest
from pipeline.images.files import two_pictures
from pipeline.models import vetting, weights
from pipeline.models.encoders.base import Encoder
from pipeline.models.inversion.prompts import Tokenizer
from pipeline.models.loading import failed
from pipeline.models.pixels import Preprocess
from pipeline.models.quiet import tame_transformers
from pipeline.models.segments import segments

DOWNLOADS = Path("~/.cache/clip")
"""Where open_clip puts weights that come from no hub."""


class Clip(Encoder):
    """A CLIP model on a device. Features are returned raw (not normalised), float32, (n, d)."""

    def __init__(self, config: ClipConfig, runtime: RuntimeConfig) -> None:
        self.name = config.model
        self.device = resolve_device(runtime.device)
        self.dtype = getattr(torch, in_precision(config, runtime).precision)
        self.batch = runtime.embed_batch
        self.in_segments = config.long_texts == "segments"
        tag = _check_names(config)
        with _loading(config):
            _refuse_code(config.model)
            model = _load(config, tag, weights_only=not runtime.allow_pickle)
            self.tokenizer: Any = _tokenizer(config.model)
            settings = open_clip.get_model_preprocess_cfg(model)
            as_stored = config.pixels == "released"
            self._prepare = Preprocess(settings, config.target_pad, as_stored)
            self.as_stored = as_stored
            size = settings["size"]
            sides = [size] if isinstance(size, int) else size
            self.at_least = max(sides) if config.decode == "draft" else None
        self.model = model.to(self.device, self.dtype).eval().requires_grad_(False)
        self._mean, self._std = settings["mean"], settings["std"]
        self._check_that_it_sees()

    @property
    def prepare(self) -> Preprocess:
        """Padding, resizing and cropping, as the checkpoint's own settings say."""
        return self._prepare

    @torch.inference_mode()
    def images(self, prepared: Tensor) -> NDArray[np.float32]:
        """Encode prepared images, uint8 (n, 3, size, size), to features (n, d).

        Colours become normalised floats on the device: a quarter of the bytes travels there.
        """
        scaled = v2.functional.to_dtype(prepared.to(self.device), torch.float32, scale=True)
        pixels = v2.functional.normalize(scaled, list(self._mean), list(self._std))
        return _numpy(self.model.encode_image(pixels.to(self.dtype)))

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to features (n, d).

        One that is longer than the model's context length is cut there, or, where ``long_texts``
        is ``segments``, its feature is the mean of its parts'.
        """
        if not self.in_segments:
            return self._encoded(texts)
        parts = [segments(text, self._fits) for text in texts]
        flat = [part for own in parts for part in own]
        batches = [flat[start : start + self.batch] for start in range(0, len(flat), self.batch)]
        features = np.concatenate([self._encoded(batch) for batch in batches])
        ends = np.cumsum([len(own) for own in parts])[:-1]
        return np.stack([own.mean(axis=0) for own in np.split(features, ends)])

    def _encoded(self, texts: Sequence[str]) -> NDArray[np.float32]:
        tokens = self.tokenizer(list(texts)).to(self.device)
        return _numpy(self.model.encode_text(tokens))

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """Return those of the texts that are longer than the context, with marks at the ends."""
        return [text for text in texts if not self._fits(text)]

    def _fits(self, text: str) -> bool:
        tokenizer = self.tokenizer
        if hasattr(tokenizer, "tokenizer"):  # of transformers, which counts the marks itself
            count = len(tokenizer.tokenizer(tokenizer.clean_fn(text))["input_ids"])
        else:
            count = len(tokenizer.encode(text)) + 2
        return bool(count <= tokenizer.context_length)

    def _check_that_it_sees(self) -> None:
        """Raise ModelError where two images, or two texts, have one feature: something is broken.

        Weights that do not fit or a tokenizer that knows no word would rank by chance, unsaid.
        """
        pictures = torch.stack([self.prepare(picture) for picture in two_pictures()])
        pairs = (
            ("images", "its weights", self.images(pictures)),
            ("texts", "its tokenizer", self.texts(["a red circle", "two blue squares"])),
        )
        for what, cause, (one, other) in pairs:
            # What is not finite is named with its image or text, where it is made.
            if np.isfinite(one).all() and np.array_equal(one, other):
                raise ModelError(
                    f"CLIP {self.name} makes the same feature of two different {what}, so {cause} "
                    "cannot be right. Copy the checkpoint again, or use another with --clip."
                )


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


def cut(config: ClipConfig, texts: Sequence[str]) -> list[int]:
    """Return how many tokens each text has more than the model reads; loads its tokenizer alone."""
    _check_names(config)
    with _loading(config):
        _refuse_code(config.model)
        tokenizer = Tokenizer(_tokenizer(config.model))
    return [max(0, len(tokenizer.pieces(text)) - tokenizer.room) for text in texts]


def to_download(config: ClipConfig) -> str | None:
    """Return where a tag's weights would come from, a hub's name or a URL; None if they are here.

    Raises ModelError for a name or tag that open_clip does not know.
    """
    source = _check_names(config)
    repository, _, file = source.get("hf_hub", "").rpartition("/")
    if repository:
        names = [file] if file else [weights.WEIGHTS[1], weights.WEIGHTS[3]]
        here = any(weights.cached_file(repository, each) for each in names)
        return None if here else str(repository)
    url = str(source.get("url", ""))
    here = (DOWNLOADS / url.rpartition("/")[2]).expanduser().is_file()
    return None if here or not url else url


def _numpy(features: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = features.float().cpu().numpy()
    return array


@contextmanager
def _loading(config: ClipConfig) -> Iterator[None]:
    """Turn whatever goes wrong inside into a ModelError; keep open_clip's remarks to itself."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)  # open_clip reports on the root logger, errors too
    tame_transformers()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ModelError:
        raise
    except Exception as error:
        advice = (
            "Check the name and the network, or give a local folder with --clip "
            "local-dir:FOLDER, or a weights file with --pretrained FILE."
        )
        what = f"CLIP {config.model} ({config.pretrained or 'no tag'})"
        raise failed(what, error, advice, "--allow-pickle") from error
    finally:
        root.setLevel(level)


def _refuse_code(name: str) -> None:
    """Raise ModelError for a checkpoint whose settings would run its own code.

    It is read before anything of it is loaded; other errors of reading are the caller's.
    """
    scheme, separator, place = name.partition(":")
    if not separator:
        return  # open_clip's own settings
    folder = Path(place)
    if scheme == "hf-hub":
        folder = Path(huggingface_hub.hf_hub_download(place, vetting.OPEN_CLIP)).parent
    if (asked := vetting.of_open_clip(folder)) is not None:
        raise ModelError(
            f"CLIP {name} is refused: {asked}. Code of a checkpoint never runs; use another "
            "checkpoint, or take that field out of the file if you do not need it."
        )


def _load(config: ClipConfig, tag: dict[str, Any], weights_only: bool) -> Any:
    return open_clip.create_model(
        config.model,
        pretrained=config.pretrained,
        # OpenAI's weights were trained with QuickGELU; the tag knows, the plain name does not.
        force_quick_gelu=bool(tag.get("quick_gelu", False)),
        force_preprocess_cfg=None if tag else _preprocessing_of(config),
        require_pretrained=True,
        pretrained_text=False,  # else a tower's weights would be fetched from yet elsewhere
        output_dict=False,
        weights_only=weights_only,
    )


def _preprocessing_of(config: ClipConfig) -> dict[str, Any] | None:
    """Return what all published weights of an architecture agree on; None where they do not.

    open_clip knows the preprocessing by its tag, so for a weights file it would take OpenAI's,
    which is wrong for SigLIP.
    """
    fields = ("mean", "std", "interpolation", "resize_mode")
    tags = open_clip.list_pretrained_tags_by_model(config.model)
    known = [open_clip.get_pretrained_cfg(config.model, tag) for tag in tags]
    told = [{field: cfg[field] for field in fields if cfg.get(field)} for cfg in known]
    return told[0] if told and all(each == told[0] for each in told) else None


def _tokenizer(name: str) -> Any:
    """Return the model's tokenizer; one of transformers is told to run no code."""
    text = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
    safely = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
    return open_clip.get_tokenizer(name, **safely)


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
