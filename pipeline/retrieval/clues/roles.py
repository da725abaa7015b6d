"""What the LLM said must be there anew, must stay and must be gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.models.prompts.edit import ROLES
from pipeline.retrieval.clues.base import Clues, clue, good

if TYPE_CHECKING:
    from torch import Tensor


def _make(role: str) -> None:
    @clue(role, reads=(role,))
    def mean(clues: Clues) -> Tensor:
        """Return the mean (queries, d) of what was said; zeros where nothing was."""
        import torch

        source = clues.source
        width = source.embed(()).shape[1]
        said = (good(texts) for texts in source.texts(role))
        return torch.stack(
            [clues.mean(source.embed(own)) if own else torch.zeros(width) for own in said]
        )


for _role in ROLES:
    _make(_role)
