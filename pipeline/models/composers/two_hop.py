"""``two-hop``: the text is applied twice, to the image and to what came of it (MTST's PTHA)."""

import torch
from torch import Tensor, nn

from pipeline.models.composers.base import Attention, Feed, Given, Head, unit


class TwoHop(Head):
    """Learnt queries look at image and text, then, as they came out, at the text alone.

    Both hops are one module, as both are one Q-Former in MTST (arXiv 2504.05316). The query is the
    mean of the tokens of hop 2 and the text, on top of image and text. The ``prototype`` is the
    mean of hop 1's tokens: what reference and target have between them, wherever it is come from.
    """

    title = "MTST's two hops"

    def __init__(self, d: int, hidden: int | None = None, queries: int = 8) -> None:
        hidden = hidden or 2 * d
        super().__init__(d=d, hidden=hidden, queries=queries)
        self.queries = nn.Parameter(torch.randn(queries, d) * d**-0.5)
        self.kinds = nn.Parameter(torch.zeros(2, d))
        self.attention = Attention(d)
        self.feed = Feed(d, hidden, d)
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(2))
        self.weights = nn.Parameter(torch.ones(2))

    def hop(self, rows: Tensor, context: Tensor) -> Tensor:
        """Return ``rows`` (n, queries, d) after they looked at ``context`` (n, m, d)."""
        rows = rows + self.attention(self.norms[0](rows), context)
        found: Tensor = rows + self.feed(self.norms[1](rows))
        return found

    def _first(self, given: Given) -> Tensor:
        context = torch.stack([given.images, given.texts], dim=1) + self.kinds
        return self.hop(self.queries.expand(len(given.images), -1, -1), context)

    def prototype(self, given: Given) -> Tensor:
        """Return the mean of hop 1's tokens (n, d), of length 1."""
        return unit(self._first(given).mean(dim=1))

    def forward(self, given: Given) -> Tensor:
        """Return queries (n, d)."""
        text = given.texts[:, None]
        tokens = self.hop(self._first(given), text + self.kinds[1])
        mean = torch.cat([tokens, text], dim=1).mean(dim=1)
        return unit(mean + self.weights[0] * given.images + self.weights[1] * given.texts)


HEAD = TwoHop
