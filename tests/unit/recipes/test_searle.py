"""SEARLE's training: images inverted one by one, then φ distilled from what was found."""

import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from pipeline import config
from pipeline.demo import world
from pipeline.errors import ConfigError, InputError
from pipeline.models.inversion import towers
from pipeline.models.inversion.concepts import TEMPLATES, Concepts, choose
from pipeline.models.training import loop
from pipeline.recipes import images
from pipeline.recipes.base import Given
from pipeline.recipes.searle import RECIPE, Settings, contrast, make, optimised

TEXTS = [f"{n} {c} {s}" for n in ("one", "two") for c in ("red", "blue") for s in ("star", "heart")]


@pytest.fixture(scope="module")
def clip() -> Any:
    demo = config.load("demo")
    found = towers.load(demo.clip, demo.runtime)
    found.model.requires_grad_(False)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, rng = tmp_path_factory.mktemp("images"), random.Random(0)
    for number in range(12):
        world.render(world.training_scene(rng), number).save(made / f"{number}.png")
    (made / "copy.png").write_bytes((made / "0.png").read_bytes())
    (made / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    return made


def given(folder: Path, out: Path, settings: Settings, **sources: str | None) -> Given:
    texts = out.parent / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    told = {
        "images": str(folder),
        "texts": str(texts),
        "concepts": None,
        "templates": None,
        **sources,
    }
    overrides = {"runtime.workers": 0}
    return Given(settings, told, out, "demo", overrides, out.parent / "cache")


QUICK = Settings(
    epochs=None, steps=6, batch=4, every=3, inversion_steps=4, inversion_batch=5, dropout=0.1
)


def test_a_training_from_a_folder_resumes_and_keeps_the_inverted_words(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "phi.safetensors"
    asked = given(folder, out, QUICK)
    done = loop.train(make(asked), out, QUICK)
    assert done.computed == 6
    (words,) = (tmp_path / "cache").rglob("pseudo-words/*.safetensors")
    before = words.stat().st_mtime_ns
    task = make(asked)
    assert words.stat().st_mtime_ns == before, "images are inverted once"
    assert (task.items, task.words.shape) == (12, (12, 96)), "a copy counts once"
    assert task.record["images_that_could_not_be_read"] == 1
    assert loop.train(task, out, QUICK).computed == 0


def test_an_inverted_word_has_the_images_feature(clip: Any, folder: Path, tmp_path: Path) -> None:
    own = Settings(inversion_steps=60)
    found = images.load(given(folder, tmp_path / "phi.safetensors", own), most=6)
    concepts = Concepts(clip, TEXTS, choose(TEXTS, None), Counter())
    words = optimised(found.names, found.features, concepts, own)
    start = optimised(found.names, found.features, concepts, Settings(inversion_steps=1))
    seeds = [random.Random(9) for _ in found.names]
    again = [random.Random(9) for _ in found.names]
    with torch.no_grad():
        near = cosine_similarity(concepts.named(words, seeds), found.features)
        far = cosine_similarity(concepts.named(start, again), found.features)
    assert near.mean() > far.mean() + 0.2
    # An image's word does not depend on which others are inverted with it.
    alone = optimised(found.names[2:3], found.features[2:3], concepts, own)
    torch.testing.assert_close(alone[0], words[2], atol=2e-3, rtol=2e-3)


def test_the_distillations_contrast_is_nt_xent() -> None:
    one, other = torch.randn(5, 3), torch.randn(5, 3)
    z = normalize(torch.cat([one, other]).double(), dim=1)
    total = 0.0
    for i in range(10):
        terms = [math.exp(float(z[i] @ z[j]) / 0.25) for j in range(10) if j != i]
        total -= math.log(math.exp(float(z[i] @ z[(i + 5) % 10]) / 0.25) / sum(terms))
    assert float(contrast(one, other, 0.25)) == pytest.approx(total / 10, rel=1e-5)


def test_a_phrases_concept_becomes_the_word_and_its_own_word_gives_the_phrase(clip: Any) -> None:
    texts = ["a photo of a t-shirt that is red", "red redder red"]
    chosen = choose(texts, ["t-shirt", "red", "shirtless", "reds"])
    assert chosen == {"t-shirt": [0], "red": [0, 1]}
    concepts = Concepts(clip, ["one red star on a red field"], {"red": [0]}, Counter())
    prompt = concepts._prompt((0, 0))
    red = concepts.tokenizer.pieces("red")[0]
    assert prompt.places == (1,), "the first of the two"
    assert prompt.tokens[5] == red
    own = clip.model.token_embedding.weight[red].detach()[None]
    said, meant = concepts.phrases([(0, 0)], own)
    torch.testing.assert_close(said, meant, atol=1e-5, rtol=1e-4)


def test_published_values_are_the_defaults() -> None:
    # S: src/train_phi.py and src/oti_inversion.py, by their arguments' defaults.
    own = Settings()
    assert (own.rate, own.weight_decay, own.batch, own.epochs) == (1e-4, 0.01, 256, 100)
    assert (own.temperature, own.phrase_weight, own.concepts_of_image) == (0.25, 0.75, 150)
    assert (own.inversion_steps, own.inversion_rate, own.inversion_batch) == (350, 2e-2, 32)
    assert (own.inversion_average, own.inversion_phrase_weight) == (0.99, 0.5)
    assert own.inversion_concepts == 15
    assert len(set(TEMPLATES)) == 24
    assert RECIPE.chosen({}, "searle-b32") == own
    assert RECIPE.chosen({"steps": 10}, None).total(100_000) == 10
    assert RECIPE.find_preset("searle-b32").encoder["clip.target_pad"] == 1.25


def test_what_cannot_be_used_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "phi.safetensors"
    with pytest.raises(InputError, match="neither a folder nor DATASET:SPLIT"):
        make(given(tmp_path / "none", out, QUICK))
    with pytest.raises(InputError, match="12 images are fewer than a batch of 13"):
        make(given(folder, out, QUICK.model_copy(update={"batch": 13})))
    concepts = tmp_path / "concepts.txt"
    concepts.write_text("teapot\n")
    with pytest.raises(InputError, match=r"No text of .* has one of the concepts"):
        make(given(folder, out, QUICK, concepts=str(concepts)))
    templates = tmp_path / "templates.txt"
    templates.write_text("a {words}\na photo\n")
    with pytest.raises(InputError, match="not 'a photo'"):
        make(given(folder, out, QUICK, templates=str(templates)))
    with pytest.raises(ConfigError, match="no dataset 'cirko'"):
        make(given(Path("cirko:val"), out, QUICK))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no image below"):
        make(given(empty, out, QUICK))
