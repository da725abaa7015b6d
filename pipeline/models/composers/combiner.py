"""``combiner``: CLIP4Cir's Combiner, which SCOT trains from texts alone."""

import torch
from torch import Tensor, nn

from pipeline.models.composers.base import Given, Head, unit


class Combiner(Head):
    """q = O(h) + λ·t + (1 − λ)·v, normalised, with h from both projections joined.

    λ in (0, 1) is computed from both, too (Baldrati et al., CVPR workshops 2022; SCOT, WACV 2025,
    arXiv 2501.08347). Published widths are 4·d for projections and 8·d inside.
    """

    title = "SCOT's and CLIP4Cir's Combiner"

    def __init__(self, d: int, hidden: int | None = None, dropout_percent: int = 50) -> None:
        hidden = hidden or 4 * d
        super().__init__(d=d, hidden=hidden, dropout_percent=dropout_percent)
        dropout = nn.Dropout(dropout_percent / 100)
        self.text = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), dropout)
        self.image = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), dropout)
        self.inner = nn.Sequential(nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), dropout)
        self.out = nn.Linear(2 * hidden, d)
        self.share = nn.Sequential(
            nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), dropout, nn.Linear(2 * hidden, 1)
        )

    def forward(self, given: Given) -> Tensor:
        """Return queries (n, d)."""
        both = torch.cat([self.text(given.texts), self.image(given.images)], dim=-1)
        share = torch.sigmoid(self.share(both))
        mixed = share * given.texts + (1 - share) * given.images
        return unit(self.out(self.inner(both)) + mixed)


HEAD = Combiner
