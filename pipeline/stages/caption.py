"""The caption stage: several captions of every distinct reference image."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.config import CaptionerConfig, Config
from pipeline.errors import InputError, ModelError
from pipeline.images.files import open_image
from pipeline.models import captioners
from pipeline.processes import current
from pipeline.run import Run, StageReport, progress, stage
from pipeline.stages import checks, estimates, texts, work
from pipeline.stages.base import Line, Stage, TextKind
from pipeline.store.identity import fingerprint
from pipeline.store.jsonl import RecordFile
from pipeline.store.schema import CaptionRecord, typed


def header(run: Run) -> dict[str, Any]:
    """Return everything that changes the captions."""
    return record_file(run).header


def settings(config: Config) -> dict[str, Any]:
    """Return everything about the configuration that changes the captions of an image."""
    return {"stage": "caption", **captioners.ROLE.chosen(config).identity}


def record_file(run: Run) -> RecordFile:
    """Return the file of captions: records ``{"image": id, "captions": [text, …]}``.

    An image that cannot be opened has no captions and a ``reason``; a rerun tries it again. Raises
    MissingStageError for captions of others that are not in the cache.
    """
    captioner = captioners.ROLE.chosen(run.config)
    if captioner.kind.given:
        return captioner.kind.given.file(run, captioner.name)
    content = settings(run.config) | run.dataset.gallery_identity
    file = run.file("caption", run.config.captioner.model, fingerprint(content), ".jsonl")
    return RecordFile(file, content)


def read(run: Run) -> dict[str, list[str]]:
    """Return each query's captions; raises MissingStageError if some were not made yet."""
    captions = known(run)
    lacking = {name for q in run.queries if q.id not in captions for name in q.references}
    if missing := len(lacking):
        what = f"{missing} of {len(run.references)} reference images have no captions yet"
        raise run.missing("caption", record_file(run).file, what)
    return captions


def known(run: Run) -> dict[str, list[str]]:
    """Return what is there already: captions by query, none for an image that had none.

    A query of several images has the captions of each, one image behind the other.
    """
    records = record_file(run)
    if (given := captioners.ROLE.chosen(run.config).kind.given) is not None:
        return dict(given.read(run, records))
    captions = by_image(records)
    return {
        query.id: [text for image in query.references for text in captions[image]]
        for query in run.queries
        if all(image in captions for image in query.references)
    }


def by_image(records: RecordFile) -> dict[str, list[str]]:
    """Return what is there already: captions by image."""
    return {record["image"]: record["captions"] for record in typed(records, CaptionRecord)}


def caption(run: Run) -> StageReport:
    """Caption what is not cached yet; captions are stored as soon as they come.

    Processes launched together caption a share each.
    """
    records = record_file(run)
    if captioners.ROLE.chosen(run.config).kind.given:
        return given("caption", run, records)
    processes, config = current(), run.config
    settled = captioners.ROLE.settle(config.captioner, config.runtime, records)
    with stage("caption", run, [run.dataset.root], records.file, "images") as report:
        with records.shared(processes) as own:
            done = by_image(records)
            share = processes.share(run.references)
            todo = [image for image in share if not done.get(image)]
            report.cached = len(share) - len(todo)
            if todo:
                _caption(run, settled, todo, done, own, report)
        report.collect(processes)
    return report


def given(name: str, run: Run, records: RecordFile) -> StageReport:
    """Return the report of a stage whose texts others made: nothing is left to compute."""
    with stage(name, run, [records.file], records.file) as report:
        report.cached = len(records.read())
    return report


def _caption(
    run: Run,
    settled: CaptionerConfig,
    todo: list[str],
    done: Mapping[str, list[str]],
    records: RecordFile,
    report: StageReport,
) -> None:
    """Caption the images ``todo``; what is ``done`` holds those that failed before."""
    with report.step("load the model"):
        captioner = captioners.load(settled, run.config.runtime)
    with progress(report.cached + len(todo), report.cached, "image", "caption") as bar:

        def broken(image: str, reason: str) -> None:
            report.failed[image] = reason
            if image not in done:
                records.append({"image": image, "captions": [], "reason": reason})
            bar.update()

        images = _opened(run, todo, broken, report)
        batch = run.config.runtime.caption_batch
        with contextlib.closing(captioner.stream(images, batch)) as captioned:
            for image, captions in _timed(captioned, report):
                if isinstance(captions, captioners.Failure):
                    _fail(run, records, image, captions.reason, report)
                else:
                    records.append({"image": image, "captions": captions})
                    report.computed += 1
                bar.update()


def _fail(run: Run, records: RecordFile, image: str, reason: str, report: StageReport) -> None:
    if run.config.runtime.strict:
        raise ModelError(f"Image {image} cannot be captioned: {reason}")
    report.failed[image] = reason
    records.append({"image": image, "captions": [], "reason": reason})


def _opened(
    run: Run, ids: list[str], broken: Callable[[str, str], None], report: StageReport
) -> Iterator[captioners.Named]:
    """Yield the images that can be opened, each when it is asked for; tell of those that cannot."""
    for name in ids:
        try:
            with report.step("open images"):
                file, limit = run.dataset.images[name], run.config.runtime.max_pixels
                opened = open_image(file, max_pixels=limit)
        except InputError as error:
            if run.config.runtime.strict:
                raise
            broken(name, str(error))
        else:
            yield name, opened


def _timed(
    captioned: Iterator[captioners.Captioned], report: StageReport
) -> Iterator[captioners.Captioned]:
    """Yield what comes; the time until then, without the opening of images, is the captioner's."""
    while True:
        opening = report.steps.get("open images", 0.0)
        with report.step("captioner"):
            item = next(captioned, None)
        opening = report.steps.get("open images", 0.0) - opening
        report.steps["captioner"] = round(report.steps["captioner"] - opening, 4)
        if item is None:
            return
        yield item


def _plan(run: Run) -> list[Line]:
    config = run.config.captioner
    captions = {query: made for query, made in known(run).items() if made}
    images = len(run.references)
    done = len({name for q in run.queries if q.id in captions for name in q.references})
    tokens = config.samples * config.max_new_tokens
    if captioners.ROLE.choose(config).kind.given:
        return [Line("caption", "reference images", images, done)]
    each = config.samples * (estimates.CAPTION_CHARACTERS + estimates.BESIDE)
    return [
        Line("caption", "reference images", images, done, work=work.caption(run)),
        Line("caption", "captions", images * config.samples, done * config.samples),
        Line("caption", "tokens sampled", images * tokens, done * tokens, "at most"),
        Line("caption", "bytes of captions", images * each, done * each, "estimate"),
    ]


def _check(run: Run) -> None:
    """Check the captioner's files, or that the captions of others are there."""
    record_file(run)
    checks.model_files(captioners.ROLE.chosen(run.config))


STAGE = Stage(
    "caption",
    """Describe each distinct reference image several times with BLIP-2.

    Several GPUs or machines: accelerate launch -m pipeline caption … shares the images out.

    Example: seize caption --dataset circo --split val --data-root /data --config paper-l14
    """,
    lambda run: [caption(run)],
    wanted=lambda run: "caption" in texts.stages(run),
    header=header,
    sources={"captions": lambda run: record_file(run).file},
    texts={
        "captions": TextKind(
            read,
            "captions",
            header,
            most=lambda run: len(run.references) * run.config.captioner.samples,
        )
    },
    plan=_plan,
    checks=(checks.cache_folder, _check),
    slow_checks=(checks.device,),
    shared=True,
)
