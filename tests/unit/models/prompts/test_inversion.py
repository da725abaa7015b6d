"""Prompts of textual inversion: YAML by benchmark, and what is refused of one's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import config
from pipeline.errors import ConfigError
from pipeline.models.prompts import inversion
from pipeline.retrieval import methods
from pipeline.retrieval.clues import CLUES
from pipeline.retrieval.sections import section

PARTS = ("Is red. ", "has, a  bow?")


def test_shipped_prompts_are_as_published() -> None:
    fine = ["fti4cir", "fti4cir-attributes", "fti4cir-subject"]
    assert inversion.names() == ["demo", *fine, "lincir", "pic2word", "searle"]
    used = [inversion.places(inversion.load(name).template) for name in fine]
    assert used == [["subject", "attributes"], ["attributes"], ["subject"]]
    both = inversion.load("fti4cir").form("fashioniq")
    assert both.template == "a photo of {subject} with {attributes} but {text}"
    assert both.texts(("one.", "two")) == ["one and two", "two and one"]
    for name in ("lincir", "searle"):
        prompt = inversion.load(name)
        assert prompt.source
        assert prompt.form("circo").texts(["is red."]) == ["is red."]
        one, other = "Is red", "has, a  bow"
        expected = [f"{one} and {other}", f"{other} and {one}"]
        assert prompt.form("fashioniq").texts(PARTS) == expected
        assert prompt.form("fashioniq").template == "a photo of {words} that {text}"
    pic2word = inversion.load("pic2word").form("fashioniq")
    assert pic2word.template == "a photo of {words} , {text}"
    assert pic2word.texts(("one", "two")) == ["two and one"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"template": "a photo of {words}"}, "template: .*must hold {text} once"),
        ({"template": "{words} {words} {text}"}, "must hold {words} once"),
        ({"template": "{subject} {subject} {text}"}, "or {subject}, {attributes}"),
        ({"template": "{subject} } {text}"}, "may hold no braces"),
        ({"template": "{words} {text} {x}"}, "may hold no braces"),
        ({"template": "{words} {text}" + "x" * 1000}, "more than 1,000"),
        ({"orders": "all"}, "orders"),
        ({"by_dataset": {"circo": {"template": "{text}"}}}, "circo.template: .*{words}"),
        ({"words": 3}, "words"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_named_with_its_field(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "description": "x"} | changes))
    with pytest.raises(ConfigError, match=said):
        inversion.load(str(file))
    with pytest.raises(ConfigError, match="Did you mean 'lincir'"):
        inversion.load("linzir")


PAPERS = {
    "lincir-l14": ("lincir", "ViT-L-14", "openai", None),
    "lincir-h14": ("lincir", "ViT-H-14", "laion2b_s32b_b79k", None),
    "lincir-bigg": ("lincir", "ViT-bigG-14", "laion2b_s39b_b160k", None),
    "searle-b32": ("searle", "ViT-B-32", "openai", 1.25),
    "searle-l14": ("searle", "ViT-L-14", "openai", 1.25),
    "pic2word-l14": ("pic2word", "ViT-L-14", "openai", None),
    "fti4cir-l14": ("fti4cir", "ViT-L-14", "openai", 1.25),
}
SAID = {
    "lincir": "a photo of {words} that {text}",
    "searle": "a photo of {words} that {text}",
    "pic2word": "a photo of {words} , {text}",
    "fti4cir": "a photo of {subject} with {attributes} but {text}",
}


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("dataset", ["circo", "cirr", "fashioniq"])
def test_a_papers_preset_gives_its_protocol(name: str, dataset: str, make_run: Any) -> None:
    method, model, weights, pad = PAPERS[name]
    preset = config.load(name)
    assert (preset.clip.model, preset.clip.pretrained, preset.clip.target_pad) == (
        model,
        weights,
        pad,
    )
    assert preset.search.method == method
    run = replace(make_run(dataset), config=preset)
    # Of the three only CIRR's server and evaluation remove the reference.
    assert run.protocol["exclude_reference"] is (dataset == "cirr")
    kind = CLUES[method].settings
    assert kind is not None
    form = inversion.load(section(preset, kind, dataset).model_dump()["prompt"]).form(dataset)
    assert form.template == SAID[method]
    orders = [("one.", "two,")]
    both = ["one and two", "two and one"]
    expected = both if method != "pic2word" else ["two, and one."]
    if dataset == "fashioniq":
        assert form.texts(*orders) == expected
    else:
        assert form.texts(("One change.",)) == ["One change."]


def test_where_references_are_kept_is_by_dataset_and_known_ones_alone() -> None:
    chosen = config.load("lincir-l14")
    excluded = {name: chosen.search.excludes(name) for name in ("circo", "cirr", "mine")}
    assert excluded == {"circo": False, "cirr": True, "mine": True}
    known = ("circo", "cirr", "fashioniq")
    methods.check(chosen, known)
    wrong = config.load("demo", {"search.exclude_reference": {"cirro": False}})
    with pytest.raises(ConfigError, match="there is no dataset 'cirro'"):
        methods.check(wrong, known)
    plain = config.load("lincir-l14", {"search.exclude_reference": False})
    assert not plain.search.excludes("cirr")
