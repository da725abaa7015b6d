"""The best images of a run's galleries, by the scan or by the index that its settings ask for."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.config import resolve_device
from pipeline.retrieval import indexes, ranking
from pipeline.retrieval.indexes import certified
from pipeline.retrieval.indexes.base import Index, Members
from pipeline.retrieval.parts import Part
from pipeline.retrieval.ranking import Gallery, ignore
from pipeline.retrieval.scoring import RankEnds, Score
from pipeline.run import Run
from pipeline.store.features import FeatureFile
from pipeline.store.identity import fingerprint


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
        self._opened: dict[bytes, tuple[Gallery, Index]] = {}

    @property
    def scans(self) -> bool:
        """Whether there is no index: progress is told in images then, otherwise in queries."""
        return self.run.config.search.index.kind == "scan"

    def best(
        self,
        score: Score,
        part: Part,
        k: int,
        excluding: bool = True,
        advance: Callable[[int], Any] = ignore,
    ) -> tuple[Tensor, Tensor]:
        """Return each query's best images of the part and their rows, as ``ranking.top_images``.

        ``excluding`` leaves out what the part's queries never retrieve.
        """
        excluded = part.excluded if excluding else None
        if self.scans or not len(part.chosen):
            return ranking.top_images(
                score, part.gallery, k, part.inside, excluded, self.device, advance
            )
        if isinstance(score, RankEnds):
            raise indexes.needs_scan(self.run.config.search.index.kind)
        gallery, index = self._open(part)
        chosen = np.arange(len(part.chosen)) if part.inside is None else part.chosen
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

    def _open(self, part: Part) -> tuple[Gallery, Index]:
        """Return the gallery of the part's images and its index, built if need be.

        The index's file carries a fingerprint of the features, the names and how it was built.
        """
        key = part.chosen.tobytes()
        if key not in self._opened:
            settings = self.run.config.search.index
            content = {
                "features": self.images.file.name,
                "names": [self.images.names[row] for row in part.chosen],
                "settings": settings.model_dump(exclude={"breadth", "probes"}),
            }
            folder = self.images.file.parent.parent / "indexes"
            file = folder / f"{settings.kind}-{fingerprint(content)}"
            whole = len(part.chosen) == len(self.images.names)
            gallery: Gallery = self.images if whole else Members(self.images, part.chosen)
            index = indexes.KINDS[settings.kind](gallery, settings, file, self.run.config.runtime)
            self._opened[key] = gallery, index
        return self._opened[key]
