"""How long a command takes until it says something, or is done, beside Python and torch alone.

``make bench ARGS=startup``. Every command is a process of its own, all in turn, so that what else
the machine does meets each; the median counts. What else is done there makes seconds longer, and
those of the processor hardly. The stages find all of a small run in the cache.
"""

import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.demo.build import build
from tests.app_server import Served
from tests.benchmarks.report import Size, table

ROUNDS = {"small": 3, "full": 9}
QUERIES = "20"
STAGES = ("caption", "edit", "embed", "search", "submit", "evaluate")
PASS, TORCH = "`python -c pass`", "`python -c 'import torch'`"
FIRST_WORD = "its first word"
TEXT = "has a dark background"


def tables(size: Size) -> Iterator[str]:
    """Yield the table: seconds, and their ratio to Python's own start."""
    data = Path("data/demo")
    data.parent.mkdir(parents=True, exist_ok=True)
    build(data)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        photos = _photos(data, place / "photos")
        page = Served(photos, place / "cache")
        try:
            commands = _commands(data, photos, place)
            for words in commands.values():  # what is computed once, and what the disk holds
                _timed(words, first=False)
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
            for _ in range(ROUNDS[size]):
                for name, words in commands.items():
                    found[name].append(_timed(words, first=name.endswith(FIRST_WORD)))
        finally:
            page.stop()
    median = {
        name: [statistics.median(each) for each in zip(*timed, strict=True)]
        for name, timed in found.items()
    }
    rows = [
        (
            name,
            f"{seconds:.2f}",
            f"{busy:.2f}",
            f"{seconds / median[TORCH][0]:.2f}",
            "" if name.endswith(FIRST_WORD) else f"{busy - median[TORCH][1]:+.2f}",
        )
        for name, (seconds, busy) in median.items()
    ]
    header = (
        "command",
        "seconds",
        "of the processor",
        "seconds / importing torch",
        "of the processor, beyond importing torch",
    )
    yield table(f"{ROUNDS[size]} rounds, the median:", header, rows)


def _photos(data: Path, folder: Path) -> Path:
    """Return a folder of 200 of the world's pictures."""
    folder.mkdir()
    for picture in sorted((data / "CIRCO").rglob("*.jpg"))[:200]:
        shutil.copy(picture, folder)
    return folder


def _commands(data: Path, photos: Path, place: Path) -> dict[str, list[str]]:
    seize = [sys.executable, "-m", "pipeline", "--quiet"]
    run = ["--dataset", "circo", "--data-root", str(data), "--config", "demo", "--limit", QUERIES]
    run += ["--cache", str(place / "stages"), "--submissions", str(place / "submissions")]
    own = ["--gallery", str(photos), "--config", "demo", "--cache", str(place / "cache")]
    picture = str(next(iter(sorted(photos.iterdir()))))
    asked = [sys.executable, "-m", "pipeline", "query", picture, TEXT, *own]
    return {
        PASS: [sys.executable, "-c", "pass"],
        TORCH: [sys.executable, "-c", "import torch"],
        "`seize --help`": [*seize, "--help"],
        "`seize query --help`": [*seize, "query", "--help"],
        "`seize index` of what is no folder": [*seize, "index", "/no/folder"],
        "`seize query` of what is no image": [*seize, "query", "/no/image.png", TEXT, *own],
        "`seize plan`": [*seize, "plan", *run],
        **{f"`seize {stage}`, all in the cache": [*seize, stage, *run] for stage in STAGES},
        "`seize query` where a page runs": asked,
        f"`seize query --no-app`, {FIRST_WORD}": [*asked, "--no-app"],
        "`seize query --no-app`, its answer from the cache": [*asked, "--no-app"],
    }


def _timed(words: list[str], first: bool) -> tuple[float, float]:
    """Return the seconds until a command says something, or ends, and those of the processor."""
    before = _busy()
    start = time.perf_counter()
    passed = 0.0
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        if first:
            process.stdout.read(1)
            passed = time.perf_counter() - start
        process.stdout.read()
    passed = passed if first else time.perf_counter() - start
    return passed, _busy() - before


def _busy() -> float:
    """Return the processor's seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
