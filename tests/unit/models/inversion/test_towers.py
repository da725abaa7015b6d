"""Which encoders take pseudo-words, and their widths."""

from importlib.metadata import EntryPoint

import open_clip
import pytest

from pipeline import config, plugins
from pipeline.config import ClipConfig
from pipeline.errors import ConfigError
from pipeline.models.encoders.base import EncoderKind
from pipeline.models.inversion import towers
from pipeline.models.inversion.towers import widths


def test_widths_are_told_without_loading_the_encoder() -> None:
    assert widths(config.load("demo").clip) == (128, 96)
    assert widths(config.load("paper-l14").clip) == (768, 768)
    assert widths(ClipConfig(model="hf-hub:someone/something")) == (None, None)
    assert widths(ClipConfig(model="local-dir:/nowhere")) == (None, None)
    other = next(n for n in open_clip.list_models() if n.startswith("xlm-roberta"))
    assert widths(ClipConfig(model=other))[1] is None
    assert widths(ClipConfig(model="open_clip:ViT-L-14", pretrained="openai")) == (768, 768)


MINE = EncoderKind(load=lambda settings, runtime: None, identity=dict)  # type: ignore[arg-type, return-value]


def test_an_encoder_of_another_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", f"{__name__}:MINE", "seize.encoders")
    monkeypatch.setattr(plugins, "entry_points", lambda group: {"mine": point})
    demo = config.load("demo", {"clip.model": "mine:x"})
    for refused in (lambda: widths(demo.clip), lambda: towers.load(demo.clip, demo.runtime)):
        with pytest.raises(ConfigError, match="mine:x is one of mine"):
            refused()
