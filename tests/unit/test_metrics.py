"""Metrics against their definitions."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics import average_precision_at_k, recall_at_k

IDS = [str(number) for number in range(12)]


@given(st.permutations(IDS), st.sets(st.sampled_from(IDS), min_size=1), st.integers(1, 12))
def test_average_precision_follows_circos_definition(
    ranking: list[str], relevant: set[str], k: int
) -> None:
    precisions = [
        len(relevant & set(ranking[: i + 1])) / (i + 1) if ranking[i] in relevant else 0.0
        for i in range(k)
    ]
    expected = sum(precisions) / min(k, len(relevant))
    value = average_precision_at_k(ranking, relevant, k)
    assert abs(value - expected) < 1e-12
    assert 0 <= value <= 1


@given(st.sets(st.sampled_from(IDS), min_size=1), st.integers(1, 12))
def test_average_precision_is_one_when_the_relevant_come_first(relevant: set[str], k: int) -> None:
    ranking = sorted(relevant) + [name for name in IDS if name not in relevant]
    assert average_precision_at_k(ranking, relevant, k) == 1.0


def test_average_precision_by_hand() -> None:
    assert average_precision_at_k(["a", "x", "b"], {"a", "b", "c"}, 5) == (1 + 2 / 3) / 3
    assert average_precision_at_k(["x", "a"], {"a", "b", "c"}, 2) == 0.5 / 2


@given(st.permutations(IDS), st.integers(1, 12))
def test_recall_counts_the_target_within_the_first_k(ranking: list[str], k: int) -> None:
    assert recall_at_k(ranking, "3", k) == float(ranking.index("3") < k)
