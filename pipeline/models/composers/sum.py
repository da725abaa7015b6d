"""``sum``: image and text added, as BGE-VL composes, with two learnt weights."""

import torch
from torch import Tensor, nn

from pipeline.models.composers.base import Given, Head, unit


class Sum(Head):
    """q = a·v + b·t, normalised; a and b are all that is learnt."""

    title = "BGE-VL's sum of both features, with learnt weights"

    def __init__(self, d: int) -> None:
        super().__init__(d=d)
        self.weights = nn.Parameter(torch.ones(2))

    def forward(self, given: Given) -> Tensor:
        """Return queries (n, d)."""
        return unit(self.weights[0] * given.images + self.weights[1] * given.texts)


HEAD = Sum
