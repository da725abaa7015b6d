"""What heads share: what they are given, what they return, and the parts that several are built of.

All features are float32. d is the width of the encoder's joint space, v that of its image tower.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Given:
    """What n queries are composed of: normalised features, rows of a missing image or text zero."""

    images: Tensor
    """The reference images (n, d)."""
    texts: Tensor
    """The modification texts (n, d)."""
    entities: Tensor | None = None
    """The texts' entities (n, e, d), each embedded alone; rows behind the last are zero."""
    tokens: Tensor | None = None
    """The image tower's patch tokens (n, t, v), for heads that look at them."""

    def __getitem__(self, rows: Tensor | slice) -> "Given":
        chosen = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{n: v[rows] for n, v in chosen.items() if v is not None})

    def to(self, device: str) -> "Given":
        """Return the same on a device."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{n: v.to(device) for n, v in own.items() if v is not None})


class Head(nn.Module):
    """Composes queries. A subclass's constructor takes widths and sizes as plain numbers."""

    title: ClassVar[str]
    """Whose idea it is re-implemented from."""
    reads_tokens: ClassVar[bool] = False
    """Whether it looks at patch tokens, of queries and of the images that are searched."""
    reads_entities: ClassVar[bool] = False
    """Whether it looks at the texts' entities."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.sizes = sizes
        """The constructor's arguments, which a checkpoint keeps."""

    def forward(self, given: Given) -> Tensor:
        """Return queries (n, width), of length 1."""
        raise NotImplementedError

    def prototype(self, given: Given) -> Tensor | None:
        """Return what the head holds half-way, (n, d); None for a head that has no such thing."""
        return None

    def targets(self, features: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return what queries are compared with, (n, width) of length 1: the images themselves."""
        return unit(features)


def unit(rows: Tensor) -> Tensor:
    """Return rows at length 1; zero rows stay zero."""
    return nn.functional.normalize(rows, dim=-1)


def padded(rows: Sequence[Tensor], width: int) -> Tensor:
    """Return lists of features (e, d) as one tensor (n, most, d), zeros behind the last of each."""
    most = max((len(own) for own in rows), default=0) or 1
    found = torch.zeros(len(rows), most, width)
    for place, own in enumerate(rows):
        found[place, : len(own)] = own
    return found


class Feed(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))

    def forward(self, rows: Tensor) -> Tensor:
        """Return (…, out)."""
        found: Tensor = self.layers(rows)
        return found


class Attention(nn.Module):
    """One head of scaled dot-product attention: softmax(Q K^T / sqrt(d)) V, projected."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, rows: Tensor, context: Tensor, there: Tensor | None = None) -> Tensor:
        """Return (n, rows, d); ``there`` bool (n, context) says which of the context counts."""
        mask = None if there is None else there[:, None, :]
        attended = nn.functional.scaled_dot_product_attention(
            self.query(rows), self.key(context), self.value(context), attn_mask=mask
        )
        projected: Tensor = self.project(attended)
        return projected
