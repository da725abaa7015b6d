"""CLIP and SigLIP checkpoints in the layout of transformers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.errors import ModelError
from pipeline.models import encoders
from pipeline.models.decode import stacked
from pipeline.models.encoders import _selfcheck
from tests.checkpoints import CLIP, clip_of_transformers
from tests.conftest import PROJECT

RUNTIME = RuntimeConfig(device="cpu")
TEXTS = ["a red circle", "two blue squares on a dark background and much more " * 6]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's CLIP as transformers has it."""
    return clip_of_transformers(tmp_path_factory.mktemp("clip") / "model")


def test_the_features_are_those_of_the_same_weights_in_open_clip(folder: Path) -> None:
    """Raw ones, since a sum of raw features depends on their lengths; long texts are cut alike."""
    ours = encoders.load(ClipConfig(model=f"transformers:{folder}"), RUNTIME)
    theirs = encoders.ROLE.kind("open_clip").load(
        ClipConfig(model=f"local-dir:{CLIP}", target_pad=None), RUNTIME
    )
    np.testing.assert_allclose(ours.texts(TEXTS), theirs.texts(TEXTS), atol=1e-4)
    made = [
        one.images(stacked([one.prepare(picture) for picture in _selfcheck.pictures()]))
        for one in (ours, theirs)
    ]
    np.testing.assert_allclose(*made, atol=1e-4)
    assert encoders.width(ClipConfig(model=f"transformers:{folder}")) == made[0].shape[1]


def test_code_that_a_checkpoint_brings_beside_an_ordinary_clip_never_runs(
    folder: Path, tmp_path: Path
) -> None:
    """As BGE-VL-base does: its own class for what is a ``CLIPModel`` all the same."""
    copy = shutil.copytree(folder, tmp_path / "bge")
    (copy / "modeling_bge.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    content = json.loads((copy / "config.json").read_text())
    content["auto_map"] = {"AutoModel": "modeling_bge.BGE", "AutoConfig": "modeling_bge.Config"}
    (copy / "config.json").write_text(json.dumps(content))
    plain = encoders.load(ClipConfig(model=f"transformers:{folder}"), RUNTIME).texts(TEXTS)
    same = encoders.load(ClipConfig(model=f"transformers:{copy}"), RUNTIME).texts(TEXTS)
    np.testing.assert_array_equal(plain, same)
    assert not (tmp_path / "ran").exists()


def test_weights_that_know_nothing_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "random")
    torch.manual_seed(0)
    transformers.CLIPModel(transformers.CLIPConfig.from_pretrained(folder)).save_pretrained(copy)
    with pytest.raises(ModelError, match=r"does not know two pictures|same vector"):
        encoders.load(ClipConfig(model=f"transformers:{copy}"), RUNTIME)


def test_a_model_without_two_towers_is_refused() -> None:
    captioner = PROJECT / "data" / "models" / "verifier"
    with pytest.raises(ModelError, match="has no image and text tower"):
        encoders.load(ClipConfig(model=f"transformers:{captioner}"), RUNTIME)


def test_texts_of_siglip_are_padded_to_their_full_length(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SigLIP was trained so, without an attention mask: other paddings give other features."""
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2}  # fmt: skip
    text = size | {"max_position_embeddings": 16, "vocab_size": 49408, "projection_size": 32}
    vision = size | {"image_size": 64, "patch_size": 16}
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    torch.manual_seed(0)
    model = transformers.SiglipModel(config).eval()
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    processor = transformers.SiglipImageProcessor(size={"height": 64, "width": 64})
    processor.save_pretrained(tmp_path)
    monkeypatch.setattr(_selfcheck, "check", lambda *_: None)  # its weights are random
    encoder = encoders.load(ClipConfig(model=f"transformers:{tmp_path}"), RUNTIME)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        ["a red circle"], padding="max_length", max_length=16, return_tensors="pt"
    )
    with torch.inference_mode():
        expected = model.get_text_features(input_ids=tokens["input_ids"]).pooler_output.numpy()
    np.testing.assert_allclose(encoder.texts(["a red circle"]), expected, atol=1e-5)
    picture = encoder.prepare(_selfcheck.pictures()[0])
    assert encoder.images(picture[None]).shape == (1, 32)
