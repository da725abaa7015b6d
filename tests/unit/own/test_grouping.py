"""Near-duplicates are one result, whatever their number."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import config
from pipeline.own import grouping
from pipeline.own.grouping import group
from pipeline.retrieval.scoring import normalise
from tests.benchmarks import grouping as measured


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


def test_a_larger_k_has_the_same_groups_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of a ranking are parts of it, however many blocks and windows there are."""
    monkeypatch.setattr(grouping, "BLOCK", 8)
    monkeypatch.setattr(grouping, "WINDOW", 3)
    kinds = torch.randint(0, 8, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    every = grouping.group(near(*kinds), 0.99, 100)
    assert sorted(row for own in every for row in own) == list(range(60))
    assert len(every) > 8  # what lies further back than the window begins a group of its own
    for k in range(1, len(every)):
        found = grouping.group(near(*kinds), 0.99, k)
        assert [own[0] for own in found] == [own[0] for own in every[:k]]


def test_by_default_copies_are_grouped_and_what_one_edit_tells_apart_is_not() -> None:
    demo = config.load("demo")
    at = demo.own.group_at
    assert at is not None
    for name, cosines in measured.of_copies(demo, measured.pictures(100)).items():
        small = "5 %" in name or "JPEG 75" in name  # what changes more is found more seldom
        assert float((cosines >= at).float().mean()) > (0.02 if small else 0.3), name
    apart = measured.of_others(demo, 300)["a scene one edit apart"]
    assert float((apart >= at).float().mean()) < 0.02
