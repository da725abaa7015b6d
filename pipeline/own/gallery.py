"""One's own images, searched one query at a time: the Python API behind `seize query` and the page.

A query runs the same captioner, LLM, CLIP, methods and search as a benchmark. Captions depend on an
image's bytes and edits on their texts, so both are kept, and asking again calls no model.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from PIL import Image
from torch import Tensor

from pipeline import datasets
from pipeline.config import OWN_IMAGES, Config, SearchConfig
from pipeline.errors import InputError
from pipeline.images.files import open_image
from pipeline.own import checks, conditions, describing, folder
from pipeline.own.answers import Shared
from pipeline.own.filters import Filters, Matching
from pipeline.own.folder import State, hash_of
from pipeline.own.loaded import Images, stamp
from pipeline.own.ranking import Asked, rank
from pipeline.own.result import Result
from pipeline.own.shown import Shown, bytes_of
from pipeline.own.unwanted import NOTHING, Unwanted
from pipeline.retrieval import methods
from pipeline.retrieval.methods.increment import Increment, RankIncrement
from pipeline.retrieval.sections import section
from pipeline.run import StageReport

QUERIES = "queries"
"""The folder of the cache that holds captions, edits and text features, whatever the gallery."""
LONGEST_TEXT = 1_000
"""Characters of a relative caption, and of a caption that is edited by hand."""


class Gallery:
    """A folder of images that queries are asked about. Safe to use from several threads.

    ``command`` holds options of ``seize index`` that errors recommend it with; every result has
    ``note`` among its notes; ``attributes`` is a CSV in place of the folder's ``attributes.csv``.
    Raises InputError if there is no such folder. Made by ``seize.load``:

    >>> import seize
    >>> gallery = seize.load("photos", config="demo")
    >>> report = gallery.index()
    >>> len(gallery) == report.computed + report.cached
    True
    >>> gallery.query("dog.jpg", "has a dark background")
    <Result 'has a dark background': 20 images, the best '...'>
    """

    def __init__(
        self,
        root: Path,
        config: Config,
        cache: Path,
        command: str = "",
        note: str | None = None,
        attributes: Path | None = None,
    ) -> None:
        checks.method(config, config.search.method)
        checks.query(root, config)
        methods.check(config, tuple(datasets.known()))
        self.config = config
        self.folder = folder.open_folder(root, config, cache, command, note)
        self._shared = Shared(config, cache / QUERIES, self.folder.feature_file)
        self._filters = Filters(self.folder, attributes)
        self._asked: tuple[conditions.Condition, ...] = ()

    def index(self) -> StageReport:
        """Bring the index up to date with the folder; see ``pipeline.own.folder.index``."""
        report = folder.index(self.folder)
        self._shared.images = None
        return report

    def index_in_rounds(self, begun: folder.Begun) -> Iterator[StageReport]:
        """Do what ``index`` does so that the first images can be searched soon."""
        for report in folder.index_in_rounds(self.folder, begun):
            self._shared.images = None
            yield report

    @property
    def is_indexed(self) -> bool:
        """Whether there are features of this folder by the encoder in use."""
        return self.folder.feature_file.exists()

    def __repr__(self) -> str:
        return f"<Gallery {str(self.folder.root)!r} by {self.config.search.method}>"

    def __len__(self) -> int:
        return len(self._images.hashes)

    @property
    def paths(self) -> dict[str, list[str]]:
        """The indexed files below the folder by content hash, in the order of paths."""
        return self._images.paths

    @property
    def _images(self) -> Images:
        """The index as it is on disk, loaded again where another process changed it."""
        shared = self._shared
        with shared.images_lock:
            if shared.images is None or shared.images.stamp != stamp(self.folder):
                shared.images = Images(self.folder)
            return shared.images

    def _copy(self) -> "Gallery":
        """Return a gallery that shares all that this one has loaded."""
        other = object.__new__(Gallery)
        other.__dict__ |= self.__dict__
        return other

    def with_search(
        self,
        settings: SearchConfig | None = None,
        method: str | None = None,
        alpha_pos: float | None = None,
        alpha_neg: float | None = None,
        top_k: int | None = None,
        keep_reference: bool | None = None,
    ) -> "Gallery":
        """Return this gallery with other search settings, sharing all it has loaded."""
        if method is not None:
            checks.method(self.config, method)
        changed = self.config.model_copy(update={"search": settings or self.config.search})
        other = self._copy()
        changed = changed.with_search(
            method=method,
            top_k=top_k,
            exclude_reference=None if keep_reference is None else not keep_reference,
        )
        other.config = methods.with_increment(changed, OWN_IMAGES, alpha_pos, alpha_neg)
        return other

    def where(self, *asked: str) -> "Gallery":
        """Return this gallery with only the images that meet all conditions, and those before.

        They are the candidates: the best of them are found, not those among the best. Raises
        ConditionError for a text that is none; for a field that there is not, the query does.

        >>> gallery.where("width>=64", "name=*.jpg").query("dog.jpg", "has a dark background")
        <Result 'has a dark background': 20 images, the best '...'>
        """
        other = self._copy()
        other._asked = tuple(dict.fromkeys((*self._asked, *conditions.parse_all(asked))))
        return other

    def grouped(self, at: float | None) -> "Gallery":
        """Return this gallery with near-duplicates grouped from a cosine ``at`` on; None: never.

        Raises ConfigError for what is no cosine above 0.
        """
        other = self._copy()
        other.config = self.config.with_own(group_at=at)
        return other

    def with_attributes(self, table: Path | None) -> "Gallery":
        """Return this gallery with another CSV of attributes; None: the folder's own."""
        other = self._copy()
        other._filters = Filters(self.folder, table)
        return self if other._filters.named == self._filters.named else other

    def fields(self) -> list[dict[str, Any]]:
        """Return what conditions can be about: name, kind, how many images have it, its values."""
        images = self._images
        return self._filters.properties(images.stamp).as_json(images.paths)

    @property
    def matching(self) -> Matching | None:
        """The images that meet the conditions, None where there are no conditions.

        Raises ConditionError for a field that there is not, or a value that it cannot have.
        """
        images = self._images
        if not self._asked:
            return None
        return self._filters.matching(self._asked, images.paths, images.stamp)

    @property
    def increment(self) -> Increment | RankIncrement | None:
        """α⁺ and α⁻ in use: of similarity, or of places for the rank variant; None without one."""
        kind = methods.increment_of(self.config.search.method)
        if kind is None:
            return None
        return cast("Increment | RankIncrement", section(self.config, kind, OWN_IMAGES))

    @property
    def needs(self) -> set[str]:
        """The kinds of texts that the method in use ranks by."""
        return methods.reads(self.config.search.method)

    def preload(self) -> None:
        """Load the index and what the method needs of the models now, not at the first query."""
        _ = self._images
        self._shared.preload(self.needs)

    def query(
        self,
        image: Shown | Sequence[Shown] | None = None,
        relative_caption: str | None = None,
        *,
        unlike: Sequence[str | Shown] = (),
        where: str | Sequence[str] = (),
    ) -> Result:
        """Return the images that look like ``image``, changed as ``relative_caption`` says.

        ``image`` is a file anywhere, the bytes of one, or a Pillow image (known by its pixels, so
        no file of the gallery is taken for it), or a list of several, which the query is about
        together; what is in the gallery is not retrieved (unless ``search.exclude_reference`` is
        off). With an image alone the method ``image`` ranks, with a text alone ``text``.
        ``unlike`` holds texts (str) and images of what is not wanted, ``where`` conditions that the
        images meet, as ``Gallery.where`` takes them. Raises InputError for an image, text or
        condition that cannot be used, MissingStageError without an index, ModelError for a model.
        """
        if where:
            chosen = self.where(*([where] if isinstance(where, str) else where))
            return chosen.query(image, relative_caption, unlike=unlike)
        shown = [] if image is None else image if isinstance(image, list | tuple) else [image]
        given = cast("Sequence[Shown]", shown)
        names = [str(one) if isinstance(one, str | Path) else "the image" for one in given]
        if not isinstance(relative_caption, str | None):
            kind = type(relative_caption).__name__
            raise InputError(f"The relative caption is a {kind}: give a text, or none.")
        return self.search(
            [bytes_of(one) for one in given],
            relative_caption or "",
            names,
            unwanted=self.unwanted(unlike),
        )

    def unwanted(self, unlike: Sequence[str | Shown]) -> Unwanted:
        """Return texts (str) and images of what is not wanted, the images embedded."""
        texts = tuple(one.strip() for one in unlike if isinstance(one, str) and one.strip())
        contents = [bytes_of(one) for one in unlike if not isinstance(one, str)]
        images = []
        for content in contents:
            images.append(hash_of(content))
            if images[-1] not in self._images.row:
                picture = functools.partial(open_image, Path("the image"), content)
                self._shared.embed_image(images[-1], picture)
        return Unwanted(texts, tuple(images))

    def alone(self, has_image: bool, has_text: bool) -> "Gallery":
        """Return this gallery, with the method that needs no more where image or text is missing.

        Raises InputError where both are.
        """
        if has_image and has_text:
            return self
        if not has_image and not has_text:
            raise InputError("There is nothing to search by: give an image, a text, or both.")
        method = "image" if has_image else "text"
        return self if self.config.search.method == method else self.with_search(method=method)

    def search(
        self,
        contents: Sequence[bytes],
        relative_caption: str,
        names: Sequence[str],
        tell: Callable[[str], Any] = lambda step: None,
        max_pixels: int | None = None,
        limited_by: str = "runtime.max_pixels",
        unwanted: Unwanted = NOTHING,
    ) -> Result:
        """Do what ``query`` does, telling each step (``caption``, ``edit``, ``search``) as it
        begins; ``names`` is what errors call each image, ``limited_by`` what sets ``max_pixels``.
        """
        relative_caption = relative_caption.strip() if isinstance(relative_caption, str) else ""
        chosen = self.alone(bool(contents), bool(relative_caption))
        if chosen is not self:
            found = chosen.search(
                contents, relative_caption, names, tell, max_pixels, limited_by, unwanted
            )
            return replace(found, asked=self.config.search)
        if len(relative_caption) > LONGEST_TEXT:
            raise InputError(
                f"The relative caption has {len(relative_caption):,} characters, more than the "
                f"{LONGEST_TEXT:,} allowed: say it in fewer words."
            )
        matching = self.matching
        limit = self.config.runtime.max_pixels if max_pixels is None else max_pixels
        pictures = {
            hash_of(content): functools.cache(
                functools.partial(
                    open_image, Path(name), content, max_pixels=limit, limited_by=limited_by
                )
            )
            for name, content in zip(names, contents, strict=True)
        }
        described = describing.Described()
        if matching is None or matching.paths:  # else no model need say anything
            described = describing.describe(
                self._shared, self.needs, pictures, relative_caption, tell
            )
            tell("search")
            texts = [relative_caption, *described.captions, *described.edits]
            describing.embed(self._shared, self._images.row, pictures, texts)
        asked = Asked(
            *(list(pictures), relative_caption, described.captions, described.edits),
            *(described.notes, pictures, unwanted),
        )
        by_hash = {hash_of(content): content for content in contents}
        ranked = rank(self, self._shared, self._images, asked, matching)
        return replace(ranked, contents=tuple(by_hash.values()))

    def rank(
        self,
        references: Sequence[str],
        relative_caption: str,
        captions: Sequence[str],
        edited_captions: Sequence[str | None],
        notes: Sequence[str] = (),
        pictures: Mapping[str, Callable[[], Image.Image]] | None = None,
        unwanted: Unwanted = NOTHING,
        vector: Tensor | None = None,
    ) -> Result:
        """Rank the gallery by texts that are there; only CLIP is called, for texts that are new.

        ``references`` are hashes of images of the gallery or of an earlier query, ``pictures``
        gives those that are at hand; ``vector`` (d) stands for their feature. Raises InputError
        where one is neither, where edited captions do not match captions, or for a vector of
        another width.
        """
        has_image = bool(references) or vector is not None
        chosen = self.alone(has_image, bool(relative_caption.strip()))
        asked = Asked(
            *(references, relative_caption, captions, edited_captions, notes),
            *(pictures or {}, unwanted, vector),
        )
        found = rank(chosen, self._shared, self._images, asked, self.matching)
        return found if chosen is self else replace(found, asked=self.config.search)

    def edit(self, captions: Sequence[str], relative_caption: str) -> list[str | None]:
        """Return the captions' edits, where the method ranks by them; None where the LLM failed."""
        return self._shared.edit(captions, relative_caption) if "edits" in self.needs else []

    def knows(self, texts: Iterable[str]) -> bool:
        """Return whether the features of all texts are in memory: no model is needed for them."""
        return self._shared.knows(texts)

    def state(self, content_hash: str) -> State:
        """Return what changes with an indexed image's files; raises InputError where none is left,
        or the image is no longer in the index."""
        found: list[int] = []
        for path in self.paths.get(content_hash, ()):
            with contextlib.suppress(InputError):
                found += self.folder.state(path)
        if not found:
            raise InputError("There is no such image in the gallery (any more).")
        return tuple(found)

    def content(self, content_hash: str) -> bytes:
        """Return the bytes of an indexed image; raises InputError where there is none of that hash,
        or its files are no longer what was indexed."""
        paths = self.paths.get(content_hash)
        if not paths:
            raise InputError("There is no such image in the gallery.")
        for path in paths:
            with contextlib.suppress(InputError):
                return self.folder.read(path, content_hash)
        raise InputError(f"{paths[0]} is gone or was changed. {self.folder.advice}")
