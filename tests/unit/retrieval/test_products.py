"""Each quick product keeps its bound, misses no image, and is refused where it would not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.retrieval import products
from pipeline.retrieval.products import Bfloat16, Int7, Int8, Product, Single, SingleByNumpy

SEED = st.integers(0, 2**32 - 1)
HERE = [kind for kind in products.PRODUCTS if products.holds(kind, 48)]
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


def test_rounding_to_bfloat16_is_to_the_nearest_here() -> None:
    assert products.rounds_to_nearest()


@given(st.floats(-1e30, 1e30).filter(lambda number: not 0 < abs(number) < 1e-30))
def test_limits_are_rounded_down_and_no_further_than_one_place(number: float) -> None:
    for kind, gap in ((Single, 2.0**-23), (Bfloat16, 2.0**-7)):
        found = float(kind(torch.ones(1, 4)).floor(np.array([number])))
        assert number - gap * abs(number) - 1e-37 <= found <= number


class RoundsOften(Bfloat16):
    """Keeps its sums in bfloat16 between runs of 32 products, as a kernel might."""

    def multiply(self) -> torch.Tensor:
        total = torch.zeros(self.size, dtype=torch.bfloat16)
        for start in range(0, self.reduced.shape[1], 32):
            some = slice(start, start + 32)
            part = self.images[:, some].float() @ self.reduced[:, some].float().T
            total = (total.float() + part).bfloat16()
        return total


class Rough(Single):
    """Multiplies float32 in fewer digits, as torch does where it is told to."""

    def multiply(self) -> torch.Tensor:
        return self.images.bfloat16().float() @ self.vectors.T


class Saturates(Int8):
    """Adds pairs of products in 16 bits, as AVX2 does."""

    def multiply(self) -> torch.Tensor:
        found = torch.zeros(self.size, dtype=torch.int32)
        for start in range(0, self.numbers.shape[1], 2):
            some = slice(start, start + 2)
            pair = (self.images[:, some].int() + 128) @ self.numbers[:, some].int().T
            found += pair.clamp(-(2**15), 2**15 - 1)
        return found - 128 * self.numbers.int().sum(dim=1)


class SaturatesLess(Saturates):
    """The same with vectors that are small enough."""

    top = Int7.top


@pytest.mark.parametrize("width", [48, 768])
def test_a_processor_that_sums_otherwise_is_found_out(width: int) -> None:
    for kind in (RoundsOften, Rough, Saturates):
        assert not products.holds(kind, width)
    assert products.holds(SaturatesLess, width)


def test_the_quickest_product_comes_first_and_what_follows_is_more_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = {Bfloat16: 3.0, Int8: 2.0, Int7: 1.0, Single: 9.0, SingleByNumpy: 8.0}
    held = set(products.PRODUCTS)
    monkeypatch.setattr(products, "holds", lambda kind, width: kind in held)
    monkeypatch.setattr(products, "seconds", lambda kind, width: times[kind])
    monkeypatch.setattr(Bfloat16, "supported", classmethod(lambda cls: True))
    ranked = products.ranked.__wrapped__
    assert ranked(48) == (Int8, Bfloat16, SingleByNumpy)
    times[Int8] = 2.9  # hardly quicker, and it loses more
    assert ranked(48) == (Bfloat16, SingleByNumpy)
    held.remove(Int8)
    assert ranked(48) == (Int7, Bfloat16, SingleByNumpy)
    monkeypatch.setattr(Bfloat16, "supported", classmethod(lambda cls: False))
    times[Int7] = 7.9
    assert ranked(48) == (SingleByNumpy,)
    held.remove(Single)
    assert ranked(48) == ()
