"""Near-duplicates are one result, whatever their number."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.own.grouping import group
from pipeline.retrieval.scoring import normalise


def near(*directions: int, apart: float = 1e-3) -> torch.Tensor:
    """Unit vectors near some axes, each a little elsewhere."""
    drawn = torch.Generator().manual_seed(3)
    rows = torch.eye(8)[list(directions)] + apart * torch.randn(len(directions), 8, generator=drawn)
    return normalise(rows)


def test_rows_join_the_best_one_that_they_are_like() -> None:
    rows = near(0, 1, 0, 2, 1, 0)
    assert group(rows, 0.99, 5) == [[0, 2, 5], [1, 4], [3]]
    assert group(rows, 1.0, 9) == [[place] for place in range(6)]


def test_rows_behind_the_last_group_only_join() -> None:
    assert group(near(0, 1, 2, 0, 3, 1), 0.99, 2) == [[0, 3], [1, 5]]


def test_likeness_is_to_the_first_and_no_chain() -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 0.3])
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert group(rows, 0.99, 9) == [[0, 1], [2, 3]]  # cos 0.1 is 0.995, cos 0.2 is 0.980


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 8))
def test_every_group_is_of_one_kind_and_in_the_order_of_the_ranking(
    kinds: list[int], k: int
) -> None:
    found = group(near(*kinds), 0.99, k)
    expected: dict[int, list[int]] = {}
    for place, kind in enumerate(kinds):
        if kind in expected or len(expected) < k:
            expected.setdefault(kind, []).append(place)
    assert found == list(expected.values())
