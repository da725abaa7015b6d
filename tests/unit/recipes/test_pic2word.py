"""Pic2Word's training: the contrast by hand, and images told apart by their words after it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import InputError
from pipeline.models.inversion import checkpoints
from pipeline.models.inversion.networks import Pic2Word
from pipeline.models.training import loop
from pipeline.recipes.base import Given
from pipeline.recipes.pic2word import RECIPE, Settings, make

QUICK = Settings(epochs=None, steps=60, batch=32, every=60, rate=3e-3, warmup=5, dropout=0.0)


def given(root: Path, out: Path, settings: Settings = QUICK) -> Given:
    overrides = {"runtime.workers": 0}
    sources = {"images": "circo:val"}
    return Given(settings, sources, out, "demo", overrides, out.parent / "cache", root)


def by_hand(task: Any, features: Any) -> float:
    """Symmetric InfoNCE in float64, its texts by a plain forward pass."""
    model, tokenizer = task.model, task.tokenizer
    with torch.no_grad():
        words = task.module(features)
        ids = tokenizer.rows([task.prompt] * len(words))
        x = model.token_embedding(ids)
        x[:, 1 + task.prompt.places[0]] = words
        x = model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask)
        x = model.ln_final(x)[torch.arange(len(words)), ids.argmax(dim=1)] @ model.text_projection
        scale = float(model.logit_scale.exp())
    said, seen = x.double().numpy(), features.double().numpy()
    said /= np.linalg.norm(said, axis=1, keepdims=True)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    logits = scale * seen @ said.T
    total = 0.0
    for rows in (logits, logits.T):
        total -= np.mean(np.diag(rows) - np.log(np.exp(rows).sum(axis=1)))
    return float(total / 2)


def test_a_gallerys_images_are_told_apart_by_their_words(small_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "words.safetensors"
    task = make(given(small_world, out))
    batch = task.batch(0)
    task.module.eval()
    expected = by_hand(task, batch)
    assert task.losses(batch)["contrast"].item() == pytest.approx(expected, rel=1e-4)
    task.module.train()
    loop.train(task, out, QUICK)
    task.module.eval()
    assert task.losses(batch)["contrast"].item() < 0.7 * expected
    network = checkpoints.load(out, 128, 96)
    assert isinstance(network, Pic2Word)
    assert loop.train(make(given(small_world, out)), out, QUICK).computed == 0


def test_the_sources_place_is_where_the_end_would_stand(small_world: Path, tmp_path: Path) -> None:
    """Published: the word is put in at the end token's place, which moves on by one."""
    task = make(given(small_world, tmp_path / "a.safetensors"))
    plain = task.tokenizer.pieces("a photo of")
    assert list(task.prompt.tokens[:-1]) == plain
    assert task.prompt.places == (len(plain),)


def test_images_of_a_batch_do_not_depend_on_where_a_training_stopped(
    small_world: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    short = {"steps": 4, "dropout": 0.1, "schedule": "constant", "every": 2}
    own = QUICK.model_copy(update=short)
    loop.train(make(given(small_world, whole, own)), whole, own)
    half = own.model_copy(update={"steps": 3})
    loop.train(make(given(small_world, parts, half)), parts, half)
    loop.train(make(given(small_world, parts, own)), parts, own)
    one, other = load_file(whole), load_file(parts)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_published_values_are_the_defaults() -> None:
    # P: the README's training command and main.py's defaults.
    own = RECIPE.chosen({}, "pic2word-l14")
    assert (own.rate, own.weight_decay, own.batch, own.epochs) == (1e-4, 0.1, 128 * 8, 30)
    assert (own.beta2, own.epsilon, own.warmup, own.schedule) == (0.98, 1e-6, 10_000, "cosine")
    assert not own.decay_all
    assert own == Settings()


def test_a_gallery_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Is --data-root right"):
        make(given(tmp_path, tmp_path / "a.safetensors"))
