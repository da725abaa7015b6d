"""Pools: their names, and their rules against ranx's."""

import json
import os
import random
import subprocess
import sys
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import load
from pipeline.config.names import join, split
from pipeline.errors import ConfigError
from pipeline.retrieval import methods
from pipeline.retrieval.pool import Pool, Rule, fuse
from pipeline.retrieval.sections import validated

IMAGES = [f"i{number}" for number in range(12)]
LIST = st.lists(st.sampled_from(IMAGES), min_size=1, max_size=9, unique=True)
SCORES = st.lists(
    st.integers(-(10**6), 10**6).map(lambda n: n / 10**6), min_size=9, max_size=9, unique=True
)
SCORED = st.tuples(LIST, SCORES).map(
    lambda one: dict(zip(one[0], sorted(one[1], reverse=True), strict=False))
)
PARTS = st.lists(SCORED, min_size=2, max_size=4)
WEIGHTS = [0.25, 3.0, 1.0]
RANX = """
import json, sys
from ranx import Run, fuse
lists, weights, k = json.load(sys.stdin)
runs = [Run(part) for part in lists]
ways = {
    "rrf": (None, "rrf", {"k": k}),
    "min-max": ("min-max", "wsum", {"weights": weights}),
    "z-norm": ("zmuv", "wsum", {"weights": weights}),
}
found = {rule: fuse(runs, norm=n, method=m, params=p).run for rule, (n, m, p) in ways.items()}
json.dump({rule: {q: dict(s) for q, s in run.items()} for rule, run in found.items()}, sys.stdout)
"""


def drawn(queries: int) -> list[dict[str, dict[str, float]]]:
    """Return three parts' lists of so many queries: of any length, with one image in some."""
    rng = random.Random(0)

    def some() -> dict[str, float]:
        images = rng.sample(IMAGES, rng.randint(1, len(IMAGES)))
        scores = sorted((rng.uniform(-3, 3) for _ in images), reverse=True)
        return dict(zip(images, scores, strict=True))

    return [{str(query): some() for query in range(queries)} for _ in WEIGHTS]


def test_every_rule_gives_ranxs_scores() -> None:
    lists, k = drawn(200), 7
    # Its loops as plain Python: they would take minutes to compile.
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", RANX],
        input=json.dumps([lists, WEIGHTS, k]),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    for rule in get_args(Rule):
        weights = [1.0, 1.0, 1.0] if rule == "rrf" else WEIGHTS  # its rrf has none
        for query in lists[0]:
            own = fuse([part[query] for part in lists], Pool(rule=rule, k=k), weights)
            assert own == pytest.approx(theirs[rule][query], abs=1e-9)
            assert list(own.values()) == sorted(own.values(), reverse=True)


@given(SCORED, st.sampled_from(["rrf", "min-max"]), st.integers(0, 100))
def test_a_list_pooled_with_itself_keeps_its_order(
    scores: dict[str, float], rule: Rule, k: int
) -> None:
    assert list(fuse([scores, scores], Pool(rule=rule, k=k), [1, 2])) == list(scores)


@given(PARTS, st.integers(0, 100))
def test_a_part_that_weighs_nothing_adds_its_images_behind_all_others(
    lists: list[dict[str, float]], k: int
) -> None:
    found = list(fuse(lists, Pool(k=k), [1.0] + [0.0] * (len(lists) - 1)))
    assert found[: len(lists[0])] == list(lists[0])


def test_the_worked_example() -> None:
    lists = [{"a": 0.9, "b": 0.5, "c": 0.1}, {"c": 7.0, "d": 6.0}]
    ranks = fuse(lists, Pool(k=60), [1, 1])
    assert ranks == pytest.approx({"c": 1 / 63 + 1 / 61, "a": 1 / 61, "b": 1 / 62, "d": 1 / 62})
    assert list(ranks) == ["c", "a", "b", "d"], "of equals, whom an earlier list names"
    assert fuse(lists, Pool(rule="min-max"), [1, 2]) == pytest.approx(
        {"c": 2.0, "a": 1.0, "b": 0.5, "d": 0.0}
    )
    assert fuse([{"a": 3.0}, {}], Pool(rule="z-norm"), [1, 1]) == {"a": 0.0}


NAME = st.sampled_from(["seize", "pdv", "text+verify"])
POOL = st.lists(st.sampled_from(["seize", "pdv", "image"]), min_size=2, max_size=3).map(
    lambda parts: "pool:" + ",".join(parts)
)


@given(st.lists(NAME | POOL | POOL.map(lambda name: name + "+verify"), max_size=6))
def test_a_list_of_names_is_read_as_it_was_written(names: list[str]) -> None:
    assert split(join(names)) == (names or [""])


def test_a_pool_needs_what_its_parts_need() -> None:
    pool = methods.find("pool:image,text")
    assert set(pool.needs) == {"reference", "relative"}
    assert not methods.reads("pool:image,text") & {"captions", "edits"}
    assert methods.expanded(["pool:image,text+verify", "seize", "text"]) == [
        "image",
        "text",
        "seize",
    ]
    assert methods.in_file_names("pool:seize,seize+pdv") == "pool-seize-seize+pdv"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pool:seize", "two or more different methods"),
        ("pool:seize,seize", "two or more different methods"),
        ("pool:seize,pvd", "Did you mean 'pdv'"),
        ("pool:seize,pdv+verify", "made by the verify stage"),
        ("pool:seize,pdv,,text", "Several are taken by embed, search"),
        ("pool:", "two or more different methods"),
    ],
)
def test_what_is_no_pool_is_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        methods.find(name)


def test_weights_are_of_parts_and_not_all_nothing() -> None:
    def check(**weights: float) -> None:
        config = load("demo").with_section("pool", {"weights": weights})
        methods.check_pools(config, ["text", "pool:seize,pdv+verify"], "circo")

    check(seize=2.0)
    with pytest.raises(ConfigError, match=r"'sieze' is no part of pool:seize,pdv"):
        check(sieze=2.0)
    with pytest.raises(ConfigError, match=r"all parts of pool:seize,pdv weigh 0"):
        check(seize=0.0, pdv=0.0)
    for wrong in (-1.0, 1e9):
        with pytest.raises(ConfigError, match=r"search\.pool\.weights"):
            validated(Pool, {"weights": {"seize": wrong}})
