"""The networks φ of LinCIR, SEARLE, Pic2Word and FTI4CIR, as their papers and weights have them.

Inputs and outputs are float32. d is the width of CLIP's joint space, t the width of its text
tower's token embeddings, v that of its image tower.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

TEMPLATES = 24
"""FTI4CIR's learnt templates of local features."""
MOST_ATTRIBUTES = 12
"""Attribute pseudo-words that FTI4CIR keeps, at most."""
RELEVANCE = 0.05
"""FTI4CIR counts a local feature whose share of the softmax over templates is above this one. With
fewer templates the same share means less, so it is scaled by 24 over their number."""


def mlp(width_in: int, hidden: int, width_out: int, dropout: float) -> nn.Sequential:
    """Return Linear, GELU, Dropout twice, then Linear: the φ of LinCIR and of SEARLE."""
    return nn.Sequential(
        nn.Linear(width_in, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, width_out),
    )


class Phi(nn.Module):
    """One pseudo-word of an image feature: LinCIR (CVPR 2024) and SEARLE (ICCV 2023).

    Takes features (n, d) as the encoder gives them, not normalised; returns (n, t).
    """

    def __init__(self, d: int, t: int, hidden: int | None = None, dropout: float = 0.5) -> None:
        super().__init__()
        self.layers = mlp(d, hidden or 4 * d, t, dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Return the pseudo-words (n, t) of ``features`` (n, d)."""
        words: Tensor = self.layers(features)
        return words


class Pic2Word(nn.Module):
    """One pseudo-word of an image feature: Pic2Word's IM2TEXT (CVPR 2023).

    Takes raw features (n, d); returns (n, t).
    """

    def __init__(self, d: int, t: int, hidden: int = 512, dropout: float = 0.1) -> None:
        super().__init__()
        widths = (d, hidden)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.Dropout(dropout), nn.ReLU())
            for width in widths
        )
        self.fc_out = nn.Linear(hidden, t)

    def forward(self, features: Tensor) -> Tensor:
        """Return the pseudo-words (n, t) of ``features`` (n, d)."""
        for layer in self.layers:
            features = layer(features)
        words: Tensor = self.fc_out(features)
        return words


@dataclass(frozen=True)
class Attributes:
    """FTI4CIR's local features of images, normalised (n, up to 12, d), the relevant ones first.

    ``counts`` int64 (n) says how many of them are relevant: at least one.
    """

    features: Tensor
    counts: Tensor


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        keys, values = self.to_keys_values(x).chunk(2, dim=-1)
        attended = nn.functional.scaled_dot_product_attention(self.to_queries(x), keys, values)
        projected: Tensor = self.project(attended)
        return projected


class _Feed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return out


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = _Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _Feed(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class FineGrained(nn.Module):
    """A subject and several attribute pseudo-words of an image: FTI4CIR (SIGIR 2024).

    Needs raw image features (n, d) and the image tower's tokens (n, tokens, v), class token first,
    after all of its blocks and before its last norm and projection. The released networks have
    t = d; with another t the local features stay d wide, and both φ lead from d to t.
    """

    def __init__(
        self,
        d: int,
        v: int,
        layers: int = 3,
        templates: int = TEMPLATES,
        dropout: float = 0.5,
        t: int | None = None,
    ) -> None:
        super().__init__()
        self.templates = nn.Parameter(torch.randn(1, templates, v))
        self.transformer = _Transformer(v, layers)
        self.local_atte_fc = nn.Sequential(nn.Linear(v, d), nn.Sigmoid())
        self.phi_s = Phi(d, t or d, dropout=dropout)
        self.phi_a = Phi(d, t or d, dropout=dropout)

    def local(self, tokens: Tensor) -> Tensor:
        """Return the local features (n, templates, d) of image ``tokens`` (n, tokens, v)."""
        count = self.templates.shape[1]
        templates = self.templates.expand(len(tokens), -1, -1)
        attended = self.transformer(torch.cat([templates, tokens], dim=1))[:, :count]
        features: Tensor = self.local_atte_fc(attended)
        return features

    def attributes(self, features: Tensor, tokens: Tensor) -> Attributes:
        """Return the local features that say most about images, by their raw ``features`` (n, d).

        A local feature counts by its share of the softmax over ⟨local, global⟩; the relevant ones
        stand in the templates' order, the others follow, the likelier first.
        """
        local = self.local(tokens)
        share = torch.softmax((local @ features[:, :, None])[:, :, 0], dim=1)
        most = min(MOST_ATTRIBUTES, share.shape[1])
        limit = RELEVANCE * TEMPLATES / share.shape[1]
        counts = (share > limit).sum(dim=1).clamp(1, most)
        chosen = share.sort(dim=1, descending=True, stable=True).indices[:, :most]
        place = torch.arange(most, device=chosen.device)
        relevant = place < counts[:, None]
        # Relevant ones by template, the others behind them as they are.
        key = torch.where(relevant, chosen, share.shape[1] + place)
        chosen = chosen.gather(1, key.argsort(dim=1))
        picked = local.gather(1, chosen[:, :, None].expand(-1, -1, local.shape[2]))
        return Attributes(nn.functional.normalize(picked, dim=-1), counts)

    def forward(self, features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return subject words (n, t), attribute words (n, up to 12, t) and their counts (n)."""
        found = self.attributes(features, tokens)
        return self.phi_s(features), self.phi_a(found.features), found.counts


Network = Phi | Pic2Word | FineGrained
