"""Where the time and the memory of a run went: measured while it runs, shown as a table."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

INTERVAL = 0.5
"""Seconds between two looks at the memory."""


@dataclass
class Peak:
    """The most memory that was held, in bytes; of the GPU where one is used."""

    memory: int = 0
    gpu_memory: int | None = None


@dataclass(frozen=True)
class Row:
    """A stage, or with ``step`` a part of the one before. Seconds; bytes; items a second."""

    stage: str
    step: str = ""
    unit: str = ""
    seconds: float = 0.0
    computed: int | None = None
    cached: int | None = None
    rate: float | None = None
    peak_memory: int | None = None
    peak_gpu_memory: int | None = None


@contextlib.contextmanager
def watch() -> Iterator[Peak]:
    """Follow the memory of this process and its children; the peak is complete on leaving.

    Memory that processes share counts once where the system tells (Linux).
    """
    peak, ended = Peak(), threading.Event()
    cuda = _cuda()
    if cuda is not None:
        cuda.reset_peak_memory_stats()

    def look() -> None:
        me = psutil.Process()
        while True:
            peak.memory = max(peak.memory, sum(map(_held, [me, *me.children(recursive=True)])))
            if ended.wait(INTERVAL):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        cuda = _cuda()  # torch may have been loaded meanwhile
        peak.gpu_memory = None if cuda is None else cuda.max_memory_allocated()


def _held(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except (psutil.Error, OSError):
        return 0  # it ended, or is not ours
    return int(getattr(memory, "pss", memory.rss))


def _cuda() -> Any:
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def rows(reports: Sequence[Any]) -> list[Row]:
    """Return a row a stage report, with its steps, then what is left and the total.

    The total begins with the process, so that what is left holds imports and reading the dataset.
    """
    found: list[Row] = []
    for report in reports:
        found.append(
            Row(
                report.stage,
                unit=report.unit,
                seconds=report.seconds,
                computed=report.computed,
                cached=report.cached,
                rate=round(report.computed / report.seconds, 2) if report.seconds else None,
                peak_memory=report.peak_memory,
                peak_gpu_memory=report.peak_gpu_memory,
            )
        )
        found += [Row(report.stage, step, seconds=s) for step, s in report.steps.items()]
    total = round(time.time() - psutil.Process().create_time(), 2)
    left = total - sum(row.seconds for row in found if not row.step)
    return [*found, Row("outside the stages", seconds=round(left, 2)), Row("total", seconds=total)]


def render(found: Sequence[Row]) -> str:
    """Return the rows as a table."""
    from tabulate import tabulate

    total = found[-1].seconds
    lines = [
        [
            f"  {row.step}" if row.step else f"{row.stage} {row.unit}".strip(),
            f"{row.seconds:.1f}",
            f"{100 * row.seconds / total:.0f} %" if total else "",
            _cell(row.computed, "{:,}"),
            _cell(row.cached, "{:,}"),
            _cell(row.rate, "{:,.1f}") if row.computed else "",
            _cell(row.peak_memory, "{:,.0f}", 2**20),
            _cell(row.peak_gpu_memory, "{:,.0f}", 2**20),
        ]
        for row in found
    ]
    columns = ["stage", "seconds", "share", "computed", "cached", "items/s", "peak MiB", "GPU MiB"]
    shown = [i for i in range(len(columns)) if i < 7 or any(line[i] for line in lines)]
    cells = [[line[i] for i in shown] for line in lines]
    align = ("left", *["right"] * (len(shown) - 1))
    headers = [columns[i] for i in shown]
    return tabulate(
        cells, headers, tablefmt="simple", disable_numparse=True, colalign=align,
        preserve_whitespace=True,
    )  # fmt: skip


def _cell(value: float | None, form: str, unit: int = 1) -> str:
    return "" if value is None else form.format(value if unit == 1 else value / unit)
