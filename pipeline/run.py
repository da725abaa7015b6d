"""What the stages of one run share: dataset, configuration, folders and the search for inputs."""

import io
import json
import logging
import math
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

from pipeline import timings
from pipeline.config import VERIFIED, Config, weights_family
from pipeline.errors import MissingStageError
from pipeline.printable import json_safe
from pipeline.processes import Processes
from pipeline.profile import watch
from pipeline.records import Query

if TYPE_CHECKING:
    from pipeline.datasets.base import Dataset

log = logging.getLogger("seize")

EVERY = 30.0
"""Seconds between lines about progress where standard error is no terminal."""
LINE = "{desc}: {n_fmt} of {total_fmt}{unit} in {elapsed}, {rate_fmt}, {remaining} to go"

LONGEST_SLUG = 100
"""Characters of a name that enter a file's name."""


@dataclass(frozen=True)
class Run:
    """One dataset split under one configuration.

    ``command`` holds the user's options that every stage takes, to recommend another stage with.
    """

    dataset: "Dataset"
    config: Config
    cache: Path
    submissions: Path
    command: str = ""
    profile: bool = False
    """Whether to follow the memory of each stage."""

    @property
    def name(self) -> str:
        """Dataset and split, as in ``circo-val``."""
        return f"{self.dataset.name}-{self.dataset.split}"

    @property
    def queries(self) -> list[Query]:
        """The queries to process."""
        return self.dataset.queries

    @property
    def references(self) -> list[str]:
        """Distinct reference images in query order."""
        return list(dict.fromkeys(name for query in self.queries for name in query.references))

    def relative_captions(self, query: Query) -> tuple[str, ...]:
        """The query's relative caption; FashionIQ's two are joined, in both orders where asked."""
        settings = self.config.dataset
        orders = [query.relative_captions]
        if settings.both_orders and len(query.relative_captions) > 1:
            orders.append(query.relative_captions[::-1])
        return tuple(settings.caption_separator.join(order) for order in orders)

    @property
    def top_k(self) -> int:
        """How many images a ranking holds: as many as asked for, or as the metrics need."""
        return max(self.config.search.top_k, self.dataset.depth)

    @property
    def protocol(self) -> dict[str, Any]:
        """The choices that make figures of one benchmark differ; recorded with every result."""
        own = {name: getattr(self.config.dataset, name) for name in self.dataset.choices}
        return {
            "exclude_reference": self.config.search.excludes(self.dataset.name),
            "clip_weights": weights_family(self.config.encoder),
            "pixels": self.config.encoder.pixels,
            **own,
        }

    def with_llm(self, model: str, url: str) -> "Run":
        """Return the same run with another LLM behind a server."""
        llm = self.config.llm.model_copy(update={"model": model, "url": url})
        command = with_option(self.command, "--llm", "llm.model", model)
        return replace(self, config=self.config.model_copy(update={"llm": llm}), command=command)

    def with_verifier(self, model: str, url: str) -> "Run":
        """Return the same run with another verifier behind a server."""
        verifier = self.config.verifier.model_copy(update={"model": model, "url": url})
        command = with_option(self.command, "--verifier", "verifier.model", model)
        config = self.config.model_copy(update={"verifier": verifier})
        return replace(self, config=config, command=command)

    def with_method(self, name: str) -> "Run":
        """Return the same run with another retrieval method."""
        if name == self.config.search.method:
            return self
        search = self.config.search.model_copy(update={"method": name})
        command = with_option(self.command, "--method", "search.method", name)
        config = self.config.model_copy(update={"search": search})
        return replace(self, config=config, command=command)

    @property
    def verified(self) -> bool:
        """Whether the run is about a ranking that the verify stage reordered."""
        return self.config.search.method.endswith(VERIFIED)

    @property
    def unverified(self) -> "Run":
        """The same run before verification."""
        return self.with_method(self.config.search.method.removesuffix(VERIFIED))

    def file(self, stage: str, name: str, identity: str, ending: str) -> Path:
        """Where a stage keeps its output."""
        return self.cache / self.name / stage / f"{slug(name)}-{identity}{ending}"

    def missing(self, stage: str, file: Path, what: str) -> MissingStageError:
        """Return the error that names the command which makes ``file``.

        ``stage`` may have options of its own behind its name.
        """
        return MissingStageError(
            f"{what} ({file} is not complete). Run: seize {stage} {self.command}".rstrip()
        )


@dataclass
class StageReport:
    """What a stage did, for people and for ``--json``."""

    stage: str
    run: str
    reads: list[str]
    writes: str
    cached: int = 0
    computed: int = 0
    copies: int = 0
    """Items that are equal to another one and share its result."""
    too_long: int = 0
    """Texts, of those computed, that are longer than what the encoder reads of one."""
    failed: dict[str, str] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    """Of those failed, items that an earlier run failed with and named."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Files of kinds that are not read, counted by the endings of their names."""
    visited: float | None = None
    """Images that an index's search scored exactly, a query."""
    seconds: float = 0.0
    cost: dict[str, float] = field(default_factory=dict)
    """What the stage spent on calls, where it makes some."""
    unit: str = "items"
    """What is counted."""
    notes: list[str] = field(default_factory=list)
    """What the models' servers do not take and are not sent any more, in words."""
    steps: dict[str, float] = field(default_factory=dict)
    """Seconds by part of the stage, where parts are told apart."""
    peak_memory: int | None = None
    """Bytes, of the processor and of the GPU; where the run is profiled."""
    peak_gpu_memory: int | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the step ``name``."""
        start = time.monotonic()
        try:
            yield
        finally:
            passed = time.monotonic() - start
            self.steps[name] = round(self.steps.get(name, 0.0) + passed, 4)

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON-able data."""
        return asdict(self)

    def collect(self, processes: Processes) -> None:
        """Add up what all processes did, in the main one's report; theirs are then empty."""
        reports = processes.gather(self)
        own = reports if processes.main else []
        self.cached = sum(report.cached for report in own)
        self.computed = sum(report.computed for report in own)
        self.copies = sum(report.copies for report in own)
        self.too_long = sum(report.too_long for report in own)
        self.failed = {item: why for report in own for item, why in report.failed.items()}

    def summary(self) -> str:
        """Return one line: counts, time, and where the output is."""
        copies = f", {self.copies} copies" if self.copies else ""
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return (
            f"{self.stage} {self.run}: {self.computed} computed, {self.cached} cached{copies}"
            f"{failed} in {self.seconds:.1f} s -> {self.writes}"
        )


class Named(Protocol):
    """A run, or whatever else a stage works on."""

    @property
    def name(self) -> str:
        """What the stage's messages call it."""


@contextmanager
def stage(
    name: str, run: Named, reads: Iterable[Path | str], writes: Path, unit: str = "items"
) -> Iterator[StageReport]:
    """Log what a stage reads and writes, time it, and log its summary and failures."""
    report = StageReport(name, run.name, [str(path) for path in reads], str(writes), unit=unit)
    log.info("[%s %s] reads %s", name, run.name, ", ".join(report.reads))
    log.info("[%s %s] writes %s", name, run.name, writes)
    start = time.monotonic()
    with watch() if isinstance(run, Run) and run.profile else nullcontext() as peak:
        yield report
    report.seconds = round(time.monotonic() - start, 4)
    if peak is not None:
        report.peak_memory, report.peak_gpu_memory = peak.memory, peak.gpu_memory
    if isinstance(run, Run):
        timings.keep(run, report)
    known = set(report.known)
    new = [item for item in report.failed if item not in known]
    for level, items in ((logging.WARNING, new), (logging.INFO, report.known)):
        for item in items[:10]:
            log.log(level, "[%s %s] skipped %s: %s", name, run.name, item, report.failed[item])
        if len(items) > 10:
            log.log(level, "[%s %s] and %d more", name, run.name, len(items) - 10)
    if report.skipped:
        log.info("[%s %s] skipped: %s", name, run.name, counted(report.skipped))
    log.info("%s", report.summary())


def with_option(command: str, option: str, field: str, value: str) -> str:
    """Return a command's options with ``option``, or --set of its ``field``, replaced or added."""
    words, kept = iter(shlex.split(command)), []
    for word in words:
        if word == option:
            next(words)
        elif word == "--set" and (setting := next(words)).partition("=")[0] != field:
            kept += [word, setting]
        elif word != "--set":
            kept.append(word)
    return shlex.join([*kept, option, value])


def counted(skipped: dict[str, int]) -> str:
    """Return counts by kind as a text, the largest first: ``248 .svg, 1 without ending``."""
    ordered = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count:,} {kind}" for kind, count in ordered[:12]]
    rest = sum(count for _, count in ordered[12:])
    return ", ".join([*shown, *([f"{rest:,} of other endings"] if rest else [])])


def progress(total: int, cached: int, unit: str, text: str) -> "tqdm[Any]":
    """Return progress on standard error whose rate counts only what is computed now.

    It is a bar on a terminal; elsewhere, where a bar would fill the file, a line now and then.
    """
    kind: type[tqdm[Any]] = tqdm if sys.stderr.isatty() else Lines
    return kind(
        total=total,
        initial=cached,
        unit=f" {unit}s",
        desc=text,
        delay=0.5,
        dynamic_ncols=True,
        leave=False,
        disable=not log.isEnabledFor(logging.INFO),
    )


class Lines(tqdm):  # type: ignore[type-arg]  # it has no parameters when it runs
    """Progress in lines of the log, one in ``EVERY`` seconds at most, and a last one after them."""

    def __init__(self, **options: Any) -> None:
        self._said = time.monotonic()
        self._lines = 0
        options |= {"mininterval": EVERY, "maxinterval": EVERY, "bar_format": LINE}
        super().__init__(**options, file=io.StringIO())

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line, if the last one is long enough ago."""
        if time.monotonic() - self._said >= EVERY:
            self._say()

    def close(self) -> None:
        """Write the last line, where there were others."""
        if not self.disable and self._lines:
            self._say()
        super().close()

    def _say(self) -> None:
        self._said = time.monotonic()
        self._lines += 1
        log.info("%s", self)


def slug(name: str) -> str:
    """Return ``name`` as a file name's part: the last path component, safe characters only.

    Long names are cut: a fingerprint follows wherever names must differ.
    """
    last = name.rstrip("/").split("/")[-1].split(":")[-1]
    return re.sub(r"[^A-Za-z0-9.]+", "-", last).strip("-")[:LONGEST_SLUG]


def dump(content: Any) -> str:
    """Return ``content`` as one line of JSON for standard output; what is no number is null."""
    return json_safe(json.dumps(_finite(content), ensure_ascii=False, allow_nan=False))


def _finite(content: Any) -> Any:
    """Return data with None for each float that JSON has no word for."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
