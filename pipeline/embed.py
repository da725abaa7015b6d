"""The embed stage: CLIP features of every gallery image and of every distinct text."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline import caption, edit
from pipeline.cache import FeatureFile, Features, fingerprint, lock, model_identity, write_features
from pipeline.config import Config, resolve_device, resolve_precision
from pipeline.errors import InputError, MissingStageError
from pipeline.images import open_image
from pipeline.run import Run, StageReport, log, progress, slug, stage

if TYPE_CHECKING:
    from pipeline.clip import Preprocess

Encoded = tuple[list[str], Features]
"""Names (n) and their features (n, d)."""


def header(run: Run) -> dict[str, Any]:
    """Return everything about CLIP that changes a feature."""
    return identity(run.config)


def identity(config: Config) -> dict[str, Any]:
    """Return everything about the configuration's CLIP that changes a feature."""
    clip = config.clip
    device = resolve_device(config.runtime.device)
    return {
        **clip.model_dump(),
        "model": model_identity(clip.model.removeprefix("local-dir:")),
        "pretrained": clip.pretrained and model_identity(clip.pretrained),
        "precision": resolve_precision(clip.precision, device),
    }


def image_file(run: Run) -> Path:
    """Where the features of the gallery's images are; splits with one gallery share it."""
    content = header(run) | {"gallery": run.dataset.gallery_fingerprint}
    name = f"{slug(run.config.clip.model)}-{fingerprint(content)}.safetensors"
    return run.cache / run.dataset.gallery_name / "images" / name


def text_file(run: Run, texts: Sequence[str]) -> Path:
    """Where the features of exactly these texts are."""
    identity = fingerprint(header(run) | {"texts": list(texts)})
    return run.file("texts", run.config.clip.model, identity, ".safetensors")


def texts(run: Run) -> list[str]:
    """Return the distinct texts of the run: captions, edited captions and relative captions.

    Raises MissingStageError if captioning or editing is not complete.
    """
    return texts_of(run, caption.read(run), edit.read(run))


def texts_of(
    run: Run, captions: Mapping[str, list[str]], edits: Mapping[str, list[str | None]]
) -> list[str]:
    """Return the distinct texts of captions and edits that were read, as ``texts`` does."""
    relative = [text for query in run.queries for text in run.relative_captions(query)]
    described = [text for query in run.queries for text in captions.get(query.id, [])]
    edited = [text for query in run.queries for text in edits[query.id] if text is not None]
    return list(dict.fromkeys([*relative, *described, *edited]))


def embed(run: Run) -> list[StageReport]:
    """Embed the gallery's images, then all texts once captions and edits exist."""
    reports = [_embed_images(run)]
    try:
        wanted = texts(run)
    except MissingStageError as error:
        log.warning("The gallery is embedded, the texts not yet. %s Then embed again.", error)
        return reports
    return [*reports, _embed_texts(run, wanted)]


def _embed_images(run: Run) -> StageReport:
    file = image_file(run)
    images = run.dataset.images
    with stage("embed", run, [run.dataset.root], file) as report:
        encode = functools.partial(
            encode_images, run.config, functools.partial(_open, images), report=report
        )
        kind = header(run) | {"stage": "embed images", "gallery": run.dataset.gallery_fingerprint}
        shard = run.config.runtime.shard
        encode_missing(file, list(images), encode, kind, shard, report, "image")
    if not file.exists() and report.failed:
        raise InputError(
            f"None of {len(images)} images could be read. The first: "
            f"{next(iter(report.failed.values()))} Is --data-root right?"
        )
    return report


def _open(images: Mapping[str, Path], name: str) -> Image.Image:
    return open_image(images[name])


def encode_images(
    config: Config,
    open_one: Callable[[str], Image.Image],
    todo: Sequence[str],
    report: StageReport,
) -> Iterator[Encoded]:
    """Yield names and features of the images ``todo`` by the batch; broken ones go to ``report``.

    ``open_one`` returns an image by its name, in worker processes, or raises InputError; with
    ``runtime.strict`` that ends it.
    """
    from pipeline import clip  # open_clip is slow to import, and not needed where all is cached

    model = clip.load(config.clip, config.runtime)
    loader: DataLoader[Any] = DataLoader(
        _Images(open_one, list(todo), model.preprocess),  # type: ignore[arg-type]
        batch_size=config.runtime.embed_batch,
        num_workers=config.runtime.workers,
        collate_fn=list,
    )
    for batch in loader:
        good = {name: pixels for name, pixels, reason in batch if reason is None}
        if good:
            yield list(good), model.encode_images(torch.stack(list(good.values())))
        for name, _, reason in batch:
            if reason is not None:
                if config.runtime.strict:
                    raise InputError(reason)
                report.failed[name] = reason


def _embed_texts(run: Run, wanted: list[str]) -> StageReport:
    file = text_file(run, wanted)
    reads = [caption.record_file(run).file, edit.record_file(run).file]
    with stage("embed", run, reads, file) as report:

        def encode(todo: Sequence[str]) -> Iterator[Encoded]:
            from pipeline import clip

            model = clip.load(run.config.clip, run.config.runtime)
            size = run.config.runtime.embed_batch
            for start in range(0, len(todo), size):
                batch = list(todo[start : start + size])
                yield batch, model.encode_texts(batch)

        kind = header(run) | {"stage": "embed texts"}
        encode_missing(file, wanted, encode, kind, run.config.runtime.shard, report, "text")
    return report


def encode_missing(
    file: Path,
    names: list[str],
    encode: Callable[[Sequence[str]], Iterator[Encoded]],
    kind: dict[str, Any],
    size: int,
    report: StageReport,
    unit: str,
) -> None:
    """Bring ``file`` to hold the features of ``names`` and no others, in their order.

    What it lacks is encoded by way of shards of about ``size`` features, so that a stopped run
    resumes. Items that could not be read are left out, and tried again by the next run.
    """
    with lock(file):
        existing = FeatureFile(file) if file.exists() else None
        done = existing.names if existing else []
        shards = sorted(_shard_folder(file).glob("*.safetensors"))
        parts = [FeatureFile(shard) for shard in shards]
        for part in parts:
            done = done + part.names
        known = set(done)
        todo = [name for name in names if name not in known]
        report.cached = len(names) - len(todo)
        if todo:
            shard = _Shard(file, len(shards), kind, size)
            with progress(len(names), report.cached, unit, f"embed {unit}s") as bar, shard:
                for batch, features in encode(todo):
                    shard.add(batch, features)
                    report.computed += len(batch)
                    bar.update(len(batch))
        _merge(file, names, existing, kind)


def _shard_folder(file: Path) -> Path:
    return file.with_name(file.name + ".parts")


class _Shard:
    """Collects features and writes them by the shard; at the end, or at an error, the rest."""

    def __init__(self, file: Path, number: int, header: dict[str, Any], size: int) -> None:
        self.folder = _shard_folder(file)
        self.number = number
        self.header = header
        self.size = size
        self.names: list[str] = []
        self.features: list[Features] = []

    def add(self, names: list[str], features: Features) -> None:
        self.names += names
        self.features.append(features)
        if len(self.names) >= self.size:
            self.write()

    def write(self) -> None:
        if self.names:
            shard = self.folder / f"{self.number:05d}.safetensors"
            write_features(shard, self.names, np.concatenate(self.features), self.header)
            self.number += 1
            self.names, self.features = [], []

    def __enter__(self) -> "_Shard":
        return self

    def __exit__(self, *exception: object) -> None:
        self.write()


def _merge(
    file: Path, names: list[str], existing: FeatureFile | None, kind: dict[str, Any]
) -> None:
    """Merge the shards and what ``file`` held into one file in the order of ``names``."""
    folder = _shard_folder(file)
    shards = sorted(folder.glob("*.safetensors"))
    if shards or (existing and not set(existing.names) <= set(names)):
        parts = ([existing] if existing else []) + [FeatureFile(shard) for shard in shards]
        rows = {name: (part, row) for part in parts for row, name in enumerate(part.names)}
        kept = [name for name in names if name in rows]
        loaded = {id(part): part.all() for part in parts}
        width = parts[0].shape[1]
        features = np.empty((len(kept), width), dtype=np.float32)
        for i, name in enumerate(kept):
            part, row = rows[name]
            features[i] = loaded[id(part)][row]
        write_features(file, kept, features, kind)
    for shard in shards:
        shard.unlink()
    if folder.exists():
        folder.rmdir()


class _Images:
    """Opens and preprocesses images in worker processes; a broken one yields its reason."""

    def __init__(
        self, open_one: Callable[[str], Image.Image], names: list[str], preprocess: "Preprocess"
    ) -> None:
        self.open_one = open_one
        self.names = names
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[str, Tensor | None, str | None]:
        try:
            return self.names[index], self.preprocess(self.open_one(self.names[index])), None
        except InputError as error:
            return self.names[index], None, str(error)
