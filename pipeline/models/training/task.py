"""What the loop trains. Loads no torch, so that recipes can be listed without it."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


class Task(ABC):
    """What is trained; a recipe makes one of its settings, its model and its data."""

    name: str
    """As in ``seize train NAME``."""
    module: nn.Module
    """What is trained, on its device and in training mode; it holds nothing that is frozen."""
    items: int
    """How many there are to train from: an epoch sees each once."""
    identity: dict[str, Any]
    """What changes the weights beside the settings, JSON-able; written into every checkpoint."""
    enlarged: float = 1.0
    """The loss is multiplied with this power of two for the gradients' way through a frozen model
    in half precision, where they would vanish."""

    record: Mapping[str, Any] = {}
    """What ``training.json`` tells besides, which changes no weight."""

    @abstractmethod
    def batch(self, number: int) -> Any:
        """Return batch ``number`` of the training, by that and the seed alone; see ``Order``."""

    @abstractmethod
    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """Return the terms, weighted, whose sum is made smaller; torch's generator is seeded."""

    def weights(self) -> Mapping[str, Tensor]:
        """Return what a checkpoint holds."""
        return self.module.state_dict()


class Order:
    """The items of each batch: every item once an epoch, in an order by the seed."""

    def __init__(self, items: int, batch: int, seed: int) -> None:
        self._items, self._batch, self._seed = items, batch, seed
        self._held: tuple[int, list[int]] = (-1, [])

    def of(self, number: int) -> list[int]:
        """Return the places of the items of batch ``number``."""
        made = []
        for at in range(number * self._batch, (number + 1) * self._batch):
            epoch, place = divmod(at, self._items)
            if self._held[0] != epoch:
                order = list(range(self._items))
                random.Random(f"{self._seed} epoch {epoch}").shuffle(order)
                self._held = epoch, order
            made.append(self._held[1][place])
        return made


def enlarged(weight: Tensor, count: int) -> float:
    """Return what a mean over ``count`` is multiplied with on its way through a frozen model.

    1 unless the model, by one of its weights, is in half precision: there gradients would vanish.
    """
    return 2.0 ** round(math.log2(count)) if str(weight.dtype) == "torch.float16" else 1.0
