"""One query of one's own as what clues are made from."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from pipeline.config import OWN_IMAGES, Config
from pipeline.models import encoders
from pipeline.own.answers import Shared
from pipeline.own.loaded import Images
from pipeline.retrieval.clues import Clue, Texts
from pipeline.retrieval.ranking import top_images
from pipeline.retrieval.scoring import Ends, mean_of_each
from pipeline.retrieval.sections import Kind, section

if TYPE_CHECKING:
    from pipeline.models.encoders._open_clip import Clip


class OneQuery:
    """A query whose texts are there, as a ``retrieval.clues.Source``; CLIP embeds what is new."""

    count = 1
    dataset = OWN_IMAGES

    def __init__(
        self,
        shared: Shared,
        images: Images,
        config: Config,
        references: Sequence[str],
        picture: Callable[[str], Image],
        texts: Mapping[str, Sequence[str | None]],
        notes: list[str],
        vector: Tensor | None = None,
        inside: NDArray[np.bool_] | None = None,
    ) -> None:
        self._inside = inside
        self._vector = vector
        self._shared = shared
        self._images = images
        self._config = config
        self.normalise_texts = config.search.normalise_texts
        self._references = references
        self._picture = picture
        self._texts = texts
        self._notes = notes

    def texts(self, kind: str) -> Texts:
        """Return the query's texts of a kind."""
        return [self._texts.get(kind, ())]

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return raw embeddings (texts, d)."""
        if not texts:
            return torch.empty(0, self._images.gallery.shape[1])
        return self._shared.embed_texts(texts)

    def references(self) -> Tensor:
        """Return the mean raw feature (1, d) of the reference images."""
        return mean_of_each(self.reference_lists(), self._images.gallery.shape[1])

    def reference_lists(self) -> list[Tensor]:
        """Return the reference images' raw features, one list (images, d), or what a turn before
        left in their stead."""
        if self._vector is not None:
            return [self._vector[None]]
        row = self._images.row
        return [
            torch.stack(
                [
                    self._images.raw(row[name]) if name in row else self._shared.image(name)
                    for name in self._references
                ]
            )
        ]

    def pictures(self) -> Iterator[tuple[list[list[tuple[int, int]]], Tensor]]:
        """Yield the reference images as CLIP prepares them."""
        for place, name in enumerate(self._references):
            picture = functools.partial(self._picture, name)
            yield [[(0, place)]], self._shared.prepared(name, picture)

    def joint(self, asked: Sequence[tuple[int, str]], instruction: str) -> Tensor:
        """Return the mean raw feature (asked, d) of the reference images with each text."""
        lists = [
            torch.stack(
                [
                    self._shared.pair(
                        name, text, instruction, functools.partial(self._picture, name)
                    )
                    for name in self._references
                ]
            )
            for _, text in asked
        ]
        return mean_of_each(lists, self._images.gallery.shape[1])

    def drops(self, differences: list[Tensor], k: int) -> list[Tensor]:
        """Return the k largest drops over the images that may be found."""
        gallery, inside = self._images.gallery, self._inside
        found = (top_images(Ends(d, d), gallery, k, inside)[0] for d in differences)
        return [best.clamp(min=0) for best in found]

    def computed(self, clue: Clue, make: Callable[[], Tensor]) -> Tensor:
        """Return a clue that a model makes, made now."""
        with self._shared.alone(encoders.ROLE.chosen(self._config)):
            return make()

    def settings(self, kind: type[Kind]) -> Kind:
        """Return a section of settings as it is for a folder of one's own."""
        return section(self._config, kind, OWN_IMAGES)

    def encoder(self) -> "Clip":
        """Return CLIP in the precision of the index, loaded now if it was not before."""
        from pipeline.models.inversion import towers

        config = self._shared.config
        return towers.load(config.encoder, config.runtime)

    def note(self, said: str) -> None:
        """Say something with the result."""
        self._notes.append(said)
