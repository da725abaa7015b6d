"""Sizes of models by names and files: held to what torch counts."""

import json
from pathlib import Path

import open_clip
import pytest
from safetensors import safe_open

from pipeline import config
from pipeline.config import ClipConfig
from pipeline.models import encoders, sizes


@pytest.mark.parametrize("model", ["ViT-B-32", "ViT-B-16-SigLIP"])
def test_towers_have_about_the_parameters_that_torch_counts(model: str) -> None:
    towers = sizes.towers(ClipConfig(model=model))
    if towers is None:  # timm's, whose configuration tells no layers
        assert model == "ViT-B-16-SigLIP"
        return
    made = open_clip.create_model(model, precision="fp32", load_weights=False)
    counted = sum(weight.numel() for weight in made.parameters())
    assert sum(tower.parameters for tower in towers) == pytest.approx(counted, rel=0.02)


def test_operations_are_those_that_are_published() -> None:
    # 4.4 and 81 billion multiply-adds an image (open_clip, docs/model_profile.csv).
    for model, published in (("ViT-B-32", 4.41e9), ("ViT-L-14", 81.08e9)):
        towers = sizes.towers(ClipConfig(model=model))
        assert towers is not None
        assert towers[0].operations == pytest.approx(2 * published, rel=0.05)


def test_the_width_is_the_features_own() -> None:
    clip = config.load("demo").clip
    assert encoders.width_of(clip) == encoders.width(clip) == 128
    assert encoders.width_of(ClipConfig(model="ViT-L-14", pretrained="openai")) == 768
    assert encoders.width_of(ClipConfig(model="ViT-L-15")) is None


def test_files_are_counted_and_names_are_read() -> None:
    folder = Path(config.load("demo").captioner.model)
    with safe_open(folder / "model.safetensors", "numpy") as file:
        counted = sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118 - no dict
    assert sizes.parameters(str(folder)) == (counted, "its files")
    for name, size in {
        "Qwen/Qwen2.5-7B-Instruct": 7e9,
        "Salesforce/blip2-opt-6.7b-coco": 6.7e9,
        "qwen2.5:0.5b": 5e8,
        "some/model-350M": 3.5e8,
    }.items():
        assert sizes.parameters(name) == (pytest.approx(size), "its name")
    for name in ("gpt-4o", "model-v2beta", "7billion"):
        assert sizes.parameters(name) is None


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02" + bytes(7) + b"[]", b"x" * 30])
def test_a_damaged_file_tells_no_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert sizes.parameters(str(tmp_path)) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model_cfg": {"vision_cfg": 3}}'])
def test_a_damaged_configuration_tells_no_towers(tmp_path: Path, content: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(content)
    clip = ClipConfig(model=f"local-dir:{tmp_path}")
    assert sizes.towers(clip) is None
    assert sizes.width(clip) is None
    zero = {"image_size": 8, "patch_size": 0, "width": 4, "layers": 1}
    text = {"width": 4, "layers": 1, "context_length": 4, "vocab_size": 4}
    told = {"model_cfg": {"embed_dim": 4, "vision_cfg": zero, "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(told))
    assert sizes.towers(clip) is None
