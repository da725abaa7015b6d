"""Products are taken where they keep their bounds, the quickest first, and no others."""

import pytest
import torch

from pipeline.retrieval import products, trials
from pipeline.retrieval.products import Bfloat16, Int7, Int8, Single, SingleByNumpy


def test_rounding_to_bfloat16_is_to_the_nearest_here() -> None:
    assert trials.rounds_to_nearest()


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


class Lacking(Single):
    """What a build of torch does that has no such product."""

    def multiply(self) -> torch.Tensor:
        return torch.mm(self.images, self.vectors)


@pytest.mark.parametrize("width", [48, 768])
def test_a_processor_that_sums_otherwise_is_found_out(width: int) -> None:
    for kind in (RoundsOften, Rough, Saturates, Lacking):
        assert not trials.holds(kind, width)
    assert trials.holds(SaturatesLess, width)


def test_the_quickest_product_comes_first_and_what_follows_is_more_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = {Bfloat16: 3.0, Int8: 2.0, Int7: 1.0, Single: 9.0, SingleByNumpy: 8.0}
    held = set(products.PRODUCTS)
    monkeypatch.setattr(trials, "holds", lambda kind, width: kind in held)
    monkeypatch.setattr(trials, "seconds", lambda kind, width: times[kind])
    monkeypatch.setattr(Bfloat16, "supported", classmethod(lambda cls: True))
    ranked = trials.ranked.__wrapped__
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
