"""How reports, metrics and results are printed."""

import errno
import os
import shutil
import sys
from typing import Any

from rich.console import Console

from pipeline import processes
from pipeline.printable import cell, echo, one_line


class Terminal(Console):
    """rich's console, but a closed pipe is left to the command line, which knows what to do."""

    def on_broken_pipe(self) -> None:
        """Raise it again."""
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def terminal_width() -> int | None:
    """Return how many characters a line of the terminal has; None for a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_reports(reports: list[Any], as_json: bool) -> None:
    if as_json and processes.current().main:
        from pipeline.run import dump

        echo(dump([report.as_json() for report in reports]))


def print_metrics(metrics: dict[str, dict[str, float]], as_json: bool) -> None:
    if as_json:
        from pipeline.run import dump

        only = next(iter(metrics.values()))
        echo(dump(only))
        return
    from rich.table import Table

    for name, values in metrics.items():
        table = Table(title=cell(f"{name} (%)"), title_justify="left")
        table.add_column("metric")
        table.add_column("value", justify="right")
        for metric, value in values.items():
            table.add_row(cell(metric), f"{value:.2f}")
        Terminal().print(table)


def print_result(shown: dict[str, Any], with_captions: bool = False) -> None:
    """Print a query's ranking, a line an image that can be copied; its texts where asked.

    ``shown`` is what ``pipeline.own.result.shown`` returns, here or in a page that runs.
    """
    result = shown["result"]
    method = result["method"]
    if shown["weights"] is not None:
        method += ", α⁺ {:g}, α⁻ {:g}".format(*shown["weights"])
    images, captions = result["images"], result["captions"]
    if result["where"]:
        echo(one_line(shown["told"]))
    echo(f"{len(images)} of {result['matching']:,} images by {method}")
    echo(f"     score{'  similarity  increment' if captions else ''}  image")
    for place, image in enumerate(images, start=1):
        numbers = f"{image['similarity']:10.4f}  {image['increment']:+9.4f}  " if captions else ""
        path = one_line(os.path.join(result["gallery"], image["path"]))
        echo(f"{place:3} {image['score']:6.4f}  {numbers}{path}")
        for member in image["members"]:
            near = one_line(os.path.join(result["gallery"], member["path"]))
            echo(f"  = {member['score']:6.4f}  {' ' * len(numbers)}{near}")
    if with_captions:
        _print_captions(captions, result["edited_captions"])
    elif captions:
        echo(f"({len(captions)} captions and their edits: --show-captions)", err=True)
    for note in result["notes"]:
        echo(one_line(note), err=True)


def _print_captions(captions: list[str], edited: list[str | None]) -> None:
    from rich.table import Table

    texts = Table(title="captions", title_justify="left")
    texts.add_column("caption")
    texts.add_column("edited caption")
    pairs = {(captions[i % len(captions)], edit): None for i, edit in enumerate(edited)}
    for caption, edit in pairs:
        texts.add_row(cell(caption), cell(edit if edit is not None else "none"))
    Terminal().print(texts)
