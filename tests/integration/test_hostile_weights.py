"""Checkpoints whose weights would run code are refused, and the code is not run."""

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import config
from pipeline.config import Config
from pipeline.errors import ModelError
from pipeline.models import captioners, encoders, llms, loading, verifiers, weights
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
    kinds = {"clip": encoders, "captioner": captioners, "llm": llms, "verifier": verifiers}
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


TOKENIZER_CODE = {
    "tokenizer_class": "Tok",
    "auto_map": {"AutoTokenizer": ["evil.Tok", None]},
}
EVIL = """
from transformers import PreTrainedTokenizer
open({trap!r}, "w").close()
class Tok(PreTrainedTokenizer): pass
class Configuration: pass
"""


def evil_clip(folder: Path, trap: Path, text: dict[str, Any], **more: Any) -> Path:
    """Copy the shipped CLIP, with a Python file and settings that would run it."""
    shutil.copytree(MODELS / "clip", folder)
    (folder / "evil.py").write_text(EVIL.format(trap=str(trap)))
    content = json.loads((folder / "open_clip_config.json").read_text())
    content["model_cfg"]["text_cfg"] |= text
    for section, changes in more.items():
        content["model_cfg"][section] |= changes
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return folder


ASKING: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "trust": ({"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}},
              {}, r"tokenizer_kwargs\.trust_remote_code"),
    "map": ({"hf_tokenizer_name": "x"}, {}, r"tokenizer_config\.json.*auto_map"),
    "list": ({"hf_tokenizer_name": "x"}, {"auto_map": ["evil.Tok", None]}, "auto_map"),
    "path": ({"tokenizer_kwargs": {"bpe_path": "evil.py"}}, {"auto_map": {}}, "bpe_path"),
    "kind": ({"hf_tokenizer_name": "x", "tokenizer_kwargs": {"tokenizer_type": "evil"}},
             {"auto_map": {}}, "tokenizer_type"),
    "odd": ({"tokenizer_kwargs": ["trust_remote_code"]}, {"auto_map": {}}, "tokenizer_kwargs"),
    "null": ({"hf_tokenizer_name": 7}, {"auto_map": {}}, "hf_tokenizer_name"),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKING)
def test_a_clip_tokenizers_code_is_never_run(name: str, tmp_path: Path, trap: Path) -> None:
    text, tokenizer, said = ASKING[name]
    folder = evil_clip(tmp_path / "clip", trap, text)
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CODE | tokenizer))
    for allowed in (False, True):  # consent to unpickle is none to this
        fields = {"clip.model": f"local-dir:{folder}", "runtime.allow_pickle": allowed}
        with pytest.raises(ModelError, match=said):
            load("clip", config.load("demo", fields))
    assert not trap.exists()


@pytest.mark.parametrize("prefix", ["", "local-dir:", "hf-hub:"])
def test_a_tower_from_elsewhere_is_not_loaded(prefix: str, tmp_path: Path, trap: Path) -> None:
    """A text tower of transformers with code of its own, and a timm model from another folder."""
    tower = tmp_path / "tower"
    tower.mkdir()
    (tower / "evil.py").write_text(EVIL.format(trap=str(trap)))
    code = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Configuration"}}
    (tower / "config.json").write_text(json.dumps(code))
    if prefix:
        vision = {"timm_model_name": f"{prefix}{tower}"}
        folder = evil_clip(tmp_path / "clip", trap, {}, vision_cfg=vision)
        said = "timm_model_name"
    else:
        folder = evil_clip(tmp_path / "clip", trap, {"hf_model_name": str(tower)})
        said = "CLIP"
    with pytest.raises(ModelError, match=said):
        load("clip", config.load("demo", {"clip.model": f"local-dir:{folder}"}))
    assert not trap.exists()


def hub_cache(home: Path, name: str, source: Path) -> None:
    """Lay a folder into a hub cache as a download would."""
    model = home / "hub" / f"models--{name.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    shutil.copytree(source, model / "snapshots" / ("0" * 40))


def seize(*arguments: str, home: Path, terminal: str = "") -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        capture_output=True, text=True, env=environment, input=terminal, cwd=PROJECT,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["trust", "map"])
def test_the_command_line_refuses_a_hub_name_that_runs_code(
    name: str, tmp_path: Path, trap: Path
) -> None:
    text, tokenizer, _ = ASKING[name]
    folder = evil_clip(tmp_path / "clip", trap, text)
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CODE | tokenizer))
    hub_cache(tmp_path / "home", "evil/clip", folder)
    photos = tmp_path / "photos"
    photos.mkdir()
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(photos / "a.png")
    for model in ("hf-hub:evil/clip", f"local-dir:{folder}"):
        arguments = ("index", str(photos), "--config", "demo", "--clip", model)
        cache = ("--cache", str(tmp_path / "cache"))
        done = seize(*arguments, *cache, home=tmp_path / "home", terminal="y\ny\ny\n")
        assert done.returncode == 5, done.stderr
        assert "asks for code of the checkpoint's own" in done.stderr
        told = seize(
            "doctor", "--config", "demo", "--clip", model, "--json", home=tmp_path / "home"
        )
        found = [line for line in json.loads(told.stdout)["findings"] if line["name"] == "encoder"]
        assert [line["status"] for line in found] == ["problem"], told.stdout
    assert not trap.exists()


def test_a_broken_tokenizer_is_a_model_error(tmp_path: Path, trap: Path) -> None:
    folder = evil_clip(tmp_path / "clip", trap, {"hf_tokenizer_name": "x"})
    with pytest.raises(ModelError, match="CLIP"):  # there is no tokenizer in the folder
        load("clip", config.load("demo", {"clip.model": f"local-dir:{folder}"}))
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json|CLIP"):
        load("clip", config.load("demo", {"clip.model": f"local-dir:{folder}"}))


@pytest.mark.parametrize("name", ["captioner", "llm", "verifier"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "processor_config.json", "config.json"])
def test_no_file_of_a_transformers_folder_runs_code(
    name: str, file: str, tmp_path: Path, trap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where transformers knows the classes it loads without the code, else it refuses."""
    folder = tmp_path / name
    shutil.copytree(MODELS / name, folder)
    (folder / "evil.py").write_text(EVIL.format(trap=str(trap)))
    content = json.loads(file_.read_text()) if (file_ := folder / file).exists() else {}
    kinds = (
        "AutoConfig",
        "AutoProcessor",
        "AutoImageProcessor",
        "AutoModel",
        "AutoModelForCausalLM",
    )
    code = {kind: "evil.Configuration" for kind in kinds}
    content |= {"auto_map": code | {"AutoTokenizer": ["evil.Tok", None]}}
    for unknown in ("model_type", "tokenizer_class", "processor_class", "image_processor_type"):
        if unknown in content:
            content[unknown] = "Evil"
    file_.write_text(json.dumps(content))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # were the user asked, they would agree
    with contextlib.suppress(ModelError):
        load(name, config.load("demo", {FIELDS[name][0]: FIELDS[name][1] + str(folder)}))
    assert not trap.exists()


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "endless": (ENDLESS, "did not end within"),
    "refused": ("{{ messages.__class__.__mro__ }}", "fails"),
    "broken": ("{% if %}", "fails"),
    "raising": ("{{ raise_exception('\x1b]0;owned') }}", r"fails: \\x1b\]0;owned"),
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ["llm", "verifier"])
def test_a_hostile_chat_template_is_a_model_error(
    name: str, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if template == "endless":
        monkeypatch.setattr(loading, "TEMPLATE_TIMEOUT", 1.0)
    content, said = TEMPLATES[template]
    folder = tmp_path / name
    shutil.copytree(MODELS / name, folder)
    (folder / "chat_template.jinja").write_text(content)
    before = {*threading.enumerate()}
    with pytest.raises(ModelError, match=said):
        load(name, config.load("demo", {FIELDS[name][0]: f"transformers:{folder}"}))
    for thread in {*threading.enumerate()} - before:
        thread.join(120)
        assert not thread.is_alive() or "attempt" not in thread.name, "it renders for ever"


@pytest.mark.parametrize("name", ["llm", "verifier"])
def test_weights_that_lack_a_tensor_are_refused(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / name
    shutil.copytree(MODELS / name, folder)
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    lost = sorted(tensor for tensor in weights if "layers.0" in tensor)[0]
    weights.pop(lost)
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 of a .*layers\.0"):
        load(name, config.load("demo", {FIELDS[name][0]: f"transformers:{folder}"}))


@pytest.mark.parametrize("name", ["captioner", "llm", "verifier"])
def test_doctor_tells_code_that_is_needed_from_code_that_is_not(name: str, tmp_path: Path) -> None:
    """Many checkpoints bring code for what transformers knows by now: they load without it."""
    folder = tmp_path / name
    shutil.copytree(MODELS / name, folder)
    file = folder / "config.json"
    known = json.loads(file.read_text()) | {"auto_map": {"AutoConfig": "evil.Configuration"}}
    file.write_text(json.dumps(known))
    assert weights.problem(folder) is None
    assert load(name, config.load("demo", {FIELDS[name][0]: FIELDS[name][1] + str(folder)}))
    file.write_text(json.dumps(known | {"model_type": "custom"}))
    assert "config.json asks for code of the checkpoint's own" in str(weights.problem(folder))


def test_settings_nested_without_end_are_a_model_error(tmp_path: Path) -> None:
    for depth in (900, 100_000):
        folder = tmp_path / str(depth)
        shutil.copytree(MODELS / "clip", folder)
        (folder / "open_clip_config.json").write_text('{"model_cfg":' * depth + "{}" + "}" * depth)
        assert weights.problem(folder)
        with pytest.raises(ModelError, match="CLIP"):
            load("clip", config.load("demo", {"clip.model": f"local-dir:{folder}"}))
