"""Inner products of many vectors with many images: quick ones, each with a proven error.

A product takes q' for the vector q and x' for the image x: in bfloat16, in whole numbers, or as
they are. By q·x − q'·x' = q·(x − x') + (q − q')·x' and Cauchy and Schwarz,

    |q·x − fl(q'·x')|  ≤  |q| |x − x'|  +  |q − q'| |x'|  +  γ |q'| |x'|,

where γ is for the sum itself. |q − q'| is measured, in float64. So is |x − x'| where x' is in whole
numbers; in bfloat16, which has 8 binary digits, rounding to nearest gives |x − x'| ≤ 2⁻⁸ |x|. Sums
of whole numbers have no error. Those of d numbers in float32, in whatever order, err by
d u / (1 − d u) of |q'| |x'| at most, u = 2⁻²⁴ (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd edition, sections 3.1 and 4.2); products of two numbers in bfloat16 are exact there.

That this machine rounds to nearest and sums in float32 is assumed, and tried before it is relied on
(``trials.py``). γ is eight times what the theory and the trial allow.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RESERVE = 8
"""How many times the error of theory, and of a trial, the bound of a sum allows for."""

UNIT = 2.0**-24
"""By how much, relatively, float32 rounds."""

TINY = 1e-30
"""What numbers below the least normal one may lose, and sums of them, for vectors of length 1."""

PIECE = 512
"""Images that are reduced at a time: they stay in the cache until their loss is measured."""

Lengths = NDArray[np.float64]


def sum_error(width: int) -> float:
    """Return γ, by what part of |q| |x| a sum of ``width`` products in float32 may err."""
    return RESERVE * (width + 2) * UNIT


def lengths_of(rows: Tensor) -> Lengths:
    """Return the lengths (n) of ``rows`` (n, d), in float64."""
    found: Lengths = torch.linalg.vector_norm(rows.double(), dim=1).numpy()
    return found


class Room:
    """Memory that is used again: fresh memory costs as much as a quick product."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor of ``shape`` and any content, until the next one of that name."""
        size = math.prod(shape)
        if name not in self._held or len(self._held[name]) < size:
            self._held[name] = torch.empty(size, dtype=dtype)
        return self._held[name][:size].view(*shape)


class Product(ABC):
    """Products of ``vectors`` float32 (queries, d) with block after block of images."""

    name: str
    exact_sums = False
    images: Tensor
    """What stands for the images of the block, (n, d) in any dtype."""

    def __init__(self, vectors: Tensor) -> None:
        self.room = Room()
        self.vectors = vectors
        self.reduced = self.reduce(vectors)
        self.whole, self.lengths = lengths_of(vectors), lengths_of(self.reduced)
        self.loss = lengths_of(vectors.double() - self.reduced.double())
        self.image_loss = self.image_length = 0.0

    @classmethod
    def supported(cls) -> bool:
        """Whether to try at all: without instructions of its own it would be slow."""
        return True

    @abstractmethod
    def reduce(self, vectors: Tensor) -> Tensor:
        """Return what stands for ``vectors``, in any dtype."""

    @abstractmethod
    def load(self, features: Tensor, longest: float) -> None:
        """Take in images, float32 (n, d), no longer than ``longest``, and what they lose."""

    @abstractmethod
    def multiply(self) -> Tensor:
        """Return the products (n, queries) in units of ``unit``, until the next time."""

    @abstractmethod
    def floor(self, limits: Lengths) -> Tensor:
        """Return the largest numbers of the products' dtype that are no larger than ``limits``."""

    @property
    def size(self) -> tuple[int, int]:
        """Images of the block, queries."""
        return len(self.images), len(self.vectors)

    @property
    def unit(self) -> Tensor | float:
        """What 1 stands for in a vector's products, (queries)."""
        return 1.0

    def reaching(self, limits: Lengths) -> NDArray[np.bool_]:
        """Return which images' products, (n, queries), reach ``limits`` (queries).

        With ``error`` taken off the limits none is missed; some may be too many.
        """
        products, least = self.multiply(), self.floor(limits)
        found = self.room("found", products.shape, torch.bool).numpy()
        np.greater_equal(products.numpy(), least.numpy(), out=found)
        return found

    def error(self) -> Lengths:
        """Return a bound (queries) of the error of every product with the block's images."""
        width = self.vectors.shape[1]
        gamma = 0.0 if self.exact_sums else sum_error(width)
        lost = self.whole * self.image_loss + self.loss * self.image_length
        rounded = self.lengths * self.image_length
        tiny = TINY * (1 + self.whole) * (1 + self.image_length)
        # Lengths are computed in float32: they err by less than this themselves.
        return (1 + sum_error(width)) * (lost + gamma * rounded) + tiny


class Single(Product):
    """In float32, by torch: nothing is lost but in the sum."""

    name = "float32 by torch"

    def reduce(self, vectors: Tensor) -> Tensor:
        return vectors

    def load(self, features: Tensor, longest: float) -> None:
        self.images, self.image_length = features, longest

    def multiply(self) -> Tensor:
        room = self.room("products", self.size, torch.float32)
        return torch.mm(self.images, self.vectors.T, out=room)

    def floor(self, limits: Lengths) -> Tensor:
        return torch.from_numpy(rounded_down(limits))


class SingleByNumpy(Single):
    """The same by numpy's OpenBLAS, which is quicker than torch's MKL on some processors."""

    name = "float32 by numpy"

    def multiply(self) -> Tensor:
        room = self.room("products", self.size, torch.float32)
        np.matmul(self.images.numpy(), self.vectors.numpy().T, out=room.numpy())
        return room


class Bfloat16(Product):
    """In bfloat16, summed in float32 and rounded once more.

    Rounding keeps order, whatever neighbour it takes: a sum that reaches a limit which is a number
    in bfloat16 itself does so after rounding too.
    """

    name = "bfloat16"

    @classmethod
    def supported(cls) -> bool:
        mkldnn = torch.backends.mkldnn
        if not torch._C._has_mkldnn or not mkldnn.enabled:
            return False
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    def reduce(self, vectors: Tensor) -> Tensor:
        return vectors.bfloat16()

    def load(self, features: Tensor, longest: float) -> None:
        images = self.room("images", features.shape, torch.bfloat16)
        self.images, self.image_loss = images.copy_(features), 2.0**-8 * longest
        self.image_length = longest + self.image_loss

    def multiply(self) -> Tensor:
        room = self.room("products", self.size, torch.bfloat16)
        return torch.mm(self.images, self.reduced.T, out=room)

    def floor(self, limits: Lengths) -> Tensor:
        single = torch.from_numpy(rounded_down(limits))
        half = single.bfloat16()
        low = torch.nextafter(half, torch.full_like(half, float("-inf")))
        return torch.where(half.float() > single, low, half)

    def reaching(self, limits: Lengths) -> NDArray[np.bool_]:
        # numpy knows no bfloat16. Bits of positive numbers are in their order, and those of
        # negative ones all below; where the limit is not positive, torch compares.
        products, least = self.multiply(), self.floor(limits)
        found = self.room("found", products.shape, torch.bool).numpy()
        bits = products.view(torch.int16).numpy(), least.view(torch.int16).numpy()
        np.greater_equal(*bits, out=found)
        others = (least <= 0).nonzero()[:, 0]
        if len(others):
            found[:, others.numpy()] = (products[:, others] >= least[others]).numpy()
        return found


class Int8(Product):
    """In whole numbers: exact, but for what rounding to them loses."""

    name = "int8"
    exact_sums = True
    top = 127
    """The largest number of vectors; that of images is 127."""

    def reduce(self, vectors: Tensor) -> Tensor:
        exact = vectors.double()
        self.steps = (exact.abs().amax(dim=1) / self.top).clamp(min=1e-300)
        self.numbers = (exact / self.steps[:, None]).round().to(torch.int8)
        return self.numbers.double() * self.steps[:, None]

    def load(self, features: Tensor, longest: float) -> None:
        self.images = self.room("images", features.shape, torch.int8)
        self.step = max(float(features.max()), -float(features.min()), 1e-30) / 127
        self.image_loss = 0.0
        for start in range(0, len(features), PIECE):
            part = features[start : start + PIECE]
            room = self.room("lost", part.shape, torch.float32)
            scaled = torch.mul(part, 1 / self.step, out=room).round_()
            self.images[start : start + PIECE].copy_(scaled)
            lost = torch.sub(part, scaled.mul_(self.step), out=scaled)
            self.image_loss = max(self.image_loss, longest_of(lost))
        # What is lost is itself rounded, and so is the step.
        self.image_loss += 4 * UNIT * longest
        self.image_length = longest + self.image_loss

    @property
    def unit(self) -> Tensor | float:
        return self.steps * self.step

    def multiply(self) -> Tensor:
        room = self.room("products", self.size, torch.int32)
        return torch._int_mm(self.images, self.numbers.T, out=room)

    def floor(self, limits: Lengths) -> Tensor:
        numbers = (torch.from_numpy(limits) / self.unit).clamp(-(2.0**32), 2.0**32)
        # A little lower, as the quotient is rounded; 2^31 - 1 is more than any product.
        numbers = (numbers - 1e-9 * numbers.abs() - 1).floor()
        return numbers.clamp(-(2.0**31), 2.0**31 - 1).to(torch.int32)


class Int7(Int8):
    """The same with vectors in 7 bits, which AVX2 sums without overflow in 16 bits."""

    name = "int8, queries in 7 bits"
    top = 63


PRODUCTS: tuple[type[Product], ...] = (Bfloat16, Int8, Int7, Single, SingleByNumpy)
"""All there are."""


def sampled(features: Tensor, vectors: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return products (m) in float32 of some ``features`` (n, d) and ``vectors`` (queries, d).

    ``rows``, which rise, say of which features, ``columns`` of which vectors, (m) each. Each pair
    is summed alike, wherever it stands.
    """
    _warned()
    starts = torch.zeros(len(features) + 1, dtype=torch.long)
    starts[1:] = torch.bincount(rows, minlength=len(features)).cumsum(0)
    size, nothing = (len(features), len(vectors)), torch.zeros(len(columns))
    pairs = torch.sparse_csr_tensor(starts, columns, nothing, size, check_invariants=False)
    found: Tensor = torch.sparse.sampled_addmm(pairs, features, vectors.T, beta=0.0).values()
    return found


@cache
def _warned() -> None:
    """Let torch say now, unheard, that its sparse matrices may change: it does so once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        places = torch.tensor([0, 1]), torch.tensor([0])
        torch.sparse_csr_tensor(*places, torch.ones(1), (1, 1), check_invariants=False)


def rounded_down(numbers: Lengths) -> NDArray[np.float32]:
    """Return the largest numbers in float32 that are no larger than ``numbers``."""
    single = numbers.astype(np.float32)
    low = np.nextafter(single, np.float32(-np.inf), dtype=np.float32)
    down: NDArray[np.float32] = np.where(single > numbers, low, single)
    return down


def longest_of(rows: Tensor) -> float:
    """Return the length of the longest of ``rows`` (n, d)."""
    return float(torch.linalg.vector_norm(rows, dim=1).max())
