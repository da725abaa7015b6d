"""``multi-vector``: several vectors a query and an image, compared pair by pair (FashionBLIP-2)."""

import math

import torch
from torch import Tensor, nn

from pipeline.models.composers.base import Feed, Given, Head, unit


class MultiVector(Head):
    """Patch tokens become k vectors of c channels; a score is the mean of k cosines.

    Tokens are mixed first, then channels (FashionBLIP-2, arXiv 2507.07135: a sum of cosines, which
    ranks alike). Before that a query's tokens are changed by the text, each as it is. What is
    returned are the k vectors behind one another, each at length 1/√k, so that an inner product of
    a query and an image is the mean of the cosines and any index can search them.
    """

    title = "FashionBLIP-2's multi-vector matching"
    reads_tokens = True

    def __init__(
        self, d: int, v: int, tokens: int, vectors: int = 12, channels: int = 32, hidden: int = 0
    ) -> None:
        hidden = hidden or 2 * v
        sizes = {"d": d, "v": v, "tokens": tokens, "vectors": vectors, "channels": channels}
        super().__init__(**sizes, hidden=hidden)
        self.change = Feed(v + d, hidden, v)
        self.norm = nn.LayerNorm(v)
        self.mix_tokens = nn.Linear(tokens, vectors)
        self.mix_channels = Feed(v, hidden, channels)
        self.pooled = nn.Linear(d, vectors * channels)

    def _vectors(self, tokens: Tensor, pooled: Tensor) -> Tensor:
        mixed = self.mix_tokens(self.norm(tokens).transpose(1, 2)).transpose(1, 2)
        found = self.mix_channels(mixed) + self.pooled(pooled).unflatten(1, (mixed.shape[1], -1))
        return unit(found).flatten(1) / math.sqrt(found.shape[1])

    def forward(self, given: Given) -> Tensor:
        """Return queries (n, k·c); needs ``tokens``."""
        assert given.tokens is not None
        text = given.texts[:, None].expand(-1, given.tokens.shape[1], -1)
        changed = given.tokens + self.change(torch.cat([given.tokens, text], dim=-1))
        return self._vectors(changed, given.images + given.texts)

    def targets(self, features: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return images (n, k·c) by features (n, d) and patch tokens (n, t, v)."""
        assert tokens is not None
        return self._vectors(tokens, unit(features))


HEAD = MultiVector
