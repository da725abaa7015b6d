"""How benchmarks are presented: Markdown tables, under a line that describes the machine."""

import os
import platform
import threading
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from tabulate import tabulate

Size = Literal["small", "full"]
"""How much to measure: ``small`` keeps all of ``make bench`` below two minutes."""


def machine(*packages: str) -> str:
    """Return one line: processor, cores, memory, GPU, and versions of Python, torch, ``packages``.

    Packages that are not installed are left out.
    """
    memory = psutil.virtual_memory().total / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    parts = [
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch",
        f"{memory:.0f} GiB memory, {gpu}",
        f"Python {platform.python_version()}",
    ]
    for package in ("torch", *packages):
        try:
            parts.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(parts)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table under its ``title``; cells are printed as they are given."""
    lines = [[str(cell) for cell in row] for row in rows]
    align = ("left", *["right"] * (len(columns) - 1))
    text = tabulate(lines, columns, tablefmt="pipe", disable_numparse=True, colalign=align)
    return f"{title}\n\n{text}\n"


def extra_memory(run: Callable[[], Any]) -> int:
    """Return how many bytes of memory ``run`` takes at its peak beyond what was taken before.

    Files that are mapped into memory do not count. Sampled every millisecond; Linux only.
    """
    process, done = psutil.Process(), threading.Event()

    def taken() -> int:
        memory = process.memory_info()
        return int(memory.rss - memory.shared)

    before = peak = taken()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, taken())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return peak - before


def _processor() -> str:
    """Return the processor's name; Python's own answer is empty on most Linux systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
