"""How reports, metrics and results are printed."""

import errno
from typing import Any

from rich.console import Console

from pipeline import processes
from pipeline.printable import cell, echo, one_line


class Terminal(Console):
    """rich's console, but a closed pipe is left to the command line, which knows what to do."""

    def on_broken_pipe(self) -> None:
        """Raise it again."""
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


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


def print_result(result: Any, with_captions: bool = False) -> None:
    """Print a query's ranking, a line an image that can be copied; its texts where asked."""
    alpha = result.increment
    method = result.settings.method
    if alpha is not None:
        method += f", α⁺ {alpha.positive:g}, α⁻ {alpha.negative:g}"
    echo(f"{len(result.images)} of {len(result.gallery):,} images by {method}")
    parts = bool(result.captions)
    echo(f"     score{'  similarity  increment' if parts else ''}  image")
    for place, image in enumerate(result.images, start=1):
        numbers = f"{image.similarity:10.4f}  {image.increment:+9.4f}  " if parts else ""
        path = one_line(str(result.gallery.folder.root / image.path))
        echo(f"{place:3} {image.score:6.4f}  {numbers}{path}")
    if with_captions:
        _print_captions(result)
    elif parts:
        echo(f"({len(result.captions)} captions and their edits: --show-captions)", err=True)
    for note in result.notes:
        echo(one_line(note), err=True)


def _print_captions(result: Any) -> None:
    from rich.table import Table

    texts = Table(title="captions", title_justify="left")
    texts.add_column("caption")
    texts.add_column("edited caption")
    count = max(len(result.captions), 1)
    pairs = {(result.captions[i % count], e): None for i, e in enumerate(result.edited_captions)}
    for caption, edited in pairs:
        texts.add_row(cell(caption), cell(edited if edited is not None else "none"))
    Terminal().print(texts)
