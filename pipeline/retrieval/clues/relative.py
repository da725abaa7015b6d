"""The relative caption."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.retrieval.clues.base import Clues, clue, good

if TYPE_CHECKING:
    from torch import Tensor


@clue("relative", reads=("relative_captions",))
def relative(clues: Clues) -> Tensor:
    """Return the relative caption's feature (queries, d): of two orders the mean."""
    import torch

    source = clues.source
    texts = source.texts("relative_captions")
    return torch.stack([clues.mean(source.embed(good(own))) for own in texts])


@clue("relative_raw", reads=("relative_captions",))
def relative_raw(clues: Clues) -> Tensor:
    """Return the mean raw embedding (queries, d) of the relative caption, not normalised."""
    import torch

    source = clues.source
    texts = source.texts("relative_captions")
    return torch.stack([source.embed(good(own)).mean(dim=0) for own in texts])
