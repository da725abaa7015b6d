"""``entities``: the text's entities as nodes that attend to one another (FineCIR's idea)."""

import torch
from torch import Tensor, nn

from pipeline.models.composers.base import Attention, Feed, Given, Head, unit


class Entities(Head):
    """Image, text and its entities are nodes of a graph with one layer of attention over them.

    FineCIR (arXiv 2503.21309) parses the text into entities and puts one layer of graph attention
    over them before its Q-Former. Here each entity is a feature of its own, the graph is complete,
    and what the text's node holds afterwards is fused with the image by a gate. The order of the
    entities says nothing; zero rows are no entities.
    """

    title = "FineCIR's entities"
    reads_entities = True

    def __init__(self, d: int, hidden: int | None = None) -> None:
        hidden = hidden or 2 * d
        super().__init__(d=d, hidden=hidden)
        self.kinds = nn.Parameter(torch.zeros(3, d))
        self.attention = Attention(d)
        self.norm = nn.LayerNorm(d)
        self.gate = Feed(3 * d, hidden, d)
        self.residual = Feed(3 * d, hidden, d)
        self.weights = nn.Parameter(torch.ones(2))

    def forward(self, given: Given) -> Tensor:
        """Return queries (n, d); without ``entities`` the text alone is a node beside the image."""
        n, d = given.images.shape
        entities = given.images.new_zeros(n, 0, d) if given.entities is None else given.entities
        own = torch.stack([given.images, given.texts], dim=1)
        nodes = torch.cat([own + self.kinds[:2], entities + self.kinds[2]], dim=1)
        there = torch.cat([own.new_ones(n, 2, dtype=torch.bool), entities.any(dim=2)], dim=1)
        text = nodes[:, 1:2] + self.attention(self.norm(nodes[:, 1:2]), self.norm(nodes), there)
        whole = torch.cat([given.images, given.texts, text[:, 0]], dim=-1)
        kept = torch.sigmoid(self.gate(whole)) * given.images
        return unit(self.weights[0] * kept + self.weights[1] * self.residual(whole))


HEAD = Entities
