"""One self-contained HTML page about a run: metrics, tuning, provenance, and every query."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from pipeline import __version__, stages
from pipeline.errors import ConfigError, MissingStageError, SeizeError
from pipeline.images.pictures import Thumbnails, spread, thumbnails
from pipeline.pages.report.charts import Line, can_be_tuned, heat_map, lines, newest_tuning
from pipeline.pages.report.queries import Contents, Side, contents, side_of, side_of_run
from pipeline.printable import for_page, printable_all, without_folders
from pipeline.run import Run, log
from pipeline.store.features import FeatureFile
from pipeline.store.files import write_text
from pipeline.store.jsonl import read_header
from pipeline.study import audit, compare

FOLDER = Path(__file__).parent

CHUNK = 256
"""Thumbnails in one block of the page; the script reads a block when the first of it is seen."""

PAGE = 200_000
"""Bytes reserved for what is neither data nor thumbnails."""

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Options:
    """What a report shows."""

    other: str | None = None
    """Another ranking beside the run's: a method's name, or a file of the search stage."""
    tuned: Path | None = None
    """The table of ``seize tune``; by default the newest one in ``outputs`` of this very run."""
    outputs: Path = Path("outputs")
    top: int = 10
    """Images shown of each ranking."""
    queries: int | None = None
    """How many queries are shown, evenly spread over all of them; metrics are always of all."""
    megabytes: float = 20.0
    """What the file may weigh: thumbnails are made as large as that allows."""
    mixed: bool = False
    """Whether the two rankings may have been made under different protocols."""
    resamples: int = 2000


@dataclass(frozen=True)
class Written:
    """What ``report`` wrote."""

    file: Path
    bytes: int
    queries: int
    images: int
    side: int
    """The longest side of the thumbnails in pixels."""
    unreadable: dict[str, str]
    """Image id to the reason why it has no picture."""
    lacking: list[str]
    """What was gone from the cache."""


def report(run: Run, file: Path, options: Options | None = None) -> Written:
    """Write the report of ``run``'s ranking to ``file``, whole or not at all.

    Raises MissingStageError where there is no ranking, ConfigError for rankings that cannot be
    compared, InputError for files that cannot be read.
    """
    options = options or Options()
    sides = [side_of_run(run)]
    if options.other is not None:
        sides.append(side_of(run, options.other))
        if sides[0].file.resolve() == sides[1].file.resolve():
            raise ConfigError(
                f"--compare {options.other} is the ranking that is reported "
                "itself: name another method or file."
            )
    figures = _figures(run, sides, options)
    shown = spread(run.queries, options.queries or len(run.queries))
    found = contents(run, sides, shown, options.top)
    data = {
        "queries": printable_all(found.queries),
        "images": printable_all(found.images),
        "metrics": [metric.replace("mAP", "AP") for metric in found.metrics],
        "sides": [side.name for side in sides],
        "parts": run.dataset.parts,
        "top": options.top,
        "depth": run.config.search.top_k,
        "chunk": CHUNK,
        "has_similarities": found.has_similarities,
    }
    text_bytes = len(json.dumps(data)) + PAGE
    budget = max(int(options.megabytes * MEGABYTE) - text_bytes, 0) * 3 // 4  # as base64
    files = {name: run.dataset.images[name] for name in found.images}
    pictures = thumbnails(files, budget, run.config.runtime.max_pixels)
    page = _page(
        run=run,
        sides=sides,
        data=data,
        chunks=_chunks(found, pictures),
        provenance=_provenance(run, sides, pictures, len(shown)),
        lacking=found.lacking,
        unreadable=len(pictures.failed),
        **figures,
    )
    write_text(file, page)
    written = Written(
        file,
        len(page.encode()),
        len(shown),
        len(found.images),
        pictures.side,
        pictures.failed,
        found.lacking,
    )
    _warn(run, written, options)
    return written


def _warn(run: Run, written: Written, options: Options) -> None:
    for image, reason in list(written.unreadable.items())[:10]:
        log.warning("[report %s] image %s has no picture: %s", run.name, image, reason)
    if written.bytes > options.megabytes * MEGABYTE:
        log.warning(
            "[report %s] %s has %.1f MB, more than the %g asked for, with the smallest thumbnails. "
            "Show fewer queries, for instance --queries %d.",
            run.name, written.file, written.bytes / MEGABYTE, options.megabytes,
            max(1, int(written.queries * options.megabytes * MEGABYTE / written.bytes * 0.8)),
        )  # fmt: skip


def _figures(run: Run, sides: Sequence[Side], options: Options) -> dict[str, Any]:
    """Return what the template shows of metrics, protocol and tuning."""
    names = [side.name for side in sides]
    own = [compare.protocol_of(side.header, side.file) for side in sides]
    rows = [compare.Row(side.name, {}, found) for side, found in zip(sides, own, strict=True)]
    protocol = compare.check_protocols(rows, options.mixed)
    whole: list[Line] = []
    parts: dict[str, list[Line]] = {}
    if run.dataset.has_ground_truth:
        rows = [
            compare.Row(side.name, side.values(run), found)
            for side, found in zip(sides, own, strict=True)
        ]
        table = compare.compare(run.dataset, rows, names[0], options.resamples)
        whole, parts = lines(table, run.dataset.headline)
    tuned = options.tuned or newest_tuning(run, options.outputs)
    return {
        "metrics": whole,
        "parts": parts,
        "protocol": without_folders(protocol),
        "audit": _audit(run, sides, options.resamples),
        "heat": tuned and heat_map(run, tuned),
        "untuned": tuned is None and can_be_tuned(run),
        "tuned_file": tuned and tuned.name,
    }


def _audit(run: Run, sides: Sequence[Side], resamples: int) -> list[audit.Section]:
    """Return what `seize audit` prints, where rankings by image and by text alone are there."""
    if not run.dataset.has_ground_truth:
        return []
    try:
        singles = compare.rows_of_run(run.with_method("image,text"))
    except MissingStageError:
        return []
    rows = [
        compare.Row(side.name, side.values(run), None, lists=run.dataset.predictions(rankings))
        for side in sides
        if (rankings := list(side.rankings.values())) and side.name not in ("image", "text")
    ]
    return audit.audit(run, singles, rows, resamples=resamples).sections


def _chunks(found: Contents, pictures: Thumbnails) -> list[list[str | None]]:
    """Return the thumbnails as base64 in the order of their numbers, None for an unreadable one."""
    encoded = [
        base64.b64encode(pictures.files[name]).decode() if name in pictures.files else None
        for name in found.images
    ]
    return [encoded[start : start + CHUNK] for start in range(0, len(encoded), CHUNK)]


def _provenance(
    run: Run, sides: Sequence[Side], pictures: Thumbnails, shown: int
) -> dict[str, dict[str, Any]]:
    """Return the headers of all files that the ranking came from, by what they hold.

    Names of files stand without their folders: a report may be given away.
    """
    found: dict[str, dict[str, Any]] = {
        "this report": {
            "seize": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "queries": f"{shown} of {len(run.queries)} shown",
            "thumbnails": f"at most {pictures.side} pixels a side",
        }
    }
    for side in sides:
        found[f"ranking {side.name}"] = {"file": side.file.name, **side.header}
    for one in stages.known().values():
        for name, place in one.sources.items():
            try:
                file = place(run)
                found[name] = {"file": file.name, **_header(file)}
            except SeizeError:
                found[name] = {"file": "gone"}
    return {name: without_folders(header) for name, header in found.items()}


def _header(file: Path) -> dict[str, Any]:
    """Return the header of a file of features or of records; raises SeizeError without the file.

    Other files, which another package's stage may write, have none.
    """
    if file.suffix == ".safetensors":
        return FeatureFile(file).header
    return read_header(file) if file.suffix == ".jsonl" or not file.exists() else {}


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        lstrip_blocks=True,
        finalize=for_page,
    )


def _page(**values: Any) -> str:
    """Render the page. Its policy allows this very style and script, and nothing from elsewhere."""
    style = (FOLDER / "report.css").read_text(encoding="utf-8")
    script = (FOLDER / "report.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("report.html")
        .render(
            style=style,
            script=script,
            style_hash=_source_hash(style),
            script_hash=_source_hash(script),
            **values,
        )
    )


def _source_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
