"""Which of clusters and scan is taken, by what each would take."""

import pytest

from pipeline.retrieval.indexes import costs


def chosen(queries: int, left: float, full: float, width: int = 64, quick: bool = False) -> str:
    own = costs.of_clusters(100_000, width, width // 2, 1_265, queries, left, full)
    return "clusters" if own <= costs.of_scan(100_000, width, queries, quick) else "scan"


@pytest.mark.parametrize("queries", [1, 16, 100, 1_000])
@pytest.mark.parametrize("quick", [False, True])
def test_clusters_where_little_is_left_and_the_scan_where_all_is(queries: int, quick: bool) -> None:
    assert chosen(queries, 0.05, 0.001, quick=quick) == "clusters"
    assert queries == 1 or chosen(queries, 1.0, 0.2, quick=quick) == "scan"


def test_one_query_is_spared_the_scan_where_many_are_not() -> None:
    assert chosen(1, 0.8, 0.03) == "clusters"
    assert chosen(100, 0.8, 0.03) == "scan"


def test_a_quick_scan_is_taken_sooner() -> None:
    assert chosen(800, 0.4, 0.002, width=768) == "clusters"
    assert chosen(800, 0.4, 0.002, width=768, quick=True) == "scan"
