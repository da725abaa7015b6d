"""What a large folder of one's own images costs when one image comes, and when nothing changes.

``make bench ARGS=folder``. Real small JPEG files, each with bytes of its own, are listed as always;
their features are synthetic, put through the real store. Commands run as a user runs them, in turns
with the same commands on a folder of one image, which is what starting and embedding cost anyway.
"""

import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from pipeline import config
from pipeline.config import Config
from pipeline.models import encoders
from pipeline.own import folder
from pipeline.own.folder import Folder
from pipeline.own.listing import update_listing
from pipeline.own.loaded import Images
from pipeline.run import StageReport
from pipeline.store.features import write_features
from tests.benchmarks.embed import save_model
from tests.benchmarks.report import Size, table

FILES = {"small": 20_000, "full": 100_000}
ROUNDS = 3
BROKEN = 100
"""Files among them that cannot be decoded."""
OLD = 1_000_000_000
"""The time of all files, so that they are settled."""


def tables(size: Size) -> Iterator[str]:
    """Yield the table."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        clip = config.load("demo").clip.model
        if size == "full":
            save_model("ViT-B-32", root / "model")
            clip = f"local-dir:{root / 'model'}"
        settings = {"clip.model": clip, "runtime.device": "cpu"}
        width = encoders.width(config.load("demo", settings).clip) or 0
        large, one = (_folder(root, what, settings) for what in ("large", "one"))
        count = FILES[size]
        logging.getLogger("seize").setLevel(logging.ERROR)
        _put(one.root / "one.jpg", -1)
        folder.index(one)
        _fill(large, count, width, one.features().header)
        folder.index(large)  # the broken ones are decoded here, once
        rows = list(_rows(large, one, settings))
    yield table(f"{count:,} files, {BROKEN} of them broken, {width} dimensions:", _COLUMNS, rows)


_COLUMNS = ("what", "here", "compared with", "ratio")


def _rows(large: Folder, one: Folder, settings: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    added = iter(range(-2, -100, -1))

    def add_one() -> None:
        _put(large.root / "new" / f"{next(added)}.jpg", next(added))
        assert _seize(large, settings)["computed"] == 1

    def alone() -> None:
        one.feature_file.unlink(missing_ok=True)
        assert _seize(one, settings)["computed"] == 1

    here, there = _in_turn(add_one, alone)
    yield _row("`seize index` when one image came", here, "of that image alone", there)
    unchanged, start = _in_turn(lambda: _seize(large, settings), lambda: _seize(one, settings))
    yield _row("`seize index` when nothing changed", unchanged, "of one image", start)
    yield "the same beyond that start", f"{unchanged - start:.2f} s", "", ""
    inside = min(_seconds(lambda: folder.index(large)) for _ in range(ROUNDS))
    bare = min(_seconds(lambda: _scan(large.root)) for _ in range(ROUNDS))
    yield _row("the index alone, in Python", inside, "reading all files' status", bare)
    opened = min(_seconds(lambda: Images(large)) for _ in range(ROUNDS))
    read = min(_seconds(large.feature_file.read_bytes) for _ in range(ROUNDS))
    yield _row("opening it for queries", opened, "reading the feature file", read)
    written = []
    for _ in range(8):
        _put(large.root / "new" / f"{next(added)}.jpg", next(added))
        before = psutil.Process().io_counters().write_chars
        folder.index(large)
        written.append(psutil.Process().io_counters().write_chars - before)
    whole = large.feature_file.stat().st_size
    mean = sum(written) / len(written)
    yield (
        "bytes written when one image came, mean of 8",
        f"{mean / 1000:.1f} kB",
        f"the feature file, {whole / 1e6:.0f} MB",
        f"{mean / whole:.5f}",
    )


def _row(what: str, here: float, beside: str, there: float) -> tuple[str, ...]:
    return what, f"{here:.2f} s", f"{beside}, {there:.2f} s", f"{here / there:.2f}"


def _in_turn(one: Callable[[], Any], other: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds of the quickest run of each."""
    times = [(_seconds(one), _seconds(other)) for _ in range(ROUNDS)]
    return min(time[0] for time in times), min(time[1] for time in times)


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _scan(root: Path) -> None:
    for place in os.scandir(root):
        if place.is_dir():
            for entry in os.scandir(place.path):
                entry.stat()


def _seize(where: Folder, settings: dict[str, Any]) -> dict[str, Any]:
    """Run ``seize index`` and return its report."""
    told = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pipeline", "index", str(where.root), "--config", "demo"),
            *("--cache", str(where.cache), *told, "--json"),
        ],
        check=True,
        capture_output=True,
    )
    report: dict[str, Any] = json.loads(done.stdout)[0]
    return report


def _folder(root: Path, name: str, settings: dict[str, Any]) -> Folder:
    (root / name).mkdir()
    chosen: Config = config.load("demo", settings)
    return folder.open_folder(root / name, chosen, root / f"{name}-cache")


def _fill(where: Folder, count: int, width: int, header: dict[str, Any]) -> None:
    """Write the files, list them, and give all but the broken ones a feature."""
    for number in range(count):
        _put(where.root / f"{number // 1000:03}" / f"IMG_{number:06}.jpg", number)
    broken = [where.root / "000" / f"IMG_{number:06}.jpg" for number in range(BROKEN)]
    for number, file in enumerate(broken):
        file.write_bytes(b"no image %d" % number)
        os.utime(file, (OLD, OLD))
    update_listing(where, StageReport("index", where.name, [], ""))
    names = [one for path, one in where.hashes().items() if not path.startswith("000/IMG_0000")]
    features = np.random.default_rng(0).standard_normal((len(names), width), np.float32)
    write_features(where.feature_file, names, features, header)


def _put(file: Path, number: int) -> None:
    """Write a small picture with bytes of its own behind it, which decoders do not read."""
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(_PICTURE + b"%d" % number)
    os.utime(file, (OLD, OLD))


def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(buffer, format="jpeg")
    return buffer.getvalue()


_PICTURE = _picture()
