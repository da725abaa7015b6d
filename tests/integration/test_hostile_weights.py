"""Checkpoints whose weights would run code are refused, and the code is not run."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import captioners, clip, config, llms, verifiers
from pipeline.config import Config
from pipeline.errors import ModelError
from tests.conftest import PROJECT

MODELS = PROJECT / "data" / "models"
FIELDS = {
    "clip": ("clip.model", "local-dir:"),
    "captioner": ("captioner.model", ""),
    "llm": ("llm.model", "transformers:"),
    "verifier": ("verifier.model", "transformers:"),
}


class Payload:
    """Creates a file when it is unpickled without restrictions."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mknod, (str(self.file),)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """The file that a payload creates."""
    return tmp_path / "was-here"


def load(name: str, settings: Config) -> Any:
    kinds = {"clip": clip, "captioner": captioners, "llm": llms, "verifier": verifiers}
    return kinds[name].load(getattr(settings, name), settings.runtime)  # type: ignore[attr-defined]


def checkpoint(folder: Path, name: str, weights: Any) -> str:
    """Copy a shipped model with ``weights`` as a pickle in place of its safetensors."""
    shutil.copytree(MODELS / name, folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    file = folder / ("open_clip_pytorch_model.bin" if name == "clip" else "pytorch_model.bin")
    torch.save(weights, file)
    return FIELDS[name][1] + str(folder)


@pytest.mark.parametrize("name", FIELDS)
def test_a_payload_in_a_checkpoint_is_not_run(name: str, tmp_path: Path, trap: Path) -> None:
    model = checkpoint(tmp_path / name, name, {"weight": torch.zeros(2), "extra": Payload(trap)})
    field = FIELDS[name][0]
    flag = ".*--allow-pickle" if name == "clip" else ""
    with pytest.raises(ModelError, match=rf"{tmp_path / name}.*run code.*safetensors{flag}"):
        load(name, config.load("demo", {field: model}))
    assert not trap.exists()
    with pytest.raises(ModelError):  # it is no model, even where it is unpickled
        load(name, config.load("demo", {field: model, "runtime.allow_pickle": True}))
    assert trap.exists() == (name == "clip")  # transformers never unpickles freely


def test_a_payload_in_a_clip_weights_file_is_not_run(tmp_path: Path, trap: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(pickle.dumps(Payload(trap)))
    fields = {"clip.model": "ViT-B-32", "clip.pretrained": str(file)}
    with pytest.raises(ModelError, match=r"weights\.pt.*--allow-pickle"):
        load("clip", config.load("demo", fields))
    assert not trap.exists()


@pytest.mark.parametrize("name", ["clip", "llm"])
def test_tensors_alone_load_from_a_pickle_too(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    (source,) = (MODELS / name).glob("*.safetensors")
    model = checkpoint(tmp_path / name, name, load_file(source))
    assert load(name, config.load("demo", {FIELDS[name][0]: model}))


def test_python_files_of_a_checkpoint_are_never_run(tmp_path: Path, trap: Path) -> None:
    import json

    folder = tmp_path / "llm"
    shutil.copytree(MODELS / "llm", folder)
    (folder / "custom.py").write_text(f"open({str(trap)!r}, 'w')\n")
    content = json.loads((folder / "config.json").read_text())
    content |= {"model_type": "custom", "auto_map": {"AutoConfig": "custom.Configuration"}}
    (folder / "config.json").write_text(json.dumps(content))
    for allowed in (False, True):
        fields = {"llm.model": f"transformers:{folder}", "runtime.allow_pickle": allowed}
        with pytest.raises(ModelError, match="llm"):
            load("llm", config.load("demo", fields))
    assert not trap.exists()
