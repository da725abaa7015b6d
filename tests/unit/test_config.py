"""Presets say what SEIZE released; wrong settings are named."""

from pathlib import Path

import pytest

from pipeline import config
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.retrieval import methods


def increment(settings: Config, dataset: str) -> dict[str, float]:
    (found,) = methods.settings(settings, "seize", dataset)
    return found.model_dump()


@pytest.mark.parametrize("name", config.presets())
def test_every_preset_loads_and_says_what_it_needs(name: str) -> None:
    preset = config.load(name)
    assert preset.description
    assert preset.needs
    methods.check(preset, ("circo", "cirr", "fashioniq"))


def test_paper_presets_are_as_released() -> None:
    models = {name: config.load(name).clip for name in config.presets() if "paper" in name}
    assert {name: (clip.model, clip.pretrained) for name, clip in models.items()} == {
        "paper-b32": ("ViT-B-32", "openai"),
        "paper-l14": ("ViT-L-14", "openai"),
        "paper-bigg": ("ViT-bigG-14", "laion2b_s39b_b160k"),
    }
    for name in models:
        preset = config.load(name)
        assert preset.clip.target_pad == 1.25
        assert preset.captioner.model == "Salesforce/blip2-opt-6.7b-coco"
        assert preset.captioner.samples == 15
        assert preset.llm.prompt == "seize"
        assert increment(preset, "circo") == {"positive": 0.13, "negative": 2.1}
        assert increment(preset, "cirr") == {"positive": 0.22, "negative": 1.0}


def test_a_misspelt_preset_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'paper-l14'"):
        config.load("paper-l-14")


def test_a_file_may_start_from_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: paper-b32\ncaptioner: {samples: 3}\n")
    mine = config.load(str(file), {"search.increment.circo.positive": 0.5})
    assert mine.captioner.samples == 3
    assert mine.clip.model == "ViT-B-32"
    assert increment(mine, "circo") == {"positive": 0.5, "negative": 2.1}
    assert increment(mine, "cirr") == {"positive": 0.22, "negative": 1.0}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("preset: demo\ncaptioner: {sample: 3}", "captioner.sample"),
        ("preset: demo\ncaptioner: {samples: many}", "captioner.samples"),
        ("preset: demo\ncaptioner: [1]", "captioner"),
        ("preset: nope", "There is no preset 'nope'"),
        ("a: [", "cannot be read"),
        ("just text", "key: value"),
    ],
)
def test_bad_files_name_the_file_or_field(tmp_path: Path, content: str, named: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        config.load(str(file))


def test_a_wrong_option_is_not_blamed_on_the_preset(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^An option .*: verifier\.weight: ") as caught:
        config.load("demo", {"verifier.weight": 2})
    assert "demo.yaml" not in str(caught.value)
    file = tmp_path / "own.yaml"
    file.write_text("preset: demo\nverifier: {weight: 2}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"own\.yaml: verifier\.weight: "):
        config.load(str(file), {"verifier.accept": 0.9})
