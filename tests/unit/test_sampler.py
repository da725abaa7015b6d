"""Nucleus sampling from given uniform numbers."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.captioners._blip2 import NucleusSampler, uniform_numbers


def chosen(scores: torch.Tensor, uniforms: np.ndarray, top_p: float) -> list[int]:
    sampler = NucleusSampler(uniforms, top_p, temperature=1.0)
    kept = sampler(torch.zeros(len(scores), 1), scores)
    assert (torch.isfinite(kept).sum(dim=1) == 1).all()
    return kept.argmax(dim=1).tolist()


@given(st.integers(0, 10_000), st.floats(0.05, 1.0))
@settings(deadline=None)
def test_tokens_come_from_the_smallest_set_that_reaches_top_p(seed: int, top_p: float) -> None:
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.normal(size=(6, 20)) * 3)
    tokens = chosen(scores, rng.random((6, 1)), top_p)
    for row, token in zip(torch.softmax(scores, dim=1).numpy(), tokens, strict=True):
        more_likely = row[row > row[token]].sum()
        assert more_likely < top_p


def test_frequencies_follow_the_probabilities_within_the_nucleus() -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    scores = torch.from_numpy(np.log(probabilities)).expand(20_000, 4)
    uniforms = np.random.default_rng(0).random((20_000, 1))
    counts = np.bincount(chosen(scores, uniforms, 0.9), minlength=4) / 20_000
    np.testing.assert_allclose(counts, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0], atol=0.01)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(1)
    scores, uniforms = torch.from_numpy(rng.normal(size=(9, 30))), rng.random((9, 1))
    together = chosen(scores, uniforms, 0.9)
    alone = [chosen(scores[i : i + 1], uniforms[i : i + 1], 0.9)[0] for i in range(9)]
    assert together == alone


def test_numbers_are_keyed_by_seed_image_and_sample() -> None:
    base = uniform_numbers(0, "a", (3, 5))
    assert (uniform_numbers(0, "a", (5, 5))[:3] == base).all()
    assert not (uniform_numbers(1, "a", (3, 5)) == base).any()
    assert not (uniform_numbers(0, "b", (3, 5)) == base).any()
    assert len(np.unique(base)) == base.size
    assert base.min() >= 0
    assert base.max() < 1
