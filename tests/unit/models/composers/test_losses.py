"""The losses against sums that are written out."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.composers.losses import info_nce, prototype_loss


def rows(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    made = rng.normal(size=shape)
    return torch.from_numpy(made / np.linalg.norm(made, axis=-1, keepdims=True))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 6),
    m=st.integers(0, 3),
    smoothing=st.sampled_from([0.0, 0.1]),
)
def test_info_nce_is_the_sum_it_says(seed: int, n: int, m: int, smoothing: float):
    rng = np.random.default_rng(seed)
    queries, targets, negatives = rows(rng, n, 4), rows(rng, n, 4), rows(rng, n, m, 4)
    labels = torch.from_numpy(rng.integers(0, 3, n))
    if m:
        negatives[0, 0] = 0  # there is none
    total = 0.0
    for i in range(n):
        rivals = [targets[j] for j in range(n) if j == i or labels[j] != labels[i]]
        rivals += [own for own in negatives[i] if own.any()]
        exps = [np.exp(float(queries[i] @ x) / 0.07) for x in rivals]
        right = -np.log(np.exp(float(queries[i] @ targets[i]) / 0.07) / sum(exps))
        even = -np.mean([np.log(e / sum(exps)) for e in exps])
        total += (1 - smoothing) * right + smoothing * even
    found = info_nce(queries, targets, labels, negatives if m else None, smoothing=smoothing)
    np.testing.assert_allclose(found.item(), total / n, rtol=1e-9, atol=1e-14)


def test_info_nce_has_finite_gradients_where_targets_are_alike():
    rng = np.random.default_rng(0)
    queries = rows(rng, 4, 3).requires_grad_()
    negatives = torch.zeros(4, 2, 3, dtype=torch.float64)
    loss = info_nce(queries, rows(rng, 4, 3), torch.tensor([1, 1, 2, 2]), negatives, smoothing=0.1)
    loss.backward()
    assert queries.grad is not None
    assert torch.isfinite(queries.grad).all()


def test_the_way_back_is_a_fixed_aim_for_the_prototype():
    one = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    other = torch.tensor([[0.0, 0.0], [3.0, 0.0]], requires_grad=True)
    loss = prototype_loss(one, other)
    assert loss.item() == (1 + 4 + 9) / 2
    loss.backward()
    assert one.grad is not None
    assert other.grad is None
