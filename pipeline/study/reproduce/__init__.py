"""Papers' figures beside ours: a recipe's cases are run by the project's own stages."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline import config as configuration
from pipeline import datasets
from pipeline.config import Config
from pipeline.datasets.reading import read_json
from pipeline.errors import InputError, SeizeError
from pipeline.retrieval import methods
from pipeline.run import Run
from pipeline.stages import embeddings, released, search, submit
from pipeline.stages.evaluate import predictions_of_files
from pipeline.stages.everything import run_stages
from pipeline.store.identity import provenance
from pipeline.study import protocol
from pipeline.study.reproduce.agreement import agreement
from pipeline.study.reproduce.recipes import Case, Recipe

Verdict = Literal["within", "outside", "not measured"]


@dataclass(frozen=True)
class Place:
    """Where things are on this machine."""

    data: Path
    files: Path
    """The folder of released files."""
    cache: Path
    submissions: Path
    answers: Mapping[str, Path] = field(default_factory=dict)
    """What the evaluation server answered, by case."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration that the user sets, over the recipe's."""


@dataclass(frozen=True)
class Figure:
    """One figure of a paper and ours, in percent."""

    name: str
    paper: float
    ours: float | None
    difference: float | None
    tolerance: float
    verdict: Verdict
    source: str


@dataclass(frozen=True)
class Outcome:
    """What one case gave."""

    case: str
    run: str
    method: str
    figures: list[Figure] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Why it could not be run, and what to fetch; empty where it was."""
    notes: list[str] = field(default_factory=list)
    """What was done, or is still to be done."""
    because: list[str] = field(default_factory=list)
    """What may explain a difference."""
    header: dict[str, Any] = field(default_factory=dict)
    """Everything that shaped our ranking."""

    @property
    def differs(self) -> bool:
        """Whether a figure is outside its tolerance."""
        return any(figure.verdict == "outside" for figure in self.figures)


@dataclass(frozen=True)
class Report:
    """What a recipe gave here."""

    title: str
    outcomes: list[Outcome]
    made: dict[str, Any]
    """Versions and time."""

    @property
    def differs(self) -> bool:
        """Whether any figure is outside its tolerance."""
        return any(outcome.differs for outcome in self.outcomes)

    @property
    def was_run(self) -> bool:
        """Whether any case could be run."""
        return any(not outcome.missing for outcome in self.outcomes)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return asdict(self) | {"differs": self.differs}


def reproduce(recipe: Recipe, cases: Sequence[Case], place: Place) -> Report:
    """Run the cases, what is in the cache taken from there; one that cannot be run says why.

    What is missing is told of every case at once.
    """
    return Report(recipe.title, [_outcome(recipe, case, place) for case in cases], provenance())


def _outcome(recipe: Recipe, case: Case, place: Place) -> Outcome:
    absent = [file for file in case.files if not (place.files / file).is_file()]
    told = {f: f"{f} is not in {place.files}: fetch it from {recipe.needs[f]}" for f in absent}
    released_lists = set(case.submission.values())
    missing = [why for file, why in told.items() if file not in released_lists]
    outcome = Outcome(case.name, f"{case.dataset}-{case.split}", case.method, missing=missing)
    try:
        run = run_of(case, place)  # what else is missing is said at once
        if not missing:
            outcome = _run(case, place, run, set(absent))
            outcome.notes.extend(f"Not compared: {told[f]}" for f in absent if f in released_lists)
    except SeizeError as error:
        missing.append(str(error))
    return outcome


def config_of(case: Case, place: Place) -> Config:
    """Return a case's configuration; raises ConfigError."""
    weights = {name: str(place.files / file) for name, file in case.weights.items()}
    settings = {"search.method": case.method} | case.settings | weights | dict(place.overrides)
    chosen = configuration.load(case.preset, settings)
    methods.check(chosen, tuple(datasets.known()))
    return chosen


def run_of(case: Case, place: Place) -> Run:
    """Return the run of a case; raises ConfigError and InputError as every command does."""
    chosen = config_of(case, place)
    links = chosen.runtime.follow_links
    loaded = datasets.load(case.dataset, case.split, place.data, chosen.dataset.gallery, links)
    command = f"--config {case.preset} --dataset {case.dataset} --split {case.split} "
    command += f"--data-root {place.data} --method {case.method}"
    return Run(loaded, chosen, place.cache, place.submissions, command)


def _run(case: Case, place: Place, run: Run, absent: Collection[str]) -> Outcome:
    if case.texts is not None:
        released.import_files(run.dataset, [place.files / case.texts], run.cache)
    reports, metrics = run_stages(run)
    notes = [
        f"{report.stage}: {len(report.failed)} failed, the first: {next(iter(report.failed))}"
        for report in reports
        if report.failed
    ]
    figures, said = _figures(case, place, run, metrics)
    found = Outcome(
        case.name,
        run.name,
        case.method,
        [*figures, *_agreement(case, place, run, absent)],
        notes=[*notes, *said],
        header=search.ranking_file(run).header,
    )
    return _explained(found, case, run)


def _figures(
    case: Case, place: Place, run: Run, metrics: Mapping[str, float] | None
) -> tuple[list[Figure], list[str]]:
    """Return the figures, of the server's answer on a test split, and what is left to be done."""
    notes = []
    ours = dict(metrics or {})
    if case.name in place.answers:
        ours |= _answer(place.answers[case.name])
    elif metrics is None and case.figures():
        files = ", ".join(str(file) for file in submit.files(run).values())
        notes.append(
            f"The ground truth of {run.name} is the server's: upload {files}, then repeat with "
            f"--answer {case.name}=FILE, a JSON object of metrics in percent."
        )
    return [
        _figure(metric, paper, ours.get(metric), case.tolerance, source)
        for metric, (paper, source) in case.figures().items()
    ], notes


def _figure(name: str, paper: float, ours: float | None, tolerance: float, source: str) -> Figure:
    if ours is None:
        return Figure(name, paper, None, None, tolerance, "not measured", source)
    difference = ours - paper
    # Published figures have two decimals: half of the last one is no difference.
    within = abs(difference) <= tolerance + 0.005 + 1e-9
    verdict: Verdict = "within" if within else "outside"
    return Figure(name, paper, ours, difference, tolerance, verdict, source)


def _answer(file: Path) -> dict[str, float]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file} must map metrics to percentages.")
    return {
        str(metric): float(value)
        for metric, value in content.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _agreement(case: Case, place: Place, run: Run, absent: Collection[str]) -> list[Figure]:
    """Return how much our lists agree with the released ones, of which the least is stated."""
    files = [place.files / file for file in case.submission.values() if file not in absent]
    theirs = predictions_of_files(run.dataset, files)
    lists = run.dataset.predictions(search.read(run))
    found = []
    for kind in theirs:
        count = run.dataset.lengths[kind]
        own = {name: list(images)[:count] for name, images in lists[kind].items()}
        for measure, value in agreement(own, theirs[kind]).items():
            least = case.agreement.get(measure)
            verdict: Verdict = "within" if least is None or value >= least else "outside"
            label = f"{measure} with {case.submission.get(kind, kind)}"
            slack = 100.0 if least is None else 100 - least
            found.append(Figure(label, 100.0, value, value - 100, slack, verdict, "released file"))
    return found


def _explained(found: Outcome, case: Case, run: Run) -> Outcome:
    """Return the outcome with what may explain a difference, where there is one."""
    if not found.differs:
        return found
    because = list(case.because)
    told = protocol.of_run(run).cells
    because.append("Ours: " + ", ".join(f"{name} {word}" for name, word in told.items()) + ".")
    features = embeddings.image_file(run)
    because += [f"What failed here: {note}" for note in found.notes if " failed" in note]
    because.append(f"Features of {run.config.encoder.model}, {features.name}.")
    return Outcome(**(vars(found) | {"because": because}))
