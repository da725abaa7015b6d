"""Tuning of pools."""

import pytest

from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.retrieval.pool import Pool
from pipeline.study import pools, tune


def test_ranks_are_tuned_by_k_and_scores_by_the_parts_weights() -> None:
    config = load("demo", {"search.method": "pool:seize,pdv,text"})
    assert list(tune.grid_of(config, {})) == ["k"]
    scores = load("demo", {"search.method": "pool:seize,pdv,text", "search.pool.rule": "min-max"})
    assert tune.grid_of(scores, {"pdv": [3, 1]}) == {"pdv": [1, 3], "text": pools.TRIED}
    with pytest.raises(ConfigError, match="no parameter 'image'"):
        tune.grid_of(config, {"image": [1]})
    with pytest.raises(ConfigError, match="--grid pdv: -1 cannot be tried"):
        tune.grid_of(config, {"pdv": [-1]})


def test_a_cell_changes_only_what_it_names() -> None:
    begun = Pool(k=5, depth=20, weights={"a": 2.0, "b": 3.0})
    changed = pools.with_cell(begun, {"b": 0.5, "k": 9})
    assert changed == Pool(k=9, depth=20, weights={"a": 2.0, "b": 0.5})
    header = {"pool": {"rule": "rrf", "k": 9, "weights": {"a": 2.0, "b": 0.5}}}
    assert pools.unvaried(header, {"b"}) == {"pool": {"rule": "rrf", "k": 9, "weights": {"a": 2.0}}}
