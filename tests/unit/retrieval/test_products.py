"""Each quick product keeps its bound, and misses no image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.retrieval import products, trials
from pipeline.retrieval.products import Bfloat16, Int7, Int8, Product, Single, SingleByNumpy

SEED = st.integers(0, 2**32 - 1)
HERE = [kind for kind in products.PRODUCTS if trials.holds(kind, 48)]
"""Products that hold on this processor, whether or not they are quick."""


def drawn(seed: int, length: float, coarse: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return vectors, some zero, and images of length 1, some zero, near each other or not."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(40, 48)) * 10.0 ** rng.uniform(-6, 0, (40, 1)) + rng.normal(size=48)
    if coarse:  # all that rounding loses points one way
        images = np.full((40, 48), 1 + 0.99 * 2.0**-8) * rng.choice([-1, 1], (40, 1))
    images[3] = 0
    images /= np.maximum(np.linalg.norm(images, axis=1, keepdims=True), 1e-30)
    vectors = images[rng.integers(0, 40, 12)] + rng.normal(size=(12, 48)) * rng.uniform(0, 1)
    vectors[5] = 0
    return torch.from_numpy(vectors * length).float(), torch.from_numpy(images).float()


@pytest.mark.parametrize("kind", HERE)
@given(SEED, st.sampled_from([1e-20, 1e-3, 1.0, 1e12]), st.booleans())
@settings(deadline=None, max_examples=60)
def test_no_product_errs_by_more_than_its_bound_nor_misses_what_reaches_a_limit(
    kind: type[Product], seed: int, length: float, coarse: bool
) -> None:
    vectors, images = drawn(seed, length, coarse)
    product = kind(vectors)
    product.load(images, 1 + 1e-5)
    exact = images.double() @ vectors.double().T
    found = product.multiply().double() * product.unit
    error = torch.from_numpy(product.error())
    rounded = 2.0**-8 * (exact.abs() + error) if kind is Bfloat16 else 0
    assert bool(((found - exact).abs() <= error + rounded).all())
    for limit in exact[[0, 7, 20]]:  # each is reached to the last digit by an image
        reached = product.reaching(limit.numpy() - product.error())
        assert bool(torch.from_numpy(reached)[exact >= limit].all())


@pytest.mark.parametrize("kind", HERE)
def test_an_infinite_limit_is_reached_by_all_or_by_none(kind: type[Product]) -> None:
    vectors, images = drawn(2, 1.0, coarse=False)
    product = kind(vectors)
    product.load(images, 1 + 1e-5)
    assert not product.reaching(np.full(len(vectors), np.inf)).any()
    assert product.reaching(np.full(len(vectors), -np.inf)).all()


@pytest.mark.parametrize("kind", HERE)
def test_bounds_are_no_wider_than_they_have_to_be(kind: type[Product]) -> None:
    vectors, images = drawn(1, 1.0, coarse=False)
    product = kind(vectors)
    product.load(images, 1 + 1e-5)
    longest = vectors.norm(dim=1).max()
    loose = {Bfloat16: 0.008, Int8: 0.06, Int7: 0.1, Single: 1e-4, SingleByNumpy: 1e-4}[kind]
    assert product.error().max() < loose * longest


@given(st.floats(-1e30, 1e30).filter(lambda number: not 0 < abs(number) < 1e-30))
def test_limits_are_rounded_down_and_no_further_than_one_place(number: float) -> None:
    for kind, gap in ((Single, 2.0**-23), (Bfloat16, 2.0**-7)):
        found = float(kind(torch.ones(1, 4)).floor(np.array([number])))
        assert number - gap * abs(number) - 1e-37 <= found <= number
