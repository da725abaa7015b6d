"""One query of one's own as what clues are made from."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pipeline.own.answers import Shared
from pipeline.own.loaded import Images
from pipeline.retrieval.clues import Clue, Texts
from pipeline.retrieval.ranking import top_images
from pipeline.retrieval.scoring import Ends


class OneQuery:
    """A query whose texts are there, as a ``retrieval.clues.Source``; CLIP embeds what is new."""

    count = 1

    def __init__(
        self,
        shared: Shared,
        images: Images,
        normalise_texts: bool,
        reference: str,
        texts: Mapping[str, Sequence[str | None]],
    ) -> None:
        self._shared = shared
        self._images = images
        self.normalise_texts = normalise_texts
        self._reference = reference
        self._texts = texts

    def texts(self, kind: str) -> Texts:
        """Return the query's texts of a kind."""
        return [self._texts.get(kind, ())]

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return raw embeddings (texts, d)."""
        if not texts:
            return torch.empty(0, self._images.gallery.shape[1])
        return self._shared.embed_texts(texts)

    def references(self) -> Tensor:
        """Return the reference image's raw feature (1, d)."""
        row = self._images.row.get(self._reference)
        found = self._shared.image(self._reference) if row is None else self._images.raw(row)
        return found[None]

    def drops(self, differences: list[Tensor], k: int) -> list[Tensor]:
        """Return the k largest drops over the gallery."""
        found = (top_images(Ends(d, d), self._images.gallery, k)[0] for d in differences)
        return [best.clamp(min=0) for best in found]

    def computed(self, clue: Clue, make: Callable[[], Tensor]) -> Tensor:
        """Return a clue that a model makes, made now."""
        return make()
