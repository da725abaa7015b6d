"""Fisher's randomisation test against ranx's, and Holm's correction against its definition."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranx.statistical_tests import fisher_randomization_test

from pipeline.study.significance import holm, randomisation_test

PERMUTATIONS = 20_000


@pytest.mark.parametrize("kind", ["precision", "recall"])
@pytest.mark.parametrize("gain", [0.0, 0.05, 0.1, 0.2])
def test_p_is_ranx_s_but_for_the_draw(kind: str, gain: float) -> None:
    rng = np.random.default_rng(round(100 * gain))
    base = rng.random(60)
    other = np.clip(base + gain + rng.normal(0, 0.3, 60), 0, 1)
    if kind == "recall":  # hits and misses: many swaps tie with what was observed
        base, other = (base < 0.5).astype(float), (other < 0.5 + gain).astype(float)
    expected, _ = fisher_randomization_test(base, other, n_permutations=PERMUTATIONS)
    p = randomisation_test((other - base)[:, None], PERMUTATIONS)[0]
    # Two draws of a share: five standard errors of their difference.
    assert abs(p - expected) < 5 * np.sqrt(2 * 0.25 / PERMUTATIONS) * max(
        np.sqrt(4 * expected * (1 - expected)), 0.02
    )


def test_p_is_that_of_all_swaps_of_few_queries() -> None:
    differences = np.array([0.4, 0.1, -0.2, 0.3, 0.0, 0.3, 0.2])
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=7)]
    exact = np.mean([value >= abs(differences.sum()) - 1e-12 for value in sums])
    p = randomisation_test(differences[:, None], 40_000)[0]
    assert p == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / 40_000))


def test_equal_rankings_differ_by_nothing_and_p_is_never_nothing() -> None:
    alike, apart = np.zeros(50), np.ones(50)
    p = randomisation_test(np.stack([alike, apart], axis=1), 999)
    assert p.tolist() == [1.0, 1 / 1000]


def test_a_swap_turns_all_metrics_of_a_query_and_the_seed_fixes_the_draw() -> None:
    own = np.random.default_rng(0).normal(0.1, 1, 40)
    p = randomisation_test(np.stack([own, 3 * own, -own], axis=1), 2000)
    assert p[0] == p[1] == p[2]
    assert randomisation_test(own[:, None], 2000, seed=1) != p[0]


@given(st.lists(st.floats(1e-4, 1), min_size=1, max_size=8))
def test_holm_steps_down(p: list[float]) -> None:
    corrected = holm(p)
    order = sorted(range(len(p)), key=lambda place: p[place])
    for step, place in enumerate(order):
        expected = max(min(1.0, (len(p) - i) * p[order[i]]) for i in range(step + 1))
        assert corrected[place] == pytest.approx(expected)
        assert p[place] <= corrected[place] <= min(1.0, len(p) * p[place]) + 1e-12


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
