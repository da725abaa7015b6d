"""Model files: whether a folder is complete, and whether the hub's models are on this machine."""

import functools
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.models import vetting

HUB = "https://huggingface.co"
HUB_TIMEOUT = 5.0
"""Seconds in which the hub must answer."""

CONFIGS = ("config.json", "open_clip_config.json")
WEIGHTS = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
SHARDED = ".index.json"
"""Ends the name of the file that says which weights are in which of several files."""


def is_path(name: str) -> bool:
    """Whether a model's name can only be a path: the hub's are NAME or OWNER/NAME."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


def problem(folder: Path) -> str | None:
    """Return what is wrong with a folder of transformers or open_clip; None where it is complete.

    Reads headers alone: the weights' shapes must add up to the sizes of their files.
    """
    config = next((folder / name for name in CONFIGS if (folder / name).is_file()), None)
    if config is None:
        return f"it has neither {' nor '.join(CONFIGS)}"
    transformers = config.name == CONFIGS[0]
    if isinstance(content := _json(config), str):
        return content
    try:
        asked = vetting.of_transformers(folder) if transformers else vetting.of_open_clip(folder)
    except (OSError, ValueError, RecursionError) as error:
        return f"its settings cannot be read: {error}"
    if asked is not None:
        return asked
    if transformers and not any((folder / name).is_file() for name in TOKENIZERS):
        return f"it has no tokenizer ({', '.join(TOKENIZERS[:2])} or the like)"
    for name in WEIGHTS:
        if (folder / f"{name}{SHARDED}").is_file():
            return _sharded(folder, folder / f"{name}{SHARDED}")
        if (folder / name).is_file():
            return _tensors(folder / name, None)
    return f"it has no weights ({WEIGHTS[0 if transformers else 1]} or the like)"


def _sharded(folder: Path, index: Path) -> str | None:
    content = _json(index)
    if isinstance(content, str):
        return content
    files: dict[str, set[str]] = {}
    for tensor, file in content.get("weight_map", {}).items():
        files.setdefault(file, set()).add(tensor)
    missing = sorted(file for file in files if not (folder / file).is_file())
    if missing:
        return f"{len(missing)} of {len(files)} weight files are missing, the first: {missing[0]}"
    found = (_tensors(folder / file, tensors) for file, tensors in files.items())
    return next((wrong for wrong in found if wrong), None)


def _tensors(file: Path, wanted: set[str] | None) -> str | None:
    if not file.stat().st_size:
        return f"{file.name} is empty"
    if file.suffix != ".safetensors":
        return None
    try:
        with safe_open(file, framework="numpy") as stream:
            missing = (wanted or set()) - set(stream.keys())
    except (OSError, SafetensorError) as error:
        return f"{file.name} is damaged or incomplete ({error})"
    return f"{file.name} lacks {sorted(missing)[0]}" if missing else None


def _json(file: Path) -> dict[str, Any] | str:
    """Return a file's JSON object, or what is wrong with it."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return f"{file.name} cannot be read: {error}"
    return content if isinstance(content, dict) else f"{file.name} is no JSON object"


def cached(name: str, revision: str | None = None) -> Path | None:
    """Return the folder of a hub's model in the local cache; None where it is not there."""
    for config in CONFIGS:
        if (file := cached_file(name, config, revision)) is not None:
            return file.parent
    return None


def cached_file(name: str, file: str, revision: str | None = None) -> Path | None:
    """Return one file of a hub's model in the local cache; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except ValueError:  # no name that a hub's model could have
        return None
    return Path(found) if isinstance(found, str) else None


def offline() -> str | None:
    """Return the environment variable that forbids to ask the hub, if one does."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            return variable
    return None


def reachable(name: str) -> str | None:
    """Ask the hub for a model; return why it cannot be had, None where it can."""
    from huggingface_hub import get_token

    token = get_token()  # of HF_TOKEN or `hf auth login`; other hosts are not given it
    answer = _head(f"/api/models/{name}", {"Authorization": f"Bearer {token}"} if token else {})
    if isinstance(answer, str):
        return answer
    if answer in (401, 403, 404):
        return f"{_hub()} has no model {name}, or your login (hf auth login) does not allow it"
    return None if answer < 400 else f"{_hub()} answers HTTP {answer}"


@functools.cache
def unreachable() -> str | None:
    """Return why the hub does not answer at all, None where it does; asked once a process."""
    answer = _head("", {})
    return answer if isinstance(answer, str) else None


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT", HUB).rstrip("/")


def _head(path: str, headers: dict[str, str]) -> int | str:
    """Return the status of the hub's answer, or why there is none.

    Asked as the hub's own library asks: through the same proxies, with a key for the hub alone.
    """
    from huggingface_hub import get_session

    try:
        response = get_session().head(f"{_hub()}{path}", headers=headers, timeout=HUB_TIMEOUT)
    except Exception as error:  # the library's client has changed, and its errors with it
        return (
            f"{_hub()} cannot be reached ({' '.join(str(error).split()) or type(error).__name__})"
        )
    return int(response.status_code)
