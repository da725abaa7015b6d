"""The best images of a run's galleries, by the scan or by the index that its settings ask for."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.config import resolve_device
from pipeline.retrieval import indexes, ranking
from pipeline.retrieval.indexes import certified, shards
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
    together, and ``scanned``, queries for which no list was long enough; ``steps``, seconds of
    scans by the product that came first, where there was a choice.
    Raises ConfigError for a kind of index that there is not.
    """

    def __init__(self, run: Run, images: FeatureFile) -> None:
        indexes.check(run.config.search.index.kind)
        self.run = run
        self.images = images
        self.device = resolve_device(run.config.runtime.device)
        self.restart()
        self._opened: dict[bytes, tuple[Gallery, Index]] = {}

    def restart(self) -> None:
        """Count from nothing again."""
        self.visited = self.scanned = 0
        self.steps: dict[str, float] = {}

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
            start, kind = time.monotonic(), None
            if self.device == "cpu":
                kind = ranking.first_product(score, len(part.chosen), k, excluded)
            found = ranking.top_images(
                score, part.gallery, k, part.inside, excluded, self.device, advance
            )
            if kind is not None:
                step = f"{kind} first"
                self.steps[step] = self.steps.get(step, 0.0) + time.monotonic() - start
            return found
        if isinstance(score, RankEnds):
            raise indexes.needs_scan(self.run.config.search.index.kind)
        gallery, index = self._open(part)
        chosen = np.arange(len(part.chosen)) if part.inside is None else part.chosen
        if excluded is not None:
            place = np.searchsorted(chosen, excluded.numpy()).clip(max=len(chosen) - 1)
            here = chosen[place] == excluded.numpy()
            excluded = excluded.new_tensor(np.where(here, place, -1))
        listed = certified.search(
            score, gallery, index, k, excluded, device=self.device, advance=advance
        )
        self.visited += int(listed.visited.sum())
        self.scanned += listed.scanned
        return listed.scores, listed.rows.new_tensor(chosen[listed.rows.numpy()])

    def _open(self, part: Part) -> tuple[Gallery, Index]:
        """Return the gallery of the part's images and its index, built if need be.

        The index's file carries a fingerprint of the features, the names and how it was built.
        """
        key = part.chosen.tobytes()
        if key not in self._opened:
            settings = self.run.config.search.index
            built = {k: v for k, v in settings.content.items() if k not in ("breadth", "probes")}
            content = {
                "features": self.images.file.name,
                "names": [self.images.names[row] for row in part.chosen],
                "settings": built,
            }
            folder = self.images.file.parent.parent / "indexes"
            file = folder / f"{settings.kind}-{fingerprint(content)}"
            whole = len(part.chosen) == len(self.images.names)
            gallery: Gallery = self.images if whole else Members(self.images, part.chosen)
            opener = indexes.KINDS[settings.kind]
            index = shards.opened(opener, gallery, settings, file, self.run.config.runtime)
            self._opened[key] = gallery, index
        return self._opened[key]
