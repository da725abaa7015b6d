"""Near-duplicates are one result, whatever their number."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import config
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


@given(
    st.integers(0, 40), st.sampled_from([1.0, 0.9995, 0.99, 0.9, 0.5, 0.0, -1.0]),
    st.integers(1, 40), st.integers(0, 9),
)  # fmt: skip
def test_groups_are_those_of_comparing_each_with_every_first(
    count: int, threshold: float, k: int, seed: int
) -> None:
    drawn = torch.Generator().manual_seed(seed)
    apart = torch.tensor([1e-4, 1e-2, 0.1, 1.0])[torch.randint(0, 4, (count, 1), generator=drawn)]
    kinds = torch.randn(3, 24, generator=drawn)[torch.randint(0, 3, (count,), generator=drawn)]
    rows = normalise(kinds + apart * torch.randn(count, 24, generator=drawn))
    expected: list[list[int]] = []
    for row in range(count):
        alike = [own for own in expected if float(rows[own[0]] @ rows[row]) >= threshold]
        if alike:
            alike[0].append(row)
        elif len(expected) < k:
            expected.append([row])
    others = (rows @ rows.T)[~torch.eye(count, dtype=torch.bool)]
    if not ((others - threshold).abs() < 1e-6).any():  # else rounding decides
        assert group(rows, threshold, k) == expected


def test_what_is_nearly_the_same_is_one_result_however_far_apart() -> None:
    rows = normalise(torch.randn(6_000, 32, generator=torch.Generator().manual_seed(4)))
    rows[5_990] = rows[3]
    found = group(rows, 0.9995, 6_000)
    assert found[3] == [3, 5_990]
    assert len(found) == 5_999


def test_a_larger_k_has_the_same_groups_first() -> None:
    """Pages of a ranking are parts of it."""
    kinds = torch.randint(0, 8, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    every = group(near(*kinds), 0.99, 100)
    assert sorted(row for own in every for row in own) == list(range(60))
    for k in range(1, len(every)):
        found = group(near(*kinds), 0.99, k)
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
