"""``gated``: a gate on the reference image and a residual of both, as CDD-ICM fuses a turn."""

import torch
from torch import Tensor, nn

from pipeline.models.composers.base import Feed, Given, Head, unit


class Gated(Head):
    """q = a·σ(G[v; t]) ⊙ v + b·R[v; t], normalised (CDD-ICM, arXiv 2304.02192; after TIRG).

    The gate keeps of the image what stays, the residual adds what changes; both see both.
    """

    title = "CDD-ICM's gated fusion"

    def __init__(self, d: int, hidden: int | None = None) -> None:
        hidden = hidden or 2 * d
        super().__init__(d=d, hidden=hidden)
        self.gate = Feed(2 * d, hidden, d)
        self.residual = Feed(2 * d, hidden, d)
        self.weights = nn.Parameter(torch.ones(2))

    def forward(self, given: Given) -> Tensor:
        """Return queries (n, d)."""
        both = torch.cat([given.images, given.texts], dim=-1)
        kept = torch.sigmoid(self.gate(both)) * given.images
        return unit(self.weights[0] * kept + self.weights[1] * self.residual(both))


HEAD = Gated
