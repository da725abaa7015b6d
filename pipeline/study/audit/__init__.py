"""What a benchmark's queries ask for: shortcuts, copies, faults and texts cut short."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from pipeline.config import VERIFIED
from pipeline.errors import ConfigError
from pipeline.retrieval import methods
from pipeline.run import Run
from pipeline.study import tables
from pipeline.study.audit import cuts, faults, shortcuts
from pipeline.study.compare import Row, check_names
from pipeline.study.tables import Format, words

IMAGES = frozenset({"reference", "reference_raw"})
"""Clues that are features of the reference image."""


@dataclass(frozen=True)
class Section:
    """One table of the audit, for people."""

    title: str
    lines: list[dict[str, str]]


@dataclass(frozen=True)
class Audit:
    """All that was found about one split."""

    name: str
    queries: int
    shortcuts: shortcuts.Shortcuts | None
    """None without ground truth."""
    faults: faults.Faults
    cuts: list[cuts.Cut]
    notes: list[str]
    """What could not be looked at, and why."""

    @property
    def sections(self) -> list[Section]:
        """The tables, those that have lines."""
        made = [
            Section("Gallery and ground truth", faults.lines(self.faults)),
            Section("Texts that the encoder cuts", cuts.lines(self.cuts)),
        ]
        if self.shortcuts is not None:
            made = [*_sections(self.shortcuts), *made]
        return [section for section in made if section.lines]

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON-able data, each query's label and each copy among it."""
        return {
            "run": self.name,
            "queries": self.queries,
            "shortcuts": self.shortcuts and self.shortcuts.as_json(),
            "faults": asdict(self.faults),
            "texts": [asdict(cut) for cut in self.cuts],
            "notes": self.notes,
        }


def _sections(found: shortcuts.Shortcuts) -> list[Section]:
    return [
        Section(f"Queries solved within the first {found.first}", shortcuts.share_lines(found)),
        Section(f"{found.metric} with and without them", shortcuts.metric_lines(found)),
    ]


def check_single(method: str) -> None:
    """Raise ConfigError for a method that reads the image and the text."""
    clues, reads = methods.clues_of(method), methods.reads(method)
    by_both = method.endswith(VERIFIED) or any(clue.by_model for clue in clues.values())
    sees = bool(clues.keys() & IMAGES or reads & {"captions", "edits"})
    if by_both or (sees and reads - {"captions"}):
        raise ConfigError(
            f"--single {method}: it reads the image and the text. Rankings by one of them alone "
            "are told from those by both: name this one with --method."
        )


def audit(
    run: Run,
    singles: Sequence[Row],
    rows: Sequence[Row],
    first: int = shortcuts.FIRST,
    near: float = faults.NEAR,
    resamples: int = 2000,
) -> Audit:
    """Look at a split: ``singles`` are rankings by one modality alone, ``rows`` those by both.

    What is not on this machine (features, image files, captions) is left out and noted. Raises
    ConfigError for two rows of one name.
    """
    check_names([*singles, *rows])
    found = None
    if run.dataset.has_ground_truth:
        found = shortcuts.shortcuts(run.dataset, singles, rows, first, resamples)
    notes: list[str] = []
    wrong = faults.faults(run, near, notes)
    cut = cuts.cuts(run, notes)
    return Audit(run.name, len(run.queries), found, wrong, cut, notes)


def render(found: Audit, form: Format) -> str:
    """Return the tables as text; as CSV one line a figure."""
    if form == "csv":
        lines = [
            {"table": section.title, "line": number, "column": column, "value": value}
            for section in found.sections
            for number, line in enumerate(section.lines, start=1)
            for column, value in line.items()
        ]
        return tables.csv(pd.DataFrame(lines)).rstrip()
    start = {"text": "", "markdown": "### ", "latex": "% "}[form]
    note = "% " if form == "latex" else ""
    parts = [
        f"{start}{words(section.title, form)}\n\n{tables.render(section.lines, form)}"
        for section in found.sections
    ]
    said = [
        f"{found.name}, {found.queries} queries; percent, in brackets 95 % intervals of the "
        "bootstrap over queries.",
        *(found.shortcuts.notes if found.shortcuts else ("No ground truth: no shortcuts.",)),
        *found.notes,
    ]
    return "\n\n".join([*parts, "\n".join(note + words(text, form) for text in said)])
