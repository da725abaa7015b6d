"""The embed stage: features of every gallery image and of every distinct text."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline import stages
from pipeline.errors import InputError, MissingStageError
from pipeline.images.files import read_named
from pipeline.models import encoders
from pipeline.models.embedding import encode_images, encode_missing, finite
from pipeline.models.encoders.base import Streaming
from pipeline.processes import current
from pipeline.retrieval import methods
from pipeline.retrieval.clues import Clue
from pipeline.retrieval.methods import clues_of
from pipeline.run import Run, StageReport, log, stage
from pipeline.stages import checks, texts, work
from pipeline.stages.base import Certainty, Line, Stage
from pipeline.stages.embeddings import header, image_file, of_images, settle, text_file
from pipeline.stages.inputs import clue_file, make_clues
from pipeline.store.shards import Encoded, Stored


def embed(run: Run) -> list[StageReport]:
    """Embed the gallery's images, then the texts that the run's methods need, once they exist.

    By every encoder that the methods name, one after the other.
    """
    return [report for one in texts.by_encoder(run) for report in _embed(one)]


def _embed(run: Run) -> list[StageReport]:
    _try_pairs(run)
    reports = [embed_images(run)]
    try:
        wanted = texts.embedded(run)
    except MissingStageError as error:
        if current().main:
            log.warning("The gallery is embedded, the texts not yet. %s Then embed again.", error)
        return reports
    return [*reports, embed_texts(run, wanted)] if wanted else reports


def _try_pairs(run: Run) -> None:
    """Raise what making a joint clue would end in, before hours go into the gallery."""
    for name in texts.selection(run):
        for clue in methods.clues_of(name).values():
            if clue.joint and not clue_file(run, clue).exists():
                encoders.load_joint(run.config.encoder, run.config.runtime)


def embed_images(run: Run) -> StageReport:
    """Embed what is missing of the dataset's images; raises InputError if none could be read."""
    file = image_file(run)
    with stage("embed", run, [run.dataset.root], file, "images") as report:
        config, told = settle(run.config, file)
        kind = of_images(run.config) | {"stage": "embed images"} | run.dataset.gallery_identity
        kind |= told
        images = run.dataset.images
        read = functools.partial(read_named, images)
        encode = functools.partial(encode_images, config, read, report=report)
        size = run.config.runtime.shard
        encode_missing(file, list(images), encode, kind, size, report, "image")
    if not file.exists() and report.failed:
        raise InputError(
            f"None of {len(images)} images could be read. The first: "
            f"{next(iter(report.failed.values()))} Is --data-root right?"
        )
    return report


def embed_texts(run: Run, wanted: list[str], reads: Sequence[Path] | None = None) -> StageReport:
    """Embed what is missing of ``wanted`` texts; they come from ``reads``, or the run's stages."""
    file = text_file(run)
    if reads is None:
        made_by = [one for one in stages.known().values() if one.name in texts.stages(run)]
        reads = [file(run) for one in made_by for file in one.sources.values()]
    config, told = settle(run.config, file, image_file(run))
    with stage("embed", run, reads, file, "texts") as report:

        def encode(todo: Sequence[str], _: dict[str, str]) -> Iterator[Encoded]:
            with report.step("load the model"):
                model = encoders.load(config.encoder, config.runtime)
            size = run.config.runtime.embed_batch
            if isinstance(model, Streaming):  # else servers would wait between small batches
                size = max(size, run.config.runtime.shard)
            for start in range(0, len(todo), size):
                batch = list(todo[start : start + size])
                with report.step("model"):
                    features = finite(model.texts(batch), batch, "text")
                report.too_long += len(model.too_long(batch))
                yield Encoded(batch, features)

        kind = header(run) | {"stage": "embed texts"} | told
        size = run.config.runtime.shard
        encode_missing(file, wanted, encode, kind, size, report, "text", grows=True)
        if report.too_long:
            what = "read in parts" if config.encoder.long_texts == "segments" else "cut"
            log.warning(
                "%d of %d texts are longer than what the encoder reads, and were %s "
                "(clip.long_texts; docs/synthesize.md).",
                *(report.too_long, report.computed, what),
            )
    return report


def _run(run: Run) -> list[StageReport]:
    return [*embed(run), *make_clues(run)]


def _plan(run: Run) -> list[Line]:
    return [line for one in texts.by_encoder(run) for line in _plan_one(one)]


def _plan_one(run: Run) -> list[Line]:
    width = encoders.width_of(run.config.encoder)
    stored, images = Stored(image_file(run)).places, run.dataset.images
    known = sum(name in stored for name in images)
    clues = {name: clue for one in texts.selection(run) for name, clue in clues_of(one).items()}
    lines = [line for clue in clues.values() for line in _clue(run, clue)]
    return [*planned(run, "image", len(images), known, width), *_texts(run, width), *lines]


def _clue(run: Run, clue: Clue) -> list[Line]:
    """Count what a model has to make for a clue: all of it, or nothing where it is there."""
    made = clue_file(run, clue).exists()
    return [
        Line("embed", what, count, count if made else 0, work=work.untold(run, "embed", what))
        for what, count in clue.plan(run).items()
    ]


def _texts(run: Run, width: int | None) -> list[Line]:
    """Count the texts: exact once captions and edits exist, before all different."""
    try:
        wanted = texts.embedded(run)
    except MissingStageError:
        relative = {text for query in run.queries for text in run.relative_captions(query)}
        total = len(relative) + texts.most(run)
        return planned(run, "text", total, 0, width, "at most")
    if not wanted:
        return []
    stored = Stored(text_file(run)).places
    return planned(run, "text", len(wanted), sum(text in stored for text in wanted), width)


def planned(
    run: Run, what: str, total: int, cached: int, width: int | None, certainty: Certainty = "exact"
) -> list[Line]:
    """Return how many there are and the bytes of their features, where the width is known."""
    count = Line("embed", f"{what}s", total, cached, certainty, work.embed(run, f"{what}s"))
    if width is None:
        return [count]
    disk: Certainty = "estimate" if certainty == "exact" else certainty  # names come on top
    return [
        count,
        Line("embed", f"bytes of {what} features", 4 * width * total, 4 * width * cached, disk),
    ]


def _clip_files(run: Run) -> None:
    """Check the encoders' files."""
    for one in texts.by_encoder(run):
        checks.model_files(encoders.ROLE.chosen(one.config))


def _clip_names(run: Run) -> None:
    """Raise ModelError for an encoder that its kind does not know."""
    for one in texts.by_encoder(run):
        if not image_file(one).exists():  # else it was known; open_clip is slow to import
            encoders.width(one.config.encoder)


def _clues(run: Run) -> None:
    """Check what the models need that make the methods' clues, where those are not made yet."""
    for one in texts.by_encoder(run):
        for name in texts.selection(one):
            for clue in methods.clues_of(name).values():
                if not (clue.by_model and clue_file(one, clue).exists()):
                    clue.check(one.config, one.dataset.name)


def _servers(run: Run) -> None:
    """Try the encoders behind servers that are needed, so that none is refused after hours."""
    for one in texts.by_encoder(run):
        if not encoders.ROLE.chosen(one.config).kind.served:
            continue
        if any(line.todo for line in _plan_one(one)):
            encoders.load(one.config.encoder, one.config.runtime)
        _try_pairs(one)


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
    slow_checks=(checks.device, _clip_names, _clues, _servers),
    shared=True,
)
