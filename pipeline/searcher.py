"""The best images of a run's galleries, by the scan or by the index that its settings ask for."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline import indexes, ranking
from pipeline.cache import FeatureFile, fingerprint
from pipeline.config import resolve_device
from pipeline.indexes import certified
from pipeline.indexes.base import Index, Members
from pipeline.ranking import Gallery, ignore
from pipeline.run import Run
from pipeline.scoring import RankEnds, Score


class Searcher:
    """Searches the galleries among the run's image features.

    Attributes: ``visited``, images that were scored exactly where an index served, of all queries
    together, and ``scanned``, queries for which no list was long enough.
    Raises ConfigError for a kind of index that there is not.
    """

    def __init__(self, run: Run, images: FeatureFile) -> None:
        indexes.check(run.config.search.index.kind)
        self.run = run
        self.images = images
        self.device = resolve_device(run.config.runtime.device)
        self.visited = self.scanned = 0
        self._opened: dict[bytes, tuple[Gallery, NDArray[np.int64], Index]] = {}

    @property
    def scans(self) -> bool:
        """Whether there is no index: progress is told in images then, otherwise in queries."""
        return self.run.config.search.index.kind == "scan"

    def best(
        self,
        score: Score,
        inside: NDArray[np.bool_],
        k: int,
        excluded: Tensor | None = None,
        advance: Callable[[int], Any] = ignore,
    ) -> tuple[Tensor, Tensor]:
        """Return each query's best images and their rows, as ``ranking.top_images`` does."""
        if self.scans or not inside.any():
            return ranking.top_images(score, self.images, k, inside, excluded, self.device, advance)
        if isinstance(score, RankEnds):
            raise indexes.needs_scan(self.run.config.search.index.kind)
        gallery, chosen, index = self._open(inside)
        if excluded is not None:
            place = np.searchsorted(chosen, excluded.numpy()).clip(max=len(chosen) - 1)
            here = chosen[place] == excluded.numpy()
            excluded = excluded.new_tensor(np.where(here, place, -1))
        found = certified.search(
            score, gallery, index, k, excluded, device=self.device, advance=advance
        )
        self.visited += int(found.visited.sum())
        self.scanned += found.scanned
        return found.scores, found.rows.new_tensor(chosen[found.rows.numpy()])

    def _open(self, inside: NDArray[np.bool_]) -> tuple[Gallery, NDArray[np.int64], Index]:
        """Return the gallery of the rows ``inside``, those rows, and its index, built if need be.

        The index's file carries a fingerprint of the features, the names and how it was built.
        """
        key = np.packbits(inside).tobytes()
        if key not in self._opened:
            chosen = np.flatnonzero(inside)
            settings = self.run.config.search.index
            content = {
                "features": self.images.file.name,
                "names": [self.images.names[row] for row in chosen],
                "settings": settings.model_dump(exclude={"breadth", "probes"}),
            }
            folder = self.images.file.parent.parent / "indexes"
            file = folder / f"{settings.kind}-{fingerprint(content)}"
            gallery = self.images if inside.all() else Members(self.images, chosen)
            index = indexes.KINDS[settings.kind](gallery, settings, file, self.run.config.runtime)
            self._opened[key] = gallery, chosen, index
        return self._opened[key]
