"""The captions of the reference image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.retrieval.clues.base import Clues, clue, good

if TYPE_CHECKING:
    from torch import Tensor


@clue("content", reads=("captions", "relative_captions"))
def content(clues: Clues) -> Tensor:
    """Return the content feature (queries, d): the mean of a query's captions (SEIZE, section 3.3).

    Without captions the relative caption stands for it.
    """
    import torch

    source = clues.source
    pairs = zip(source.texts("captions"), source.texts("relative_captions"), strict=True)
    return torch.stack(
        [clues.mean(source.embed(good(said) or good(relative))) for said, relative in pairs]
    )
