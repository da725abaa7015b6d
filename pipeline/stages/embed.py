"""The embed stage: CLIP features of every gallery image and of every distinct text."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.config import Config
from pipeline.errors import InputError, MissingStageError, ModelError
from pipeline.images.files import read_image
from pipeline.models.encoders.decode import Read, decode
from pipeline.models.identity import begun_features, model_identity
from pipeline.models.identity import settle as settle_model
from pipeline.models.loading import LOADING
from pipeline.processes import current
from pipeline.run import Run, StageReport, log, progress, slug, stage
from pipeline.stages import caption, edit, texts
from pipeline.store.features import Features
from pipeline.store.files import lock
from pipeline.store.identity import fingerprint
from pipeline.store.shards import Encoded, Shard, Stored, folder_of, merge

if TYPE_CHECKING:
    from pipeline.models.encoders.open_clip import Clip


TEXTS = "texts"
"""The folder of the cache that holds the features of texts, one file an encoder."""


def header(run: Run) -> dict[str, Any]:
    """Return everything about CLIP that changes a feature."""
    return identity(run.config)


def identity(config: Config) -> dict[str, Any]:
    """Return everything about the configuration's CLIP that changes a feature."""
    clip = config.clip
    scheme, _, folder = clip.model.partition(":")
    return {
        **clip.model_dump(),
        "model": model_identity(folder) if scheme == "local-dir" else clip.model,
        "pretrained": clip.pretrained and model_identity(clip.pretrained),
    }


def settle(config: Config, *files: Path) -> tuple[Config, dict[str, Any]]:
    """Return ``config`` with the precision to go on with ``files`` in, and what headers say of it.

    The first of them that is there tells.
    """
    parts = ([file, *sorted(folder_of(file).glob("*.safetensors"))] for file in files)
    begun = begun_features(list(itertools.chain.from_iterable(parts)))
    clip, told = settle_model(config.clip, config.runtime, begun)
    return config.model_copy(update={"clip": clip}), told


def image_file(run: Run) -> Path:
    """Where the features of the gallery's images are; splits with one gallery share it."""
    content = header(run) | {"gallery": run.dataset.gallery_fingerprint}
    name = f"{slug(run.config.clip.model)}-{fingerprint(content)}.safetensors"
    return run.cache / run.dataset.gallery_name / "images" / name


def text_file(run: Run) -> Path:
    """Where the features of all texts are that this encoder has embedded, whatever the dataset."""
    content = header(run) | {"stage": "embed texts"}
    name = f"{slug(run.config.clip.model)}-{fingerprint(content)}.safetensors"
    return run.cache / TEXTS / name


def embed(run: Run) -> list[StageReport]:
    """Embed the gallery's images, then the texts that the run's methods need, once they exist."""
    reports = [_embed_images(run)]
    try:
        wanted = texts.embedded(run)
    except MissingStageError as error:
        if current().main:
            log.warning("The gallery is embedded, the texts not yet. %s Then embed again.", error)
        return reports
    return [*reports, _embed_texts(run, wanted)] if wanted else reports


def _embed_images(run: Run) -> StageReport:
    file = image_file(run)
    with stage("embed", run, [run.dataset.root], file, "images") as report:
        config, told = settle(run.config, file)
        kind = header(run) | {"stage": "embed images", "gallery": run.dataset.gallery_fingerprint}
        kind |= told
        images = run.dataset.images
        read = functools.partial(_read, images)
        encode = functools.partial(encode_images, config, read, report=report)
        size = run.config.runtime.shard
        encode_missing(file, list(images), encode, kind, size, report, "image")
    if not file.exists() and report.failed:
        raise InputError(
            f"None of {len(images)} images could be read. The first: "
            f"{next(iter(report.failed.values()))} Is --data-root right?"
        )
    return report


def _read(images: Mapping[str, Path], name: str) -> tuple[Path, bytes]:
    return images[name], read_image(images[name])


def load_clip(config: Config) -> "Clip":
    """Load the CLIP model of ``config``, once a process; raises ModelError."""
    with LOADING:
        from pipeline.models.encoders import (
            open_clip as clip,  # open_clip is slow to import, and not needed with all cached
        )

        return clip.load(config.clip, config.runtime)


def encode_images(
    config: Config,
    read: Read,
    todo: Sequence[str],
    digests: dict[str, str],
    report: StageReport,
) -> Iterator[Encoded]:
    """Yield features by the batch; processes decode the next one while the model works.

    ``digests`` maps the bytes of images that were embedded to their names; copies share a feature.
    Broken images go to the report, or raise InputError where the configuration is strict.
    """
    with report.step("load the model"):
        model = load_clip(config)
    size = config.runtime.embed_batch
    pixels: list[Tensor] = []
    batch = Encoded()
    apart = model.device == "cpu" and config.runtime.workers != 0
    decoded = decode(todo, read, model, config.runtime)
    while True:
        with report.step("wait for decoding"):
            chunk = next(decoded, None)
        if chunk is None:
            break
        report.failed |= chunk.broken
        kept = []
        for row, (name, digest) in enumerate(zip(chunk.names, chunk.digests, strict=True)):
            if (original := digests.setdefault(digest, name)) == name:
                batch.names.append(name)
                batch.digests.append(digest)
                kept.append(row)
            else:
                batch.copies[name] = original
        if kept:
            pixels.append(chunk.pixels.to(model.device, non_blocking=True)[kept])
        broken = next(iter(chunk.broken.values()), None) if config.runtime.strict else None
        if len(batch.names) >= size or broken:
            yield _encode(model, batch, pixels, report, apart)
            batch, pixels = Encoded(), []
        if broken:
            raise InputError(broken)
    yield _encode(model, batch, pixels, report, apart)


def _encode(
    model: "Clip", batch: Encoded, pixels: list[Tensor], report: StageReport, apart: bool
) -> Encoded:
    """Encode a batch; ``apart`` says that other processes decode on the model's own cores."""
    if batch.names:
        waited, spent = (report.steps.get(step, 0.0) for step in ("wait for decoding", "model"))
        starved = apart and 0 < spent < waited
        with report.step("model"), _threads(1 if starved else torch.get_num_threads()):
            batch.features = finite(model.encode_images(torch.cat(pixels)), batch.names, "image")
    return batch


def finite(features: Features, names: Sequence[str], what: str) -> Features:
    """Return ``features`` (len(names), d); raises ModelError naming the first that is not finite.

    A model that overflows in half precision makes such features; they would spoil every ranking.
    """
    good = np.isfinite(features).all(axis=1)
    if not good.all():
        raise ModelError(
            f"CLIP makes a feature that is NaN or infinite of the {what} "
            f"{names[int(good.argmin())]!r}. If it does so in float16, try --set "
            "clip.precision=float32; else its weights are damaged."
        )
    return features


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads.

    A model on the processor that waits for images anyway needs but one: more would wait for each
    other, spinning, on the cores that decode.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _embed_texts(run: Run, wanted: list[str]) -> StageReport:
    file = text_file(run)
    files = {"caption": caption.record_file, "edit": edit.record_file}
    reads = [files[name](run).file for name in files if name in texts.stages(run)]
    config, told = settle(run.config, file, image_file(run))
    with stage("embed", run, reads, file, "texts") as report:

        def encode(todo: Sequence[str], _: dict[str, str]) -> Iterator[Encoded]:
            with report.step("load the model"):
                model = load_clip(config)
            size = run.config.runtime.embed_batch
            for start in range(0, len(todo), size):
                batch = list(todo[start : start + size])
                with report.step("model"):
                    features = finite(model.encode_texts(batch), batch, "text")
                yield Encoded(batch, features)

        kind = header(run) | {"stage": "embed texts"} | told
        size = run.config.runtime.shard
        encode_missing(file, wanted, encode, kind, size, report, "text", grows=True)
    return report


def encode_missing(
    file: Path,
    names: list[str],
    encode: Callable[[Sequence[str], dict[str, str]], Iterator[Encoded]],
    kind: dict[str, Any],
    size: int,
    report: StageReport,
    unit: str,
    grows: bool = False,
) -> None:
    """Bring ``file`` to hold the features of ``names`` and no others, in their order.

    One that ``grows`` keeps what it has, and gets the rest behind it.

    What it lacks is encoded by way of shards of about ``size`` features, so that a stopped run
    resumes. Processes launched together encode a share each; the main one merges the shards. Items
    that could not be read are left out, and tried again by the next run.
    """
    processes = current()
    own = file if processes.main else file.with_name(f"{file.name}.process-{processes.index}")
    with lock(own):
        stored = Stored(file)
        share = processes.share(names)
        todo = [name for name in share if name not in stored.places]
        report.cached = len(share) - len(todo)
        if todo:
            shard = Shard(file, processes.index, kind, size)
            with progress(len(share), report.cached, unit, f"embed {unit}s") as bar, shard:
                for batch in encode(todo, stored.digests):
                    shard.add(batch)
                    report.computed += len(batch.names)
                    report.copies += len(batch.copies)
                    bar.update(len(batch.names) + len(batch.copies))
        processes.wait()
        if processes.main:
            with report.step("merge"):
                alone = processes.count == 1 and not todo
                before = stored if alone else Stored(file)
                kept = list(dict.fromkeys([*before.places, *names])) if grows else names
                merge(file, kept, kind, before)
    report.collect(processes)
