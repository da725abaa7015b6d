"""What a recipe gave, as text and as Markdown that can be attached to an issue."""

import json
from typing import Any

from pipeline.study import tables
from pipeline.study.reproduce import Figure, Outcome, Report
from pipeline.study.tables import MISSING, Format, words


def render(report: Report, form: Format) -> str:
    """Return the report, case by case: figures, verdicts, what is missing, what may explain it."""
    parts = [f"{'# ' if form == 'markdown' else ''}{words(report.title, form)}"]
    parts += [_outcome(outcome, form) for outcome in report.outcomes]
    made = json.dumps(report.made, sort_keys=True)
    parts.append(words(f"Made with {made}", form))
    return "\n\n".join(parts)


def _outcome(outcome: Outcome, form: Format) -> str:
    heading = "## " if form == "markdown" else ""
    title = f"{heading}{words(f'{outcome.case}: {outcome.run}, {outcome.method}', form)}"
    lines = [words(f"Cannot be run: {reason}", form) for reason in outcome.missing]
    lines += [words(note, form) for note in outcome.notes]
    lines += [words(f"May explain it: {reason}", form) for reason in outcome.because]
    bullet = "- " if form == "markdown" else "  "
    parts = [title]
    if outcome.figures:
        parts.append(tables.render([_line(figure) for figure in outcome.figures], form))
    if lines:
        parts.append("\n".join(bullet + line for line in lines))
    if form == "markdown" and outcome.header:
        header = json.dumps(outcome.header, sort_keys=True, default=str)
        parts.append(f"<details><summary>ranking</summary>\n\n{words(header, form)}\n\n</details>")
    return "\n\n".join(parts)


def _line(figure: Figure) -> dict[str, Any]:
    ours, difference = figure.ours, figure.difference
    return {
        "figure": figure.name,
        "paper": f"{figure.paper:.2f}",
        "ours": MISSING if ours is None else f"{ours:.2f}",
        "difference": MISSING if difference is None else f"{difference:+.2f}",
        "tolerance": f"{figure.tolerance:g}",
        "verdict": figure.verdict,
        "source": figure.source,
    }
