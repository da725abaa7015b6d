"""The embed stage: CLIP features of every gallery image and of every distinct text."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline import caption, clip, edit
from pipeline.cache import FeatureFile, Features, fingerprint, lock, model_identity, write_features
from pipeline.clip import Preprocess
from pipeline.config import resolve_device, resolve_precision
from pipeline.errors import InputError, MissingStageError
from pipeline.images import open_image
from pipeline.run import Run, StageReport, log, progress, slug, stage

Encoded = tuple[list[str], Features]
"""Names (n) and their features (n, d)."""


def header(run: Run) -> dict[str, Any]:
    """Return everything about CLIP that changes a feature."""
    config = run.config.clip
    device = resolve_device(run.config.runtime.device)
    return {
        **config.model_dump(),
        "model": model_identity(config.model.removeprefix("local-dir:")),
        "pretrained": config.pretrained and model_identity(config.pretrained),
        "precision": resolve_precision(config.precision, device),
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


@dataclass(frozen=True)
class Texts:
    """The texts of a run, by query, as the stages before made them."""

    relative: dict[str, tuple[str, ...]]
    captions: dict[str, list[str]]
    edits: dict[str, list[str | None]]
    """None where the LLM failed."""
    roles: dict[str, dict[str, list[str]]]

    @classmethod
    def read(cls, run: Run) -> "Texts":
        """Read them; raises MissingStageError if captioning or editing is not complete."""
        relative = {query.id: run.relative_captions(query) for query in run.queries}
        return cls(relative, caption.read(run), edit.read(run), edit.read_roles(run))

    @property
    def distinct(self) -> list[str]:
        """Every text once, kind by kind in query order."""
        described = (self.captions.get(query, []) for query in self.relative)
        edited = ([t for t in self.edits[query] if t is not None] for query in self.relative)
        roles = (said for query in self.relative for said in self.roles[query].values())
        groups = itertools.chain(self.relative.values(), described, edited, roles)
        return list(dict.fromkeys(itertools.chain.from_iterable(groups)))


def embed(run: Run) -> list[StageReport]:
    """Embed the gallery's images, then all texts once captions and edits exist."""
    reports = [_embed_images(run)]
    try:
        wanted = Texts.read(run).distinct
    except MissingStageError as error:
        log.warning("The gallery is embedded, the texts not yet. %s Then embed again.", error)
        return reports
    return [*reports, _embed_texts(run, wanted)]


def _embed_images(run: Run) -> StageReport:
    file = image_file(run)
    with stage("embed", run, [run.dataset.root], file) as report:

        def encode(todo: Sequence[str]) -> Iterator[Encoded]:
            model = clip.load(run.config.clip, run.config.runtime)
            files = _ImageFiles(run, list(todo), model.preprocess)
            loader: DataLoader[Any] = DataLoader(
                files,  # type: ignore[arg-type]
                batch_size=run.config.runtime.embed_batch,
                num_workers=run.config.runtime.workers,
                collate_fn=list,
            )
            for batch in loader:
                good = {name: pixels for name, pixels, reason in batch if reason is None}
                if good:
                    yield list(good), model.encode_images(torch.stack(list(good.values())))
                for name, _, reason in batch:
                    if reason is not None:
                        if run.config.runtime.strict:
                            raise InputError(reason)
                        report.failed[name] = reason

        kind = header(run) | {"stage": "embed images", "gallery": run.dataset.gallery_fingerprint}
        _encode_missing(run, file, list(run.dataset.images), encode, kind, report, "image")
    return report


def _embed_texts(run: Run, wanted: list[str]) -> StageReport:
    file = text_file(run, wanted)
    reads = [caption.record_file(run).file, edit.record_file(run).file]
    with stage("embed", run, reads, file) as report:

        def encode(todo: Sequence[str]) -> Iterator[Encoded]:
            model = clip.load(run.config.clip, run.config.runtime)
            size = run.config.runtime.embed_batch
            for start in range(0, len(todo), size):
                batch = list(todo[start : start + size])
                yield batch, model.encode_texts(batch)

        kind = header(run) | {"stage": "embed texts"}
        _encode_missing(run, file, wanted, encode, kind, report, "text")
    return report


def _encode_missing(
    run: Run,
    file: Path,
    names: list[str],
    encode: Callable[[Sequence[str]], Iterator[Encoded]],
    kind: dict[str, Any],
    report: StageReport,
    unit: str,
) -> None:
    """Encode ``names`` into ``file`` by way of shards, so that a stopped run resumes.

    Items that could not be read are left out, and tried again by the next run.
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
        report.cached = len(known)
        if todo:
            shard = _Shard(file, len(shards), kind, run.config.runtime.shard)
            with progress(len(names), report.cached, unit, f"embed {unit}s") as bar, shard:
                for batch, features in encode(todo):
                    shard.add(batch, features)
                    report.computed += len(batch)
                    bar.update(len(batch))
        _merge(file, names, existing, kind)
    if not file.exists() and report.failed:
        raise InputError(
            f"None of {len(names)} {unit}s could be read. The first: "
            f"{next(iter(report.failed.values()))} Is --data-root right?"
        )


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
    if shards:
        parts = ([existing] if existing else []) + [FeatureFile(shard) for shard in shards]
        rows = {name: (part, row) for part in parts for row, name in enumerate(part.names)}
        kept = [name for name in names if name in rows]
        loaded = {id(part): part.all() for part in parts}
        features = np.stack([loaded[id(rows[name][0])][rows[name][1]] for name in kept])
        write_features(file, kept, features, kind)
    for shard in shards:
        shard.unlink()
    if folder.exists():
        folder.rmdir()


class _ImageFiles:
    """Opens and preprocesses images in worker processes; a broken one yields its reason."""

    def __init__(self, run: Run, names: list[str], preprocess: Preprocess) -> None:
        self.files = [run.dataset.images[name] for name in names]
        self.names = names
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[str, Tensor | None, str | None]:
        try:
            return self.names[index], self.preprocess(open_image(self.files[index])), None
        except InputError as error:
            return self.names[index], None, str(error)
