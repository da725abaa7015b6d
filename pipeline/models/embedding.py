"""Features of many images or texts: encoded by the batch, kept in shards, shared by processes."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import Config, RuntimeConfig
from pipeline.errors import InputError, ModelError
from pipeline.models import encoders
from pipeline.models.encoders import Encoder
from pipeline.models.encoders.base import Streaming
from pipeline.processes import current
from pipeline.run import StageReport, progress
from pipeline.store.features import Features
from pipeline.store.files import lock
from pipeline.store.shards import Encoded, Shard, Stored, merge

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.decode import Decoded, Read


def encode_images(
    config: Config,
    read: "Read",
    todo: Sequence[str],
    digests: dict[str, str],
    report: StageReport,
) -> Iterator[Encoded]:
    """Yield features by the batch; processes decode the next one while the model works.

    ``digests`` maps the bytes of images that were embedded to their names; copies share a feature.
    Broken images go to the report, or raise InputError where the configuration is strict.
    """
    from pipeline.models.decode import decode

    with report.step("load the model"):
        model = encoders.load(config.encoder, config.runtime)
    size = config.runtime.embed_batch
    if isinstance(model, Streaming):
        decoded = decode(todo, read, model, config.runtime)
        yield from _streamed(model, decoded, digests, report, config.runtime)
        return
    prepared: list[Any] = []
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
            prepared.append(_chosen(chunk.prepared, kept, model.device))
        broken = next(iter(chunk.broken.values()), None) if config.runtime.strict else None
        if len(batch.names) >= size or broken:
            yield _encode(model, batch, prepared, report, apart)
            batch, prepared = Encoded(), []
        if broken:
            raise InputError(broken)
    yield _encode(model, batch, prepared, report, apart)


def _streamed(
    model: Streaming,
    decoded: "Iterator[Decoded]",
    digests: dict[str, str],
    report: StageReport,
    runtime: RuntimeConfig,
) -> Iterator[Encoded]:
    """Yield features as they come, images being sent on as they are decoded."""
    sent: dict[int, tuple[str, str]] = {}
    copies: dict[str, str] = {}
    broken: list[str] = []
    count = itertools.count()

    def pictures() -> Iterator[Any]:
        for chunk in decoded:
            report.failed |= chunk.broken
            for name, digest, one in zip(chunk.names, chunk.digests, chunk.prepared, strict=True):
                if (original := digests.setdefault(digest, name)) == name:
                    sent[next(count)] = name, digest
                    yield one
                else:
                    copies[name] = original
            if runtime.strict and chunk.broken:
                broken.extend(chunk.broken.values())
                return

    rows: list[Features] = []
    batch = Encoded()
    arriving = model.stream(pictures())
    while True:
        with report.step("model"):
            place, made = next(arriving, (None, ""))
        if place is None:
            break
        name, digest = sent.pop(place)
        if isinstance(made, str):
            report.failed[name] = made
            del digests[digest]
            continue
        batch.names.append(name)
        batch.digests.append(digest)
        rows.append(made)
        if len(rows) >= runtime.embed_batch:
            yield _collected(batch, rows)
            batch, rows = Encoded(), []
    lost = {copy: of for copy, of in copies.items() if of in report.failed}
    report.failed |= {copy: report.failed[of] for copy, of in lost.items()}
    batch.copies = {copy: of for copy, of in copies.items() if copy not in lost}
    yield _collected(batch, rows)
    if broken:
        raise InputError(broken[0])


def _collected(batch: Encoded, rows: list[Features]) -> Encoded:
    if rows:
        if len({len(row) for row in rows}) > 1:
            raise ModelError("The encoder's vectors differ in length: several models are served.")
        batch.features = finite(np.stack(rows), batch.names, "image")
    return batch


def _encode(
    model: Encoder, batch: Encoded, prepared: list[Any], report: StageReport, apart: bool
) -> Encoded:
    """Encode a batch; ``apart`` says that other processes decode on the model's own cores."""
    import torch

    if batch.names:
        waited, spent = (report.steps.get(step, 0.0) for step in ("wait for decoding", "model"))
        starved = apart and spent <= waited  # the first batch, too
        with report.step("model"), _threads(1 if starved else torch.get_num_threads()):
            batch.features = finite(model.images(_joined(prepared)), batch.names, "image")
    return batch


def encode_pairs(
    config: Config, read: "Read", asked: Sequence[tuple[str, str]], instruction: str
) -> tuple[Features, dict[str, str]]:
    """Return raw features (asked, d) of images, by name, with a text each; and why some were lost.

    The text alone stands for a pair whose image cannot be read (InputError where the configuration
    is strict). Raises ConfigError for an encoder that is not joint, ModelError.
    """
    from pipeline.models.decode import decode, stacked

    model = encoders.load_joint(config.encoder, config.runtime)
    names = list(dict.fromkeys(name for name, _ in asked))
    prepared: dict[str, Any] = {}
    lost: dict[str, str] = {}
    for chunk in decode(names, read, model, config.runtime):
        prepared |= dict(zip(chunk.names, chunk.prepared, strict=True))
        lost |= chunk.broken
    if lost and config.runtime.strict:
        raise InputError(next(iter(lost.values())))
    whole = [place for place, (name, _) in enumerate(asked) if name in prepared]
    alone = [place for place, (name, _) in enumerate(asked) if name not in prepared]
    size = len(asked) if isinstance(model, Streaming) else config.runtime.embed_batch
    found: dict[int, Features] = {}
    for start in range(0, len(whole), size):
        some = whole[start : start + size]
        pictures = stacked([prepared[asked[place][0]] for place in some])
        texts = [asked[place][1] for place in some]
        found |= dict(zip(some, model.pairs(pictures, texts, instruction), strict=True))
    if alone:
        made = model.texts([asked[place][1] for place in alone])
        found |= dict(zip(alone, made, strict=True))
    return np.stack([found[place] for place in range(len(asked))]), lost


def _chosen(prepared: "Tensor | list[Any]", kept: list[int], device: str) -> "Tensor | list[Any]":
    """Return some of a chunk's images, on the model's device where they are a tensor."""
    import torch

    if isinstance(prepared, torch.Tensor):
        return prepared.to(device, non_blocking=True)[kept]
    return [prepared[place] for place in kept]


def _joined(chunks: list[Any]) -> "Tensor | list[Any]":
    import torch

    if isinstance(chunks[0], torch.Tensor):
        return torch.cat(chunks)
    return list(itertools.chain.from_iterable(chunks))


def finite(features: Features, names: Sequence[str], what: str) -> Features:
    """Return ``features`` (len(names), d); raises ModelError naming the first that is not finite.

    A model that overflows in half precision makes such features; they would spoil every ranking.
    """
    good = np.isfinite(features).all(axis=1)
    if not good.all():
        raise ModelError(
            f"The encoder makes a feature that is NaN or infinite of the {what} "
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
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def encode_missing(
    file: Path,
    names: list[str],
    encode: Callable[[Sequence[str], dict[str, str]], Iterator[Encoded]],
    kind: dict[str, Any],
    size: int,
    report: StageReport,
    unit: str,
    grows: bool = False,
    finish: Callable[[Path, list[str], dict[str, Any], Stored], None] = merge,
) -> None:
    """Bring ``file`` to hold the features of ``names`` and no others, in their order.

    One that ``grows`` keeps what it has, and gets the rest behind it. ``finish`` makes what is
    stored count: in one file, or in segments.

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
                stored.refresh()
                kept = list(dict.fromkeys([*stored.places, *names])) if grows else names
                finish(file, kept, kind, stored)
    report.collect(processes)
