"""A folder of one's own images as a gallery: which files it holds, and their CLIP features.

Files are known by the hash of their content: a renamed file or a copy costs nothing, and whatever
the index says of an image is true of its bytes.
"""

import contextlib
import functools
import hashlib
import io
import math
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import InputError, MissingStageError, StorageError
from pipeline.images import files as images
from pipeline.images.files import image_stream
from pipeline.installation import WORLD
from pipeline.models.embedding import encode_images, encode_missing
from pipeline.own import metadata, settled
from pipeline.own.listing import by_path, state_of, update_listing, without_file
from pipeline.own.settings import cache_name
from pipeline.run import StageReport, counted, log, slug, stage
from pipeline.stages import embeddings
from pipeline.store.columns import Rows
from pipeline.store.compaction import publish
from pipeline.store.files import FULL, lock
from pipeline.store.identity import fingerprint
from pipeline.store.jsonl import RecordFile
from pipeline.store.schema import FileRecord
from pipeline.store.segments import SegmentedFeatures
from pipeline.store.shards import Stored

AGAIN = 30.0
"""Seconds after which `--watch` tries again what failed for the cache."""
LOOK = 200
"""Milliseconds without a change after which `--watch` looks whether it is time for that."""


FIRST_ROUND = 256
"""Images after which a folder that is indexed in rounds can be searched first."""


State = tuple[int, ...]
"""What changes with a file's bytes."""
Begun = Callable[[StageReport, int], None]
"""Is told the report of what begins, and how many distinct images there are."""


@dataclass(frozen=True)
class Folder:
    """A folder tree under one configuration's CLIP; ``root`` is absolute, its links resolved."""

    root: Path
    config: Config
    cache: Path
    command: str = ""
    """The user's options of ``seize index``, to recommend it with."""
    told: str | None = None
    """What every result says of the settings in use."""

    @property
    def name(self) -> str:
        """What the cache calls it: the folder's name and a hash of its absolute path."""
        return cache_name(self.root)

    @property
    def notes(self) -> list[str]:
        """What is to be known about the models in use; nothing in the world of the demo's."""
        inside = any((place / WORLD).exists() for place in (self.root, *self.root.parents))
        own = [] if inside or not self.config.note else [self.config.note]
        return [*own, *([self.told] if self.told else [])]

    @property
    def advice(self) -> str:
        """What to do where the index is not what is needed, for errors."""
        return f"Run: seize index {shlex.quote(str(self.root))} {self.command}".rstrip()

    @property
    def listing(self) -> RecordFile:
        """The file of ``FileRecord``s; a later record of a path counts."""
        header = {"stage": "index", "folder": str(self.root)}
        return RecordFile(self.cache / self.name / "files.jsonl", header)

    @functools.cached_property  # it reads the model's files
    def feature_file(self) -> Path:
        """Where the features are, each named by its image's hash."""
        name = f"{slug(self.config.encoder.model)}-{fingerprint(embeddings.of_images(self.config))}"
        return self.cache / self.name / "images" / f"{name}.safetensors"

    def hashes(self) -> dict[str, str]:
        """Return each indexed image's hash by its path below the root, in the order of paths."""
        records = self.records()
        return dict(zip(records, records.column("hash"), strict=True))

    def records(self) -> Rows[FileRecord]:
        """Return what is listed of each file by its path below the root, in the order of paths."""
        return by_path(self.listing).in_order()

    def features(self) -> SegmentedFeatures:
        """Return the features on disk, with those of images that are gone until they are dropped.

        Raises MissingStageError where there are none, InputError where they are damaged.
        """
        if not self.feature_file.exists():
            raise MissingStageError(
                f"{self.root} has no index for CLIP {self.config.encoder.model} "
                f"({self.feature_file} does not exist). {self.advice}"
            )
        return SegmentedFeatures(self.feature_file)

    def file(self, path: str) -> Path:
        """Return the file of ``path`` below the root; raises InputError if it leads elsewhere."""
        file = (self.root / path).resolve()
        if not file.is_relative_to(self.root):
            raise InputError(f"{self.root / path} leads out of the folder.")
        return file

    def state(self, path: str) -> State:
        """Return what changes with the file of ``path``; raises InputError where it is gone."""
        try:
            status = self.file(path).stat()
        except OSError as error:
            raise InputError(f"{self.root / path} cannot be read: {error.strerror}.") from None
        return state_of(status)

    def open(self, path: str, flags: int) -> int:
        """Open the file of ``path`` below the root and return its handle.

        No folder on the way may be a link, or become one meanwhile, so that nothing outside is
        opened: each part is opened by its parent's handle. Raises OSError, or InputError as
        ``file`` does.
        """
        *folders, name = self.file(path).relative_to(self.root).parts
        with contextlib.ExitStack() as stack:
            handle: int | None = None
            for part in (str(self.root), *folders):
                own = os.O_RDONLY | os.O_DIRECTORY | (0 if handle is None else os.O_NOFOLLOW)
                handle = os.open(part, own, dir_fd=handle)
                stack.callback(os.close, handle)
            return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)

    def stream(self, path: str) -> AbstractContextManager[io.BufferedReader]:
        """Open the file of ``path`` to read its bytes; raises InputError as ``image_stream``."""
        return image_stream(self.root / path, lambda _, flags: self.open(path, flags))

    def read(self, path: str, content_hash: str) -> bytes:
        """Return the bytes of an indexed image; raises InputError if they are no longer those."""
        try:
            with self.stream(path) as stream:
                content = stream.read(os.fstat(stream.fileno()).st_size)
        except InputError as error:
            raise InputError(f"{error} {self.advice}") from None
        if hash_of(content) != content_hash:
            raise InputError(f"{self.root / path} has changed since it was indexed. {self.advice}")
        return content


def open_folder(
    root: Path, config: Config, cache: Path, command: str = "", told: str | None = None
) -> Folder:
    """Return the folder at ``root``; raises InputError if there is none."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder.")
    return Folder(root.resolve(), config, cache, command, told)


def hash_of(content: bytes) -> str:
    """Return the name of an image of these bytes: SHA-256 in 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def index(folder: Folder) -> StageReport:
    """Bring the index up to date with the folder: embed new and changed images, drop removed ones.

    Stopped at any moment it loses at most the batch in flight. Images that could not be decoded are
    not tried again before they change. Raises InputError if the folder holds no image that can be
    read.
    """
    return _index(folder, None, lambda report, count: None)[0]


def index_in_rounds(folder: Folder, begun: Begun) -> Iterator[StageReport]:
    """Do what ``index`` does, a part at a time, each twice as large as the one before.

    So the first images can be searched soon. ``begun`` is called with each round's report as it
    begins, whose counts grow, and with how many distinct images the folder holds.
    """
    most = FIRST_ROUND
    while True:
        report, left = _index(folder, most, begun)
        yield report
        if not left:
            return
        most *= 2


def _index(folder: Folder, most: int | None, begun: Begun) -> tuple[StageReport, int]:
    """Index at most ``most`` images that are not yet; return how many are left, too."""
    # What is listed is embedded under the same lock: two that list and then embed one after the
    # other would each drop what only the other one has seen.
    file = folder.feature_file
    with (
        lock(file.with_name(f"{file.name}.index")),
        stage("index", folder, [folder.root], file) as report,
    ):
        if not file.exists():  # once: a page or --watch indexes again and again
            for note in folder.notes:
                log.warning("%s", note)
        listing, beside = update_listing(folder, report)
        if not listing:
            raise InputError(_nothing(folder, report))
        if _has_heic(report):
            log.info("%s", images.HEIC_HINT)
        hashes = dict(zip(listing, listing.column("hash"), strict=True))
        decoder = images.decoder(folder.config.runtime.max_pixels)
        known = _known_as_broken(listing, decoder)
        broken = StageReport("index", folder.name, [], "")
        count, left = len(set(hashes.values())), 0
        is_settled = settled.is_so(folder, decoder, beside)
        first = {} if is_settled else _first_paths(hashes)
        try:
            if is_settled:
                begun(report, count)
                report.cached = count - len(known)
            else:
                todo = {name: path for name, path in first.items() if name not in known}
                todo, left = _first(file, todo, most)
                begun(report, count)
                _embed(folder, todo, report, broken)
        finally:
            found = {
                name: without_file(folder, first[name], reason)
                for name, reason in broken.failed.items()
            }
            reasons = found | known
            places = {path: name for path, name in hashes.items() if name in reasons}
            failed = {path: reasons[name] for path, name in places.items()}
            report.failed |= failed
            report.known = [path for path, name in places.items() if name in known]
        lasting = {name for name, why in broken.failed.items() if isinstance(why, images.Broken)}
        again = [listing[path] for path, name in places.items() if name in lasting]
        _remember(folder, again, found, decoder)
        if not left and not is_settled:
            metadata.update(folder, listing, beside)
            if len(lasting) == len(found):
                settled.keep(folder, decoder, beside)
    if not file.exists():
        one = ": ".join(next(iter(failed.items())))
        raise InputError(f"None of {len(listing)} images could be read. The first: {one}")
    return report, left


def _first_paths(hashes: dict[str, str]) -> dict[str, str]:
    """Return the first path of each hash, in their order."""
    first = dict.fromkeys(hashes.values(), "")
    first.update(zip(reversed(hashes.values()), reversed(hashes), strict=True))
    return first


def _known_as_broken(listing: Rows[FileRecord], decoder: str) -> dict[str, str]:
    """Return why ``decoder`` could not decode which contents, by their hash."""
    tried = [listing[path] for path in listing.having("decoder")]
    return {one["hash"]: one["broken"] for one in tried if one["decoder"] == decoder}


def _first(file: Path, paths: dict[str, str], most: int | None) -> tuple[dict[str, str], int]:
    """Return what is in ``file`` already with ``most`` others, and how many more there are."""
    if most is None:
        return paths, 0
    stored = Stored(file).places
    missing = [name for name in paths if name not in stored]
    later = set(missing[most:])
    return {name: path for name, path in paths.items() if name not in later}, len(later)


def _embed(folder: Folder, paths: dict[str, str], report: StageReport, broken: StageReport) -> None:
    """Embed the images at ``paths`` by hash, those that are not yet, and drop all others."""
    config, told = embeddings.settle(folder.config, folder.feature_file)
    kind = (
        embeddings.of_images(folder.config) | {"stage": "index", "folder": str(folder.root)} | told
    )
    size = folder.config.runtime.embed_batch  # a shard a batch, so that a kill loses no more
    read = functools.partial(_content, folder, paths)
    encode = functools.partial(encode_images, config, read, report=broken)
    file = folder.feature_file
    encode_missing(file, list(paths), encode, kind, size, report, "image", finish=publish)


def _content(folder: Folder, paths: dict[str, str], content_hash: str) -> tuple[Path, bytes]:
    path = paths[content_hash]
    return folder.root / path, folder.read(path, content_hash)


def _remember(
    folder: Folder, records: list[FileRecord], reasons: dict[str, str], decoder: str
) -> None:
    """Note in the listing which files cannot be decoded."""
    if records:
        with folder.listing as listing:
            for record in records:
                why = {"broken": reasons[record["hash"]], "decoder": decoder}
                listing.append(dict(record) | why)


def _has_heic(report: StageReport) -> bool:
    """Whether HEIC files were skipped, for want of a package."""
    return not report.skipped.keys().isdisjoint(images.HEIC_ENDINGS)


def _nothing(folder: Folder, report: StageReport) -> str:
    found = f" Skipped: {counted(report.skipped)}." if report.skipped else ""
    found += f" {images.HEIC_HINT}" if _has_heic(report) else ""
    return (
        f"There is no image below {folder.root}.{found} Known endings: "
        f"{', '.join(sorted(images.endings()))}; hidden files and folders are left out."
    )


def watch(folder: Folder, updated: Callable[[StageReport], Any]) -> None:
    """Index the folder, then again after every change below it, until Ctrl-C.

    A change that leaves nothing to index is reported and waited out, as is a cache that cannot be
    written, for instance on a full disk.
    """
    import watchfiles

    cache = folder.cache.resolve()

    def matters(change: watchfiles.Change, path: str) -> bool:
        changed = Path(path)
        inside = changed.parts[len(folder.root.parts) :]
        return not changed.is_relative_to(cache) and not any(p.startswith(".") for p in inside)

    watched = watchfiles.watch(
        folder.root,
        watch_filter=matters,
        raise_interrupt=True,
        rust_timeout=LOOK,
        yield_on_timeout=True,
    )
    next(watched)  # from here on: what changes while the folder is indexed is not missed
    updated(index(folder))
    log.info("Watches %s; Ctrl-C ends it.", folder.root)
    due = math.inf
    for changes in watched:
        if changes or time.monotonic() >= due:
            due = math.inf if _try(folder, updated) else time.monotonic() + AGAIN


def _try(folder: Folder, updated: Callable[[StageReport], Any]) -> bool:
    """Index the folder; return False where it should be tried again without a change."""
    try:
        updated(index(folder))
    except InputError as error:
        log.warning("%s", error)
    except StorageError as error:
        log.warning("%s It is tried again.", error)
        return False
    except OSError as error:
        if error.errno not in FULL:
            raise
        log.warning("%s; it is tried again.", error)
        return False
    return True
