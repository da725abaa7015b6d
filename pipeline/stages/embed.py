"""The embed stage: CLIP features of every gallery image and of every distinct text."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import stages
from pipeline.config import Config
from pipeline.errors import InputError, MissingStageError
from pipeline.images.files import read_image
from pipeline.models.loading import LOADING
from pipeline.processes import current
from pipeline.run import Run, StageReport, log, progress, stage
from pipeline.stages import checks, texts
from pipeline.stages.base import Certainty, Line, Stage
from pipeline.stages.embeddings import finite, header, image_file, settle, text_file
from pipeline.stages.inputs import make_clues
from pipeline.store.files import lock
from pipeline.store.shards import Encoded, Shard, Stored, merge

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.encoders.decode import Read
    from pipeline.models.encoders.open_clip import Clip


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
    read: "Read",
    todo: Sequence[str],
    digests: dict[str, str],
    report: StageReport,
) -> Iterator[Encoded]:
    """Yield features by the batch; processes decode the next one while the model works.

    ``digests`` maps the bytes of images that were embedded to their names; copies share a feature.
    Broken images go to the report, or raise InputError where the configuration is strict.
    """
    from pipeline.models.encoders.decode import decode

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
    model: "Clip", batch: Encoded, pixels: "list[Tensor]", report: StageReport, apart: bool
) -> Encoded:
    """Encode a batch; ``apart`` says that other processes decode on the model's own cores."""
    import torch

    if batch.names:
        waited, spent = (report.steps.get(step, 0.0) for step in ("wait for decoding", "model"))
        starved = apart and 0 < spent < waited
        with report.step("model"), _threads(1 if starved else torch.get_num_threads()):
            batch.features = finite(model.encode_images(torch.cat(pixels)), batch.names, "image")
    return batch


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


def _embed_texts(run: Run, wanted: list[str]) -> StageReport:
    file = text_file(run)
    made_by = [one for one in stages.known().values() if one.name in texts.stages(run)]
    reads = [file(run) for one in made_by for file in one.sources.values()]
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


def _run(run: Run) -> list[StageReport]:
    return [*embed(run), *make_clues(run)]


def _plan(run: Run) -> list[Line]:
    from pipeline.models.encoders import open_clip as clip

    width = clip.width(run.config.clip)
    stored, images = Stored(image_file(run)).places, run.dataset.images
    known = sum(name in stored for name in images)
    return [*_features("image", len(images), known, width), *_texts(run, width)]


def _texts(run: Run, width: int | None) -> list[Line]:
    """Count the texts: exact once captions and edits exist, before all different."""
    try:
        wanted = texts.embedded(run)
    except MissingStageError:
        relative = {text for query in run.queries for text in run.relative_captions(query)}
        total = len(relative) + texts.most(run)
        return _features("text", total, 0, width, "at most")
    if not wanted:
        return []
    stored = Stored(text_file(run)).places
    return _features("text", len(wanted), sum(text in stored for text in wanted), width)


def _features(
    what: str, total: int, cached: int, width: int | None, certainty: Certainty = "exact"
) -> list[Line]:
    """Return how many there are and the bytes of their features, where the width is known."""
    count = Line("embed", f"{what}s", total, cached, certainty)
    if width is None:
        return [count]
    disk: Certainty = "estimate" if certainty == "exact" else certainty  # names come on top
    return [
        count,
        Line("embed", f"bytes of {what} features", 4 * width * total, 4 * width * cached, disk),
    ]


def check_files(config: Config) -> None:
    """Raise ModelError for CLIP's folder, where it is one that cannot be loaded."""
    scheme, _, folder = config.clip.model.partition(":")
    if scheme == "local-dir":
        checks.model_files("CLIP", folder, "--clip local-dir:FOLDER")


def _clip_files(run: Run) -> None:
    check_files(run.config)


def _clip_names(run: Run) -> None:
    """Raise ModelError for a CLIP model or tag that open_clip does not know."""
    if not image_file(run).exists():  # else it was known; open_clip is slow to import
        from pipeline.models.encoders import open_clip as clip

        clip.width(run.config.clip)


STAGE = Stage(
    "embed",
    """Compute CLIP features of the gallery's images, and of all texts once they exist.

    Several GPUs or machines: accelerate launch -m pipeline embed … shares images and texts out.

    Example: seize embed --dataset circo --split val --clip ViT-B-32 --pretrained openai
    """,
    _run,
    after=("caption", "edit"),
    sources={"image features": image_file},
    plan=_plan,
    checks=(checks.cache_folder, _clip_files),
    slow_checks=(checks.device, _clip_names),
    shared=True,
)
