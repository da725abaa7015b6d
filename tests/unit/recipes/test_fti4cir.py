"""FTI4CIR's training: captions in two parts, its losses by hand, and a training that resumes."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline import config
from pipeline.demo import world
from pipeline.errors import ConfigError, InputError, MissingStageError
from pipeline.models.inversion import checkpoints, corpus, towers
from pipeline.models.inversion.networks import FineGrained
from pipeline.models.training import loop
from pipeline.recipes import fti4cir
from pipeline.recipes.base import Given
from pipeline.recipes.fti4cir import RECIPE, Settings, captions, make

QUICK = Settings(epochs=None, steps=4, batch=6, every=2, rate=1e-3, dropout=0.1, masking="words")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, rng, lines = tmp_path_factory.mktemp("images"), random.Random(0), []
    for number in range(10):
        scene = world.training_scene(rng, 2)
        world.render(scene, number).save(made / f"{number}.png")
        lines.append({"image": f"{number}.png", "captions": [scene.text(), "a star"]})
    (made / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return made


def given(folder: Path, out: Path, settings: Settings = QUICK, **sources: str | None) -> Given:
    told = {"images": str(folder), "captions": str(folder / "captions.jsonl"), **sources}
    overrides = {"runtime.workers": 0}
    return Given(settings, told, out, "demo", overrides, out.parent / "cache")


def test_captions_are_split_behind_the_subject() -> None:
    _, split = corpus.splitter("words")
    assert split("A red cat on the sofa.") is not None
    assert split("a red cat on the sofa") == ("a red cat", "on the sofa")
    assert split("a red cat") is None, "less than four words"
    assert split("of to and on it") is None, "no subject"
    assert split("this is a cat") is None, "no attributes"


def test_the_losses_are_the_papers(folder: Path, tmp_path: Path) -> None:
    """Each text by a plain forward pass, the rest in float64."""
    task = make(given(folder, tmp_path / "a.safetensors"))
    task.module.eval()
    batch = task.batch(0)
    places, pairs, tokens = batch
    found = {name: value.item() for name, value in task.losses(batch).items()}
    seen = task.features[places]
    with torch.no_grad():
        local = task.module.attributes(seen, tokens)
        subjects, others = task.module.phi_s(seen), task.module.phi_a(local.features)
    demo = config.load("demo")
    clip = towers.load(demo.clip, demo.runtime)

    def text(row: int, parts: list[Any]) -> Any:
        """The feature of texts and words, one behind the other."""
        ids: list[int] = [int(clip.tokenizer([""])[0, 0])]
        put: dict[int, Any] = {}
        for part in parts:
            if isinstance(part, str):
                ids += task.tokenizer.pieces(part)
            else:
                for word in part:
                    put[len(ids)] = word
                    ids.append(320)
        ids.append(int(clip.tokenizer([""])[0, 1]))
        model, end = clip.model, len(ids) - 1
        ids += [0] * (task.tokenizer.context - len(ids))
        with torch.no_grad():
            x = model.token_embedding(torch.tensor([ids]))
            for place, word in put.items():
                x[0, place] = word
            x = model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask)
            one = (model.ln_final(x)[0, end] @ model.text_projection).double().numpy()
        return one / np.linalg.norm(one)

    three, both = 0.0, []
    for row, (subject, attribute) in enumerate(pairs):
        s, a = [subjects[row]], list(others[row, : int(local.counts[row])])
        meant = text(row, [f"a photo of {subject} with {attribute}"])
        both.append(text(row, ["a photo of", s, "with", a]))
        three += 1 - meant @ text(row, ["a photo of", s, "with " + attribute])
        three += 1 - meant @ text(row, ["a photo of " + subject + " with", a])
        three += 1 - meant @ both[-1]
    assert found["captions"] == pytest.approx(1.4 * three / len(pairs), rel=1e-4)
    gram = (local.features @ local.features.transpose(1, 2)).double().numpy()
    assert found["orthogonality"] == pytest.approx(np.mean((gram - np.eye(12)) ** 2), rel=1e-4)
    z = np.stack([one / np.linalg.norm(one) for one in seen.double().numpy()] + both)
    logits, n = z @ z.T / 0.2, len(pairs)
    np.fill_diagonal(logits, -np.inf)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.mean([logs[i, (i + n) % (2 * n)] for i in range(2 * n)])
    assert found["contrast"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kept", [fti4cir.KEPT, 0])
def test_a_training_resumes_to_the_same_weights(
    kept: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With image tokens kept in memory, and with those that are computed by the batch."""
    monkeypatch.setattr(fti4cir, "KEPT", kept)
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    task = make(given(folder, whole))
    assert (task.tokens._kept is None) == (kept == 0)
    loop.train(task, whole, QUICK)
    half = QUICK.model_copy(update={"steps": 3})
    loop.train(make(given(folder, parts, half)), parts, half)
    loop.train(make(given(folder, parts)), parts, QUICK)
    one, other = load_file(whole), load_file(parts)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert isinstance(checkpoints.load(whole, 128, 96, 128), FineGrained)
    record = json.loads((tmp_path / "whole.training" / "training.json").read_text())
    assert record["left_out"] == {"captions of less than four words, or in one part": 10}
    assert record["losses"][-1][0] == 4


def test_captions_of_all_shapes_are_read_and_the_rest_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    lines: list[Any] = [{"header": {}}, {"image": "a", "captions": ["one", 2]}, [1], {"image": "b"}]
    lines.append({"image": "c", "subject": "a cat", "attribute": "on a sofa"})
    file.write_text("\n".join(map(json.dumps, lines)) + "\n{torn")
    counted: Counter[str] = Counter()
    found = captions(given(tmp_path, tmp_path / "a.safetensors", captions=str(file)), counted)
    assert found == {"a": ["one"], "c": [("a cat", "on a sofa")]}
    assert counted["no JSON"] == 1
    file.write_text("[1]\n")
    with pytest.raises(InputError, match="holds no captions of images"):
        captions(given(tmp_path, tmp_path / "a.safetensors", captions=str(file)), counted)


def test_what_is_missing_is_said(folder: Path, small_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    with pytest.raises(ConfigError, match="need --captions FILE"):
        make(given(folder, out, captions=None))
    sources = {"images": "circo:val", "captions": None}
    asked = Given(QUICK, sources, out, "demo", {}, tmp_path / "cache", small_world)
    with pytest.raises(MissingStageError, match=r"seize caption .*--dataset circo --split val"):
        make(asked)
    with pytest.raises(InputError, match="images with captions are fewer than a batch"):
        make(given(folder, out, QUICK.model_copy(update={"batch": 11})))


def test_published_values_are_the_defaults() -> None:
    # F: the README's command, which says 60 epochs where the script's default is 80.
    own = RECIPE.chosen({}, "fti4cir-l14")
    assert (own.rate, own.weight_decay, own.batch, own.epochs) == (4e-5, 0.01, 256, 60)
    assert (own.temperature, own.caption_weight, own.drop_after, own.seed) == (0.2, 1.4, 10, 42)
