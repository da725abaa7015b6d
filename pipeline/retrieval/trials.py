"""Which inner products hold on this machine, by trial, and which of them is the quickest.

``holds`` converts numbers on both sides of every tie of bfloat16, and multiplies vectors, random
and made for it, that show sums in fewer digits than float32's, or overflow.
"""

import time
from functools import cache

import numpy as np
import torch
from torch import Tensor

from pipeline.retrieval.products import (
    RESERVE,
    Bfloat16,
    Int7,
    Int8,
    Product,
    Single,
    SingleByNumpy,
    longest_of,
    sum_error,
)

TRIAL = 64, 512
"""Vectors and images that are multiplied to find out which products hold."""

RACE = 512, 2_048
"""The same to find out how quick they are."""

ROUNDS = 3
"""How often each is timed; the quickest counts, as other work only ever slows it down."""

QUICKER = 0.8
"""What loses more has to take less than this part of the time of what loses less."""


def drawn(rows: int, width: int) -> Tensor:
    """Return random vectors (rows, width) of length 1, the same every time."""
    generator = torch.Generator().manual_seed(rows)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator))


def trials(width: int) -> list[tuple[Tensor, Tensor]]:
    """Return vectors (n, width) and images (m, width) whose products show how they are summed."""
    vectors, images = (drawn(rows, width) for rows in TRIAL)
    ones = torch.ones_like(vectors)
    # Each number after the first is less than half the last place of a sum in fewer digits.
    small = torch.full_like(images, 2.0**-13)
    small[:, 0] = 1
    signs = vectors.sign()
    return [
        (vectors, images),
        (vectors.abs(), images.abs()),
        (ones, small),
        (ones, small.flip(1)),
        (ones, -small),
        (signs, signs.repeat(-(-len(images) // len(signs)), 1)[: len(images)]),
        (ones, ones),
        (ones, -ones),
    ]


@cache
def rounds_to_nearest() -> bool:
    """Whether conversion from float32 to bfloat16 takes a nearest number, on both sides of ties."""
    finite = torch.arange(0x7F7F, dtype=torch.int32) << 16
    for beyond in (0x7FFF, 0x8000, 0x8001):
        number = (finite + beyond).view(torch.float32)
        halves = number.bfloat16().view(torch.int16).int() << 16
        up = halves != finite
        if not bool(((halves == finite + 0x10000) | ~up).all()):
            return False
        normal = finite >= 0x0080_0000  # what is smaller is TINY
        if beyond != 0x8000 and not bool((up == (beyond > 0x8000))[normal].all()):
            return False
    return True


@cache
def holds(kind: type[Product], width: int) -> bool:
    """Whether sums of ``width`` numbers err by an eighth of their bound at most, here."""
    if issubclass(kind, Bfloat16) and not rounds_to_nearest():
        return False
    try:
        small = all(_errs_little(kind(vectors), images) for vectors, images in trials(width))
        vectors, images = (drawn(rows, width) for rows in RACE)  # other sizes, other code
        return small and _errs_little(kind(vectors), images, 16)
    except (RuntimeError, AttributeError):  # this build of torch has no such product
        return False


def _errs_little(product: Product, images: Tensor, every: int = 1) -> bool:
    """Whether products with ``images`` (n, d) err by an eighth of their bound at most.

    One vector in ``every`` is looked at.
    """
    product.load(images, longest_of(images))
    own = product.step if isinstance(product, Int8) else 1.0
    exact = (product.images.double() * own) @ product.reduced[::every].double().T
    lengths = torch.from_numpy(product.lengths[::every]) * product.image_length
    width = images.shape[1]
    allowed = (0.0 if product.exact_sums else sum_error(width) / RESERVE) * lengths
    if isinstance(product, Bfloat16):
        allowed = allowed + 2.0**-8 * (exact.abs() + allowed)  # rounded once more
    values = (product.multiply().double() * product.unit)[:, ::every]
    return bool(((values - exact).abs() <= allowed + 1e-12 * lengths).all())


@cache
def seconds(kind: type[Product], width: int) -> float:
    """Return what a product of ``RACE``'s size takes here, images reduced and limits compared."""
    vectors, images = (drawn(rows, width) for rows in RACE)
    product, taken = kind(vectors), []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        product.load(images, 1.1)
        product.reaching(np.ones(len(vectors)))
        taken.append(time.perf_counter() - start)
    return min(taken)


@cache
def ranked(width: int) -> tuple[type[Product], ...]:
    """Return the products to take here: the quickest first, each after it more exact.

    One that is hardly quicker than another which loses less is left out. None where float32 itself
    does not hold, as where torch was told to multiply it in fewer digits.
    """
    if not holds(Single, width):
        return ()
    singles = [kind for kind in (Single, SingleByNumpy) if holds(kind, width)]
    chosen: list[type[Product]] = [min(singles, key=lambda kind: seconds(kind, width))]
    whole = next((kind for kind in (Int8, Int7) if holds(kind, width)), None)
    for kind in (Bfloat16, whole):  # what loses more comes later
        if kind is None or not kind.supported() or not holds(kind, width):
            continue
        if seconds(kind, width) < QUICKER * seconds(chosen[0], width):
            chosen.insert(0, kind)
    return tuple(chosen)
