"""One's own images, searched one query at a time: the Python API behind `seize query` and the page.

A query runs the same captioner, LLM, CLIP, methods and search as a benchmark. Captions depend on an
image's bytes and edits on their texts, so both are kept, and asking again calls no model.
"""

import contextlib
import functools
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline import datasets
from pipeline.config import OWN_IMAGES, Config, SearchConfig
from pipeline.errors import InputError
from pipeline.images.files import lossless, open_image, read_image
from pipeline.models import captioners, llms
from pipeline.models.prompts import edit as prompts
from pipeline.own import checks, folder
from pipeline.own.folder import Folder, State, hash_of
from pipeline.retrieval import methods
from pipeline.retrieval.clues import Clue, Clues, Texts
from pipeline.retrieval.methods.increment import Increment, RankIncrement
from pipeline.retrieval.ranking import UnitGallery, top_images
from pipeline.retrieval.scoring import Ends
from pipeline.run import StageReport, log, slug
from pipeline.stages import caption, edit, embed, embeddings
from pipeline.stages.edit import Pair
from pipeline.store.features import FeatureFile, write_features
from pipeline.store.identity import fingerprint
from pipeline.store.jsonl import RecordFile
from pipeline.store.schema import CaptionRecord, typed

QUERIES = "queries"
"""The folder of the cache that holds captions, edits and text features, whatever the gallery."""
LONGEST_TEXT = 1_000
"""Characters of a relative caption, and of a caption that is edited by hand."""
REMEMBERED = 20_000
"""Features of texts and reference images held in memory (60 MB at 768 dimensions)."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Retrieved:
    """One image of a ranking."""

    path: str
    """Below the gallery's folder, with forward slashes; the first of several equal files."""
    hash: str
    """SHA-256 of the file's bytes."""
    score: float
    """What the method ranks by."""
    similarity: float
    """Absolute similarity: cosine of composed feature and image."""
    increment: float
    """Semantic editing increment: what the edit added to the similarity."""
    copies: tuple[str, ...] = ()
    """Other files with the same bytes."""


@dataclass(frozen=True, repr=False)
class Result:
    """The images found for one query, and the texts that led there."""

    reference: str
    """SHA-256 of the reference image's bytes."""
    relative_caption: str
    captions: tuple[str, ...]
    edited_captions: tuple[str | None, ...]
    """Aligned with ``captions`` (repeated where each is edited several times); None failed."""
    images: tuple[Retrieved, ...]
    """Best first."""
    settings: SearchConfig
    notes: tuple[str, ...]
    """What was missing, in words."""
    gallery: "Gallery" = field(repr=False, compare=False)
    content: bytes | None = field(default=None, repr=False, compare=False)
    """The reference image's file, where the result comes from a query with it."""

    def __repr__(self) -> str:
        best = f", the best {self.paths[0]!r}" if self.images else ""
        return f"<Result {self.relative_caption!r}: {len(self.images)} images{best}>"

    @property
    def paths(self) -> list[str]:
        """The images' paths below the gallery's folder, best first."""
        return [image.path for image in self.images]

    @property
    def increment(self) -> Increment | RankIncrement | None:
        """α⁺ and α⁻ in use: of similarity, or of places for the rank variant; None without one."""
        return self.gallery.increment

    def rerank(
        self,
        *,
        method: str | None = None,
        alpha_pos: float | None = None,
        alpha_neg: float | None = None,
        top_k: int | None = None,
        keep_reference: bool | None = None,
        captions: Sequence[str] | None = None,
        edited_captions: Sequence[str | None] | None = None,
    ) -> "Result":
        """Rank again with what is changed here; only CLIP is called, for texts that are new.

        Raises ConfigError for settings that cannot be used.
        """
        gallery = self.gallery.with_search(
            self.settings, method, alpha_pos, alpha_neg, top_k, keep_reference
        )
        ranked = gallery.rank(
            self.reference,
            self.relative_caption,
            self.captions if captions is None else captions,
            self.edited_captions if edited_captions is None else edited_captions,
        )
        return replace(ranked, content=self.content)

    def as_json(self) -> dict[str, Any]:
        """Return everything but the gallery as JSON-able data."""
        return {
            "gallery": str(self.gallery.folder.root),
            "reference": self.reference,
            "relative_caption": self.relative_caption,
            "method": self.settings.method,
            "captions": list(self.captions),
            "edited_captions": list(self.edited_captions),
            "notes": list(self.notes),
            "images": [asdict(image) for image in self.images],
        }


class _Images:
    """The index in memory: normalised features in the order of paths."""

    def __init__(self, source: Folder) -> None:
        self.stamp = stamp(source)
        stored = source.features()
        row = {name: i for i, name in enumerate(stored.names)}
        self.paths: dict[str, list[str]] = {}
        for path, content_hash in source.hashes().items():
            if content_hash in row:
                self.paths.setdefault(content_hash, []).append(path)
        self.hashes = list(self.paths)
        self.row = {name: i for i, name in enumerate(self.hashes)}
        features = torch.from_numpy(stored.all())
        places = [row[name] for name in self.hashes]
        if places != list(range(len(features))):
            features = features[places]
        self.gallery = UnitGallery(features)
        self._stored, self._places = stored, places

    def raw(self, row: int) -> Tensor:
        """Return an image's feature (d) as CLIP gives it, not normalised."""
        return torch.from_numpy(self._stored.take(np.array([self._places[row]])))[0].float()


def stamp(source: Folder) -> tuple[tuple[int, int], ...]:
    """Return what changes when another process updates the index."""
    files = (source.feature_file, source.listing.file)
    states = (file.stat() for file in files if file.exists())
    return tuple((state.st_mtime_ns, state.st_ino) for state in states)


class Gallery:
    """A folder of images that queries are asked about. Safe to use from several threads.

    ``command`` holds options of ``seize index`` that errors recommend it with. Raises InputError
    if there is no such folder.
    """

    def __init__(self, root: Path, config: Config, cache: Path, command: str = "") -> None:
        checks.query(root, config)
        check_method(config.search.method)
        methods.check(config, tuple(datasets.known()))
        self.config = config
        self.folder = folder.open_folder(root, config, cache, command)
        self._shared = _Shared(config, cache / QUERIES, self.folder.feature_file)

    def index(self) -> StageReport:
        """Bring the index up to date with the folder; see ``pipeline.own.folder.index``."""
        report = folder.index(self.folder)
        self._shared.images = None
        return report

    def __repr__(self) -> str:
        return f"<Gallery {str(self.folder.root)!r} by {self.config.search.method}>"

    def __len__(self) -> int:
        return len(self._images.hashes)

    @property
    def paths(self) -> dict[str, list[str]]:
        """The indexed files below the folder by content hash, in the order of paths."""
        return self._images.paths

    @property
    def _images(self) -> _Images:
        """The index as it is on disk, loaded again where another process changed it."""
        shared = self._shared
        with shared.images_lock:
            if shared.images is None or shared.images.stamp != stamp(self.folder):
                shared.images = _Images(self.folder)
            return shared.images

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
            check_method(method)
        changed = self.config.model_copy(update={"search": settings or self.config.search})
        other = object.__new__(Gallery)
        other.folder, other._shared = self.folder, self._shared
        changed = changed.with_search(
            method=method,
            top_k=top_k,
            exclude_reference=None if keep_reference is None else not keep_reference,
        )
        other.config = methods.with_increment(changed, OWN_IMAGES, alpha_pos, alpha_neg)
        return other

    @property
    def increment(self) -> Increment | RankIncrement | None:
        """α⁺ and α⁻ in use: of similarity, or of places for the rank variant; None without one."""
        kind = methods.increment_of(self.config.search.method)
        if kind is None:
            return None
        found = methods.section(self.config, kind, OWN_IMAGES)
        return cast("Increment | RankIncrement", found)

    @property
    def needs(self) -> set[str]:
        """The kinds of texts that the method in use ranks by."""
        return methods.reads(self.config.search.method)

    def preload(self) -> None:
        """Load the index and the models of this process now, not at the first query."""
        _ = self._images
        self._shared.preload()

    def query(self, image: Path | str | bytes | Image.Image, relative_caption: str) -> Result:
        """Return the images that look like ``image``, changed as ``relative_caption`` says.

        ``image`` is a file anywhere, the bytes of one, or a Pillow image (known by its pixels, so
        no file of the gallery is taken for it); where it is in the gallery it is not retrieved
        (unless ``search.exclude_reference`` is off). Raises InputError for an image or
        text that cannot be used, MissingStageError without an index, ModelError for a model.
        """
        if isinstance(image, str | Path):
            return self.search(read_image(Path(image)), relative_caption, str(image))
        if isinstance(image, Image.Image):
            image = lossless(image)
        if not isinstance(image, bytes):
            kind = type(image).__name__
            raise InputError(f"The image is a {kind}: give a path, bytes or a Pillow image.")
        return self.search(image, relative_caption)

    def search(
        self,
        content: bytes,
        relative_caption: str,
        name: str = "the image",
        tell: Callable[[str], Any] = lambda step: None,
        max_pixels: int | None = None,
        limited_by: str = "runtime.max_pixels",
    ) -> Result:
        """Do what ``query`` does, telling each step (``caption``, ``edit``, ``search``) as it
        begins; ``name`` is what errors call the image, ``limited_by`` what sets ``max_pixels``."""
        relative_caption = relative_caption.strip() if isinstance(relative_caption, str) else ""
        if not relative_caption:
            raise InputError("The relative caption is empty: say what should differ.")
        if len(relative_caption) > LONGEST_TEXT:
            raise InputError(
                f"The relative caption has {len(relative_caption):,} characters, more than the "
                f"{LONGEST_TEXT:,} allowed: say it in fewer words."
            )
        _ = self._images
        reference = hash_of(content)
        limit = self.config.runtime.max_pixels if max_pixels is None else max_pixels
        picture = functools.cache(
            lambda: open_image(Path(name), content, max_pixels=limit, limited_by=limited_by)
        )
        notes: list[str] = []
        captions: list[str] = []
        edits: list[str | None] = []
        if self.needs & {"captions", "edits"}:
            tell("caption")
            described = self._shared.caption(reference, picture)
            if isinstance(described, captioners.Failure):
                notes.append(f"The image has no captions ({described.reason}).")
            else:
                captions = described
        if "edits" in self.needs:
            tell("edit")
            edits = self._shared.edit(captions, relative_caption)
            if reason := self._shared.why_missing(captions, relative_caption):
                notes.append(f"Why edited captions are missing, most often: {reason}.")
        tell("search")
        if reference not in self._images.row:
            self._shared.embed_image(reference, picture)
        self._shared.embed_texts([relative_caption, *captions, *_good(edits)], keep=True)
        ranked = self.rank(reference, relative_caption, captions, edits, notes)
        return replace(ranked, content=content)

    def rank(
        self,
        reference: str,
        relative_caption: str,
        captions: Sequence[str],
        edited_captions: Sequence[str | None],
        notes: Sequence[str] = (),
    ) -> Result:
        """Rank the gallery by texts that are there; only CLIP is called, for texts that are new.

        ``reference`` is the hash of an image of the gallery or of an earlier query. Raises
        InputError where it is neither, or where edited captions do not match captions.
        """
        count = len(captions)
        if len(edited_captions) % max(count, 1) or (edited_captions and not count):
            raise InputError(
                f"{len(edited_captions)} edited captions do not match {count} captions: each "
                "caption has one, or each the same number."
            )
        edits = [text.strip() or None if text else None for text in edited_captions]
        notes = list(notes)
        if count and not _good(edits):
            notes.append("No caption could be edited; the relative caption alone is used.")
        elif None in edits:
            notes.append(f"{edits.count(None)} of {len(edits)} edited captions are missing.")
        if not count and self.needs & {"captions", "edits"}:
            notes.append(
                "There are no captions of the image: the relative caption stands for them. Ask "
                "again to have it described."
            )
        images, settings = self._images, self.config.search
        row = images.row.get(reference)
        made = {"captions": captions, "edits": edits, "relative_captions": [relative_caption]}
        clues = Clues(_OneQuery(self._shared, images, settings.normalise_texts, reference, made))
        score = methods.score(self.config, settings.method, OWN_IMAGES, clues)
        excluded = torch.tensor([[row if row is not None and settings.exclude_reference else -1]])
        best, rows = top_images(score, images.gallery, settings.top_k, excluded=excluded)
        kept = rows[0][torch.isfinite(best[0])]
        near = images.gallery.features[kept]
        if captions or edits:
            after = near @ clues.vectors("composed")[0]
            before = near @ clues.vectors("content")[0]
        else:  # nothing was edited: what the method itself compares with
            after = before = best[0][torch.isfinite(best[0])]
        return Result(
            reference,
            relative_caption,
            tuple(captions),
            tuple(edits),
            tuple(
                _retrieved(images, int(place), *values)
                for place, *values in zip(
                    kept.tolist(),
                    best[0].tolist(),
                    after.tolist(),
                    (after - before).tolist(),
                    strict=False,
                )
            ),
            settings,
            (*notes, *self.folder.notes),
            self,
        )

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


class _OneQuery:
    """One query as what clues are made from: texts that are there, and CLIP for those not embedded.

    See ``retrieval.clues.Source``.
    """

    count = 1

    def __init__(
        self,
        shared: "_Shared",
        images: _Images,
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


def check_method(name: str) -> None:
    """Raise ConfigError unless ``name`` is one method that can rank a folder of one's own."""
    methods.find(name)
    why = "edits with roles, which are made for benchmarks only."
    methods.selection(name, dict.fromkeys(prompts.ROLES, why))


def _good(edits: Sequence[str | None]) -> list[str]:
    return [text for text in edits if text is not None]


def _retrieved(
    images: _Images, row: int, score: float, similarity: float, increment: float
) -> Retrieved:
    content_hash = images.hashes[row]
    path, *copies = images.paths[content_hash]
    return Retrieved(path, content_hash, score, similarity, increment, tuple(copies))


class _Kept(Generic[Key, Value]):
    """Records of a file in memory too, read once; what other processes add shows at the next start.

    Every record is appended as it is made, so a kill loses at most the one being written.
    """

    def __init__(
        self, file: Path, header: dict[str, Any], load: Callable[[RecordFile], dict[Key, Value]]
    ) -> None:
        self.file, self.header = file, header
        self._load = load
        self._values: dict[Key, Value] | None = None
        self._lock = threading.Lock()

    @property
    def values(self) -> dict[Key, Value]:
        """What is known; what is damaged is dropped, to be made again."""
        with self._lock:
            if self._values is None:
                records = RecordFile(self.file, self.header)
                try:
                    self._values = self._load(records)
                except InputError:
                    with records:
                        self._values = self._load(records)
            return self._values

    def add(self, key: Key, value: Value, record: dict[str, Any]) -> None:
        """Keep a value under its key, and its record on disk."""
        known = self.values
        with self._lock, RecordFile(self.file, self.header) as records:
            known[key] = value
            records.append(record)


class _Shared:
    """What galleries that differ only in search settings share: models, answers and features."""

    def __init__(self, config: Config, cache: Path, index: Path) -> None:
        self.config, self._clip_told = embeddings.settle(config, index)
        self.images: _Images | None = None
        self.images_lock = threading.Lock()
        self._cache = cache
        self._features: OrderedDict[str, Vector] = OrderedDict()
        self._features_lock = threading.Lock()
        self._clip = embeddings.identity(config)
        self._locks = {model: threading.Lock() for model in ("captioner", "llm", "clip")}
        settings = caption.settings(config) | {"images": "by content"}
        records = RecordFile(cache / "caption" / _file(config.captioner.model, settings), settings)
        self._captioner = caption.settle(config, records)
        self._captions: _Kept[str, list[str]] = _Kept(records.file, records.header, _captions)
        self._why: dict[Pair, str] = {}
        settings = edit.settings(config)
        records = RecordFile(cache / "edit" / _file(config.llm.model, settings), settings)
        self._editing = edit.settle(config, records)
        self._edits: _Kept[Pair, str | None] = _Kept(records.file, records.header, edit.by_pair)

    @contextlib.contextmanager
    def _alone(self, model: str, served: bool) -> Iterator[None]:
        """Models in this process serve one thread at a time; a server takes as many as come."""
        if served:
            yield
        else:
            with self._locks[model]:
                yield

    def preload(self) -> None:
        """Load the models."""
        config = self.config
        with self._locks["clip"]:
            embed.load_clip(config)
        with self._locks["captioner"]:
            captioners.load(self._captioner, config.runtime)
        with self._locks["llm"]:
            llms.load(self._editing.llm, config.runtime)

    def caption(
        self, reference: str, picture: Callable[[], Image.Image]
    ) -> list[str] | captioners.Failure:
        """Return the captions of an image, made where they are not known."""
        config = self.config.captioner
        with self._alone("captioner", config.model.startswith(captioners.SERVED)):
            known = self._captions.values.get(reference)
            if known is not None:
                return known
            captioner = captioners.load(self._captioner, self.config.runtime)
            (made,) = captioner.caption([reference], [picture()])
            if not isinstance(made, captioners.Failure):
                self._captions.add(reference, made, {"image": reference, "captions": made})
            return made

    def edit(self, captions: Sequence[str], relative_caption: str) -> list[str | None]:
        """Return the captions' edits, made where they are not known; None where the LLM failed.

        A failure is not kept: the next query asks again, as a server may be back by then.
        """
        pairs = edit.make_pairs(captions, [relative_caption], self.config.llm.edits)
        with self._alone("llm", not self.config.llm.model.startswith(llms.IN_PROCESS)):
            known = self._edits.values
            # Files of earlier versions hold failures, too.
            todo = [pair for pair in dict.fromkeys(pairs) if known.get(pair) is None]
            for made in edit.ask(self._editing, todo) if todo else ():
                if made.text is not None:
                    self._edits.add(made.pair, made.text, made.record())
                elif made.reason:
                    self._why[made.pair] = made.reason
        return [known.get(pair) for pair in pairs]

    def why_missing(self, captions: Sequence[str], relative_caption: str) -> str | None:
        """Return the most common reason of the captions' edits that this process saw fail."""
        pairs = edit.make_pairs(captions, [relative_caption], self.config.llm.edits)
        missing = (pair for pair in pairs if self._edits.values.get(pair) is None)
        reasons = Counter(self._why[pair] for pair in missing if pair in self._why)
        return max(reasons, key=reasons.__getitem__, default=None)

    def image(self, reference: str) -> Tensor:
        """Return the feature (d) of a reference image that was embedded before; InputError."""
        name = f"image:{reference}"
        found = self._known([name])
        if name not in found:
            raise InputError("The reference image is not known here (any more). Query with it.")
        return torch.from_numpy(found[name])

    def knows(self, texts: Iterable[str]) -> bool:
        """Return whether the features of all texts are in memory."""
        with self._features_lock:
            return all(f"text:{text}" in self._features for text in texts)

    def embed_image(self, reference: str, picture: Callable[[], Image.Image]) -> None:
        """Embed a reference image."""

        def encode() -> Vector:
            model = embed.load_clip(self.config)
            made = model.encode_images(model.preprocess(picture())[None])
            return embeddings.finite(made, [reference], "image")

        self._embedded([f"image:{reference}"], lambda names: encode(), keep=True)

    def embed_texts(self, texts: Sequence[str], keep: bool = False) -> Tensor:
        """Return the features (texts, d); ``keep`` stores those of all of them together."""

        def encode(names: Sequence[str]) -> Vector:
            model = embed.load_clip(self.config)
            own = [name.removeprefix("text:") for name in names]
            size = self.config.runtime.embed_batch
            batches = [own[start : start + size] for start in range(0, len(own), size)]
            return np.concatenate(
                [embeddings.finite(model.encode_texts(batch), batch, "text") for batch in batches]
            )

        names = [f"text:{text}" for text in texts]
        found = self._embedded(list(dict.fromkeys(names)), encode, keep)
        return torch.from_numpy(np.stack([found[name] for name in names]))

    def _embedded(
        self, names: list[str], encode: Callable[[Sequence[str]], Vector], keep: bool
    ) -> dict[str, Vector]:
        """Return features by name: from memory, from disk, or computed; one thread at a time."""
        found = self._known(names)
        if len(found) == len(names):
            return found
        with self._locks["clip"]:
            found = self._known(names)
            todo = [name for name in names if name not in found]
            if todo:
                made = dict(zip(todo, encode(todo), strict=True))
                self._remember(made)
                found |= made
                if keep:
                    features = np.stack([found[name] for name in names])
                    header = self._clip | self._clip_told
                    write_features(self._file(names), names, features, header)
        return found

    def _known(self, names: list[str]) -> dict[str, Vector]:
        found = self._recall(names)
        file = self._file(names)
        if len(found) < len(names) and file.exists():
            try:
                stored = FeatureFile(file)
                found = dict(zip(stored.names, stored.all().astype(np.float32), strict=True))
            except InputError as error:
                log.warning("%s This run does so.", error)
            self._remember(found)
        return found

    def _recall(self, names: list[str]) -> dict[str, Vector]:
        with self._features_lock:
            found = {name: self._features[name] for name in names if name in self._features}
            for name in found:
                self._features.move_to_end(name)
            return found

    def _remember(self, made: dict[str, Vector]) -> None:
        with self._features_lock:
            self._features |= made
            while len(self._features) > REMEMBERED:
                self._features.popitem(last=False)

    def _file(self, names: list[str]) -> Path:
        """Where the features of exactly these texts, or of this image, are kept."""
        name = f"{slug(self.config.clip.model)}-{fingerprint(self._clip | {'names': names})}"
        return self._cache / "features" / f"{name}.safetensors"


def _file(model: str, settings: dict[str, Any]) -> str:
    return f"{slug(model)}-{fingerprint(settings)}.jsonl"


def _captions(records: RecordFile) -> dict[str, list[str]]:
    return {record["image"]: record["captions"] for record in typed(records, CaptionRecord)}
