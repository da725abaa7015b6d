"""Exact lists by a blocked scan of the features on disk: nothing to build, bounded memory."""

import numpy as np
import torch

from pipeline.retrieval.indexes.base import Rows, Scores, Vectors
from pipeline.retrieval.ranking import Gallery, top_images
from pipeline.retrieval.scoring import Ends


class Flat:
    """The scan as an index."""

    exact = True

    def __init__(self, gallery: Gallery, device: str = "cpu") -> None:
        self.gallery = gallery
        self.device = device

    def search(self, vectors: Vectors, k: int) -> tuple[Scores, Rows]:
        """Return the k largest inner products, as ``Index`` says."""
        rows = torch.from_numpy(vectors)
        scores, found = top_images(Ends(rows, rows), self.gallery, k, device=self.device)
        missing = ((0, 0), (0, k - scores.shape[1]))
        return (
            np.pad(scores.numpy(), missing, constant_values=-np.inf),
            np.pad(found.numpy(), missing, constant_values=-1),
        )
