"""Which encoders take pseudo-words, and their widths."""

from importlib.metadata import EntryPoint
from typing import Any

import open_clip
import pytest
import torch

from pipeline import config, plugins
from pipeline.config import ClipConfig
from pipeline.errors import ConfigError
from pipeline.models.encoders.base import EncoderKind
from pipeline.models.inversion import towers
from pipeline.models.inversion.towers import widths


def test_widths_are_told_without_loading_the_encoder() -> None:
    assert widths(config.load("demo").clip) == (128, 96, 128)
    assert widths(config.load("paper-l14").clip) == (768, 768, 1024)
    assert widths(config.load("paper-bigg").clip) == (1280, 1280, 1664)
    assert widths(ClipConfig(model="RN50", pretrained="openai")).v == 0, "no vision transformer"
    assert widths(ClipConfig(model="hf-hub:someone/something")) == (None, None, None)
    assert widths(ClipConfig(model="local-dir:/nowhere")) == (None, None, None)
    other = next(n for n in open_clip.list_models() if n.startswith("xlm-roberta"))
    assert widths(ClipConfig(model=other))[1] is None
    assert widths(ClipConfig(model="open_clip:ViT-L-14", pretrained="openai"))[:2] == (768, 768)


def test_image_tokens_are_those_behind_all_blocks() -> None:
    demo = config.load("demo")
    clip = towers.load(demo.clip, demo.runtime)
    prepared = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    tokens = towers.image_tokens(clip, prepared)
    assert tokens.shape == (3, 17, 128)
    visual: Any = clip.model.visual
    with torch.no_grad():
        again = visual.ln_post(tokens)[:, 0] @ visual.proj
    torch.testing.assert_close(again, torch.from_numpy(clip.images(prepared)), atol=1e-5, rtol=1e-5)
    clip.images(prepared)
    assert not visual.transformer._forward_hooks, "nothing is left behind"


MINE = EncoderKind(load=lambda settings, runtime: None, identity=dict)  # type: ignore[arg-type, return-value]


def test_an_encoder_of_another_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", f"{__name__}:MINE", "seize.encoders")
    monkeypatch.setattr(plugins, "entry_points", lambda group: {"mine": point})
    demo = config.load("demo", {"clip.model": "mine:x"})
    for refused in (lambda: widths(demo.clip), lambda: towers.load(demo.clip, demo.runtime)):
        with pytest.raises(ConfigError, match="mine:x is one of mine"):
            refused()
