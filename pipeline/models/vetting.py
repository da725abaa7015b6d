"""What a checkpoint's settings ask for, looked at before any library reads them.

A checkpoint is data from elsewhere. Some settings make a library import Python files that come with
it (mlfoundations/open_clip#1146 for open_clip's tokenizers); none of those may ever run.
"""

import json
from pathlib import Path
from typing import Any

OPEN_CLIP = "open_clip_config.json"
TOKENIZER = "tokenizer_config.json"
TRANSFORMERS = (
    "config.json",
    TOKENIZER,
    "processor_config.json",
    "preprocessor_config.json",
    "generation_config.json",
)

TOKENIZER_OPTIONS: dict[str, tuple[type, ...]] = {
    "clean": (str,),
    "strip_sep_token": (bool,),
    "language": (str, type(None)),
}
"""What ``text_cfg.tokenizer_kwargs`` may hold: open_clip's own options, none of transformers."""

OWN_CODE = ("auto_map", "trust_remote_code")
"""Fields that name Python files of a checkpoint, or consent to run them."""


def of_open_clip(folder: Path) -> str | None:
    """Return what must not be loaded in a folder of open_clip; None where all is data.

    ``open_clip_config.json`` is read whole, and what stands beside it for its tokenizer. (Code for
    transformers' own model of the same weights is never asked for.) Raises OSError or ValueError
    where a file cannot be read as JSON.
    """
    content = _read(folder / OPEN_CLIP)
    if field := _named(content, OWN_CODE):
        return f"{OPEN_CLIP} asks for code of the checkpoint's own ({field})"
    if (folder / TOKENIZER).is_file():
        code = _read(folder / TOKENIZER).get("auto_map")
        if isinstance(code, list) or (isinstance(code, dict) and "AutoTokenizer" in code):
            return f"{TOKENIZER} asks for code of the checkpoint's own (auto_map)"
    model = content.get("model_cfg", content)
    return _towers(model) if isinstance(model, dict) else f"{OPEN_CLIP}: model_cfg is no object"


def _towers(model: dict[str, Any]) -> str | None:
    """Return what is wrong with the two towers' settings."""
    text, vision = model.get("text_cfg"), model.get("vision_cfg")
    if not isinstance(text, dict) or not isinstance(vision, dict):
        return f"{OPEN_CLIP}: text_cfg and vision_cfg must be objects"
    options = text.get("tokenizer_kwargs", {})
    if not isinstance(options, dict):
        return f"{OPEN_CLIP}: text_cfg.tokenizer_kwargs is no object"
    for option, value in options.items():
        if not isinstance(value, TOKENIZER_OPTIONS.get(option, ())):
            return f"{OPEN_CLIP}: text_cfg.tokenizer_kwargs.{option} is not allowed"
    for field in ("hf_tokenizer_name", "hf_model_name", "tokenizer_mode"):
        if not isinstance(text.get(field, ""), str | None):
            return f"{OPEN_CLIP}: text_cfg.{field} is no name"
    name = vision.get("timm_model_name") or ""
    if not isinstance(name, str) or any(mark in name for mark in ":/\\"):
        # timm would take its settings from yet another checkpoint
        return f"{OPEN_CLIP}: vision_cfg.timm_model_name must be one of timm's own names"
    return None


def of_transformers(folder: Path) -> str | None:
    """Return which file of a transformers folder needs code of its own; None where none does.

    Many checkpoints bring code (``auto_map``) that transformers has learnt since: those load
    without it.
    """
    found = [name for name in TRANSFORMERS if _named(_read_or_empty(folder / name), OWN_CODE)]
    if not found:
        return None
    from transformers import AutoConfig, AutoTokenizer

    from pipeline.models.quiet import tame_transformers

    tame_transformers()
    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
        AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception:
        return f"{found[0]} asks for code of the checkpoint's own, which never runs here"
    return None


def _named(content: Any, fields: tuple[str, ...], place: str = "") -> str | None:
    """Return the path of the first of ``fields`` at any depth of JSON; None where none is there."""
    if isinstance(content, dict):
        for key, value in content.items():
            here = f"{place}.{key}" if place else str(key)
            if key in fields:
                return here
            if found := _named(value, fields, here):
                return found
    if isinstance(content, list):
        return next((found for value in content if (found := _named(value, fields, place))), None)
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except RecursionError:
        raise ValueError(f"{file.name} is nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} is no JSON object")
    return content


def _read_or_empty(file: Path) -> dict[str, Any]:
    try:
        return _read(file)
    except (OSError, ValueError):
        return {}
