"""Attacks on what the pipeline keeps: every stage is killed, run out of disk, and more.

``python -m tests.campaigns.crash --kills 50`` runs each stage of the demo as a process on a small
world, does something bad to it, runs it again, and compares captions, edits, features, rankings,
verdicts, submissions and pages with those of an undisturbed run. Linux only.
"""

import contextlib
import itertools
import json
import multiprocessing
import operator
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from pipeline import cli
from pipeline.demo.build import build
from pipeline.errors import InputError, StorageError
from pipeline.own import settings
from pipeline.store.features import FeatureFile
from pipeline.store.jsonl import RecordFile
from tests.benchmarks.report import table
from tests.conftest import PROJECT, SIZES

SMALL_STEPS = ("caption_batch=1", "edit_batch=8", "embed_batch=8", "shard=16", "workers=2")
"""Runtime settings with which a stage stores what it has many times, so that kills hit it there."""
WRITES_RESULTS = {"search", "submit", "tune", "report", "query"}
"""Stages that write what they were asked for whenever they run; the others only what is missing."""
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
YEAR = 365 * 24 * 3600
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\+00:00)?")
CHANGING = {"created", "versions", "cost"}
"""Fields that say when, by what and at which cost, not what."""
ALIKE = 1e-5
"""How much features, scores and probabilities may differ: a stopped run goes on with other batches,
and sums of floats depend on them."""
DERIVED = (".columns.json", ".made-from", "timings.jsonl")
"""How files end that only repeat what others say, or how long it took."""
PAGE = 4096
"""Bytes by which a small disk fills up."""


@dataclass(frozen=True)
class Stage:
    """A command of the pipeline, and how long it took undisturbed."""

    name: str
    arguments: tuple[str, ...]
    seconds: float = 0.0
    changes: int = 0
    """How often it was seen to change a file."""
    written: int = 0
    """Bytes that it added."""
    printed: str = ""

    def command(self, work: Path) -> list[str]:
        """Return the arguments of the program for the folders below ``work``."""
        folders = ["--cache", str(work / "cache")]
        if self.name not in ("index", "query"):
            folders += ["--submissions", str(work / "submissions")]
        return [*(part.replace("{work}", str(work)) for part in self.arguments), *folders]


@dataclass(frozen=True)
class World:
    """Rendered data, and what an undisturbed run left after each of its stages."""

    data: Path
    folder: Path
    stages: list[Stage]

    @property
    def photos(self) -> Path:
        """A folder of images to be indexed."""
        return self.folder / "photos"

    def stage(self, name: str) -> Stage:
        """Return the stage of this name."""
        return next(stage for stage in self.stages if stage.name == name)

    def before(self, stage: Stage) -> Path:
        """What the stages before this one left."""
        place = [one.name for one in self.stages].index(stage.name)
        return self.folder / (self.stages[place - 1].name if place else "nothing")

    def after(self, stage: Stage) -> Path:
        """What there is after this stage."""
        return self.folder / stage.name


def commands(data: Path, photos: Path) -> list[Stage]:
    """Return the stages in their order."""
    run = ("--config", "demo", "--dataset", "circo", "--split", "val", "--data-root", str(data))
    small = tuple(part for text in SMALL_STEPS for part in ("--set", f"runtime.{text}"))
    reference = sorted(photos.iterdir())[0]
    question = ("query", str(reference), "has a dark background", "--gallery", str(photos))
    return [
        *(Stage(name, (name, *run, *small, "--json")) for name in ("caption", "edit", "embed")),
        Stage("search", ("search", *run, "--json")),
        Stage("verify", ("verify", *run, "--method", "seize", "--candidates", "8", "--json")),
        Stage("evaluate", ("evaluate", *run, "--json")),
        Stage("submit", ("submit", *run, "--json")),
        Stage("tune", ("tune", *run, "--out", "{work}/outputs", "--json")),
        Stage("report", ("report", *run, "--out", "{work}/outputs/report.html", "--json")),
        Stage("index", ("index", str(photos), "--config", "demo", *small, "--json")),
        Stage("query", (*question, "--config", "demo", "--out", "{work}/outputs/q.html", "--json")),
    ]


FORKS = multiprocessing.get_context("forkserver")
"""Processes begin as copies of one that has imported what all stages need: that saves seconds."""
FORKS.set_forkserver_preload(
    [
        *(
            "pipeline.cli",
            "pipeline.stages.everything",
            "pipeline.models.encoders._open_clip",
            "pipeline.models.captioners._blip2",
        ),
        *(
            "pipeline.models.llms._transformers",
            "pipeline.models.verifiers._transformers",
            "pipeline.study.tune",
            "pipeline.pages.report",
        ),
    ]
)


def _command(arguments: list[str], output: str, errors: str) -> None:
    """Be ``python -m pipeline ARGUMENTS``, in a process group of its own."""
    os.setsid()
    for number, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.chdir(PROJECT)
    cli.main(arguments, prog_name="seize")


class Process:
    """A stage that runs on the folders below ``work``."""

    def __init__(self, stage: Stage, work: Path) -> None:
        self._files = [tempfile.NamedTemporaryFile() for _ in range(2)]  # noqa: SIM115
        command = stage.command(work), *(file.name for file in self._files)
        self._process = FORKS.Process(target=_command, args=command)
        self._process.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def kill(self) -> None:
        """SIGKILL it and all processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)

    def wait(self) -> tuple[int, str, str]:
        """Return its exit status, and what it wrote on standard output and standard error."""
        self._process.join()
        output, errors = (file.read().decode() for file in self._files)
        return self._process.exitcode or 0, output, errors.replace("\r", "\n")


def with_clock(stage: Stage, work: Path, seconds: int) -> None:
    """Run the stage to its end with the clock this much ahead, where the means are there."""
    environment = {"FAKETIME": f"{seconds:+}s", "LD_PRELOAD": str(FAKETIME)}
    if not FAKETIME.exists():
        environment = {}
    subprocess.run(
        [sys.executable, "-m", "pipeline", *stage.command(work)],
        cwd=PROJECT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
        check=True,
        capture_output=True,
    )


def finish(stage: Stage, work: Path) -> tuple[str, str]:
    """Run the stage to its end; return what it printed and said."""
    status, printed, said = Process(stage, work).wait()
    if status != 0:
        raise AssertionError(f"{stage.name} ended with {status}:\n{said}")
    return printed, said


def prepare(folder: Path, names: Sequence[str] = ()) -> World:
    """Render the world and run all stages undisturbed, or these; keep what is there after each."""
    data = build(folder / "data", sizes=SIZES)
    photos = folder / "photos"
    images = sorted((data / "CIRCO").rglob("*.jpg"))[:60]
    photos.mkdir()
    for image in images:
        shutil.copy(image, photos)
        os.utime(photos / image.name, (time.time() - 60,) * 2)
    work, done = folder / "work", []
    for name in ("work/cache", "work/submissions", "work/outputs"):
        (folder / name).mkdir(parents=True)
    shutil.copytree(work, folder / "nothing")
    chosen = [stage for stage in commands(data, photos) if not names or stage.name in names]
    for stage in chosen:
        size, start = _bytes(work), time.monotonic()
        process, seen, changes = Process(stage, work), _state(work), 0
        while process.running:
            if (now := _state(work)) != seen:
                seen, changes = now, changes + 1
            time.sleep(0.002)
        status, printed, said = process.wait()
        if status != 0:
            raise AssertionError(f"{stage.name} ended with {status}:\n{said}")
        seconds, written = time.monotonic() - start, max(_bytes(work) - size, 0)
        done.append(Stage(stage.name, stage.arguments, seconds, changes, written, printed))
        shutil.copytree(work, folder / stage.name)
    shutil.rmtree(work)
    return World(data, folder, done)


def _state(folder: Path) -> list[tuple[str, int]]:
    """Return every file below ``folder`` with its size; locks do not count."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if not name.endswith(".lock"):
                    found.append((os.path.join(parent, name), os.stat(f"{parent}/{name}").st_size))
    return sorted(found)


def _bytes(folder: Path) -> int:
    return sum(size for _, size in _state(folder))


@contextlib.contextmanager
def copied(source: Path, target: Path) -> Iterator[Path]:
    """Yield a copy of ``source`` at ``target``, to be spoilt."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    try:
        yield target
    finally:
        shutil.rmtree(target, ignore_errors=True)


Contents = dict[str, Any]


def contents(work: Path) -> Contents:
    """Return what the files below ``work`` say, by their names, without times."""
    found: Contents = {}
    for file in sorted(file for file in work.rglob("*") if file.is_file()):
        name = str(file.relative_to(work))
        if file.suffix == ".lock" or file.name.endswith(DERIVED):
            continue
        if file.suffix == ".safetensors":
            features = FeatureFile(file)
            found[name] = features.names, features.all()
        elif file.suffix == ".jsonl":
            header, *records = map(json.loads, file.read_text(encoding="utf-8").splitlines())
            texts = {json.dumps(record): record for record in records}
            # A question that is asked twice at once is answered twice; nothing else is doubled.
            count = 0 if "queries" in name else len(records)
            kept = [_timeless(texts[text]) for text in sorted(texts)]
            found[name] = _timeless(header["header"]), count, kept
        elif file.suffix == ".json":
            found[name] = _timeless(json.loads(file.read_text(encoding="utf-8")))
        elif file.suffix == ".png":
            found[name] = file.read_bytes()
        else:  # pages name what they were made from
            found[name] = TIME.sub("TIME", file.read_text(encoding="utf-8"))
    return found


def _timeless(content: Any) -> Any:
    if isinstance(content, dict):
        kept = {k: v for k, v in content.items() if k not in CHANGING and not _is_checksum(k)}
        return {k: _timeless(v) for k, v in kept.items()}
    return content


def differences(found: Contents, expected: Contents) -> list[str]:
    """Return what differs, in words."""
    said = [f"{name} is there" for name in sorted(found.keys() - expected.keys())]
    said += [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    for name in sorted(found.keys() & expected.keys()):
        one, other = found[name], expected[name]
        if not _alike(one, other):
            said.append(f"{name} differs")
    return said


def _alike(one: Any, other: Any) -> bool:
    """Return whether two contents are the same, but for what rounding does to floats."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and _alike(list(one.values()), list(other.values()))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float | np.ndarray) and isinstance(other, float | np.ndarray):
        return np.shape(one) == np.shape(other) and np.allclose(one, other, rtol=0, atol=ALIKE)
    return bool(one == other)


@dataclass
class Tally:
    """What became of one stage under one attack."""

    stage: str
    attacked: int = 0
    at_work: int = 0
    """Attacks that hit the stage between its first change of a file and its end."""
    runs: int = 0
    """Runs that it took until the end, after the attack."""
    wrong: list[str] = field(default_factory=list)

    def check(self, world: World, stage: Stage, work: Path) -> None:
        """Compare ``work`` with what the undisturbed stage left."""
        wrong = differences(contents(work), contents(world.after(stage)))
        self.wrong += [f"{stage.name}: {text}" for text in wrong]


def disturb(stage: Stage, work: Path, rng: random.Random, by_change: bool) -> int | None:
    """Start the stage and kill it at a moment of its time, or within 5 ms of a change of files.

    Returns how many changes there were; None where it ended before.
    """
    moment = rng.random() * stage.seconds
    until = rng.randint(1, stage.changes) if by_change and stage.changes else None
    seen, start, changes = _state(work), time.monotonic(), 0
    process = Process(stage, work)
    while process.running:
        if (now := _state(work)) != seen:
            seen, changes = now, changes + 1
        if time.monotonic() - start > moment if until is None else changes >= until:
            break
        time.sleep(0.001)
    if until is not None:
        time.sleep(0.005 * rng.random())
    process.kill()
    return changes if process.wait()[0] == -signal.SIGKILL else None


def kill(
    world: World, stage: Stage, work: Path, rng: random.Random, tally: Tally, by_change: bool
) -> bool:
    """Kill the stage as ``disturb`` does and run it again; return whether it was hit."""
    with copied(world.before(stage), work):
        changes = disturb(stage, work, rng, by_change)
        if changes is None:
            return False
        tally.attacked += 1
        tally.at_work += changes > 0
        printed, _ = finish(stage, work)
        tally.runs += 1
        tally.check(world, stage, work)
        if stage.name == "evaluate" and printed != stage.printed:
            tally.wrong.append("evaluate printed something else")
        return True


def kills(world: World, work: Path, count: int, rng: random.Random) -> Iterator[Tally]:
    """Kill each stage some times, those that store more, more often: ``count`` in all.

    Half of the moments are spread over a stage's time, half over its changes of files.
    """
    often = {"caption", "edit", "embed", "verify", "index"}
    weights = [2 if stage.name in often else 1 for stage in world.stages]
    shares = [round(count * sum(weights[:place]) / sum(weights)) for place in range(12)]
    for stage, (first, last) in zip(world.stages, itertools.pairwise(shares), strict=True):
        tally = Tally(stage.name)
        for _ in range(4 * (last - first)):
            if tally.attacked < last - first:
                kill(world, stage, work, rng, tally, by_change=rng.random() < 0.5)
        yield tally


def chain(world: World, work: Path, rng: random.Random) -> Tally:
    """Run all stages one after the other, each killed once on the way, and compare the end."""
    tally = Tally("all, in a row")
    with copied(world.folder / "nothing", work):
        for stage in world.stages:
            changes = disturb(stage, work, rng, by_change=True)
            tally.attacked += changes is not None
            tally.at_work += bool(changes)
            finish(stage, work)
            tally.runs += 1
        tally.check(world, world.stages[-1], work)
    return tally


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int = 64) -> Iterator[Path]:
    """Mount a file system in memory at ``folder``; raises OSError where that is not allowed."""
    folder.mkdir(exist_ok=True)
    options = f"size={megabytes}m"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"no file system can be mounted here ({done.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int) -> Path:
    """Fill the disk but for ``left`` bytes; return the file that does so."""
    ballast = folder / "ballast"
    with ballast.open("wb") as stream:
        status = os.statvfs(folder)
        os.posix_fallocate(stream.fileno(), 0, max(status.f_bavail * status.f_frsize - left, 1))
    return ballast


def one_line(said: str, tally: Tally) -> None:
    """Note a wrong error: it must be one line that says what to do."""
    lines = [line for line in said.splitlines() if line.startswith(("Error", "Traceback"))]
    if len(lines) != 1 or not lines[0].startswith("Error: Cannot write "):
        tally.wrong.append(f"{tally.stage} said: {said[-500:]}")


def full_disk(world: World, work: Path, stage: Stage, rng: random.Random) -> Tally:
    """Let the disk run full in the middle of a stage, make room, and run the stage again."""
    tally = Tally(stage.name)
    with small_disk(work), copied(world.before(stage), work / "files") as files:
        left = rng.randrange(0, max(stage.written, PAGE), PAGE)
        ballast = fill(work, left)
        status, _, said = Process(stage, files).wait()
        tally.attacked += 1
        if status == StorageError.exit_code:
            tally.at_work += 1
            one_line(said, tally)
        elif status != 0 or (stage.name in WRITES_RESULTS and left == 0):
            tally.wrong.append(f"{stage.name} ended with {status} on a full disk: {said[-500:]}")
        ballast.unlink()
        finish(stage, files)
        tally.runs += 1
        tally.check(world, stage, files)
    return tally


def read_only(world: World, work: Path, stage: Stage) -> Tally:
    """Run a stage on a cache that may only be read: first without its results, then with them."""
    tally = Tally(stage.name)
    for source in (world.before(stage), world.after(stage)):
        with small_disk(work), copied(source, work / "files") as files:
            complete = source == world.after(stage)
            outside = world.folder / "outside"
            shutil.copytree(files, outside)
            shutil.rmtree(outside / "cache")
            (outside / "cache").symlink_to(files / "cache")
            subprocess.run(["mount", "-o", "remount,ro", str(work)], check=True)
            try:
                status, _, said = Process(stage, outside).wait()
            finally:
                subprocess.run(["mount", "-o", "remount,rw", str(work)], check=True)
                (outside / "cache").unlink()
                shutil.rmtree(outside)
            tally.attacked += 1
            writes = stage.name == "search" or not complete
            writes &= stage.name not in {"evaluate", "submit", "tune", "report"}
            tally.at_work += status == StorageError.exit_code
            if status != (StorageError.exit_code if writes else 0):
                tally.wrong.append(f"{stage.name} ended with {status}: {said[-500:]}")
            elif writes:
                one_line(said, tally)
            tally.wrong += differences(contents(files / "cache"), contents(source / "cache"))
    return tally


def clock(world: World, work: Path, stage: Stage, rng: random.Random) -> Tally:
    """Kill a stage, and run it again with the clock a year back: all files are from the future."""
    tally = Tally(stage.name)
    with copied(world.before(stage), work):
        tally.attacked += 1
        tally.at_work += disturb(stage, work, rng, by_change=True) is not None
        for file in work.rglob("*"):
            os.utime(file, (time.time() + YEAR,) * 2)
        with_clock(stage, work, -YEAR)
        tally.runs += 1
        tally.check(world, stage, work)
    return tally


def twice(world: World, work: Path, stage: Stage) -> Tally:
    """Start a stage twice at once on one cache; what is stored item by item is computed once."""
    tally = Tally(stage.name)
    with copied(world.before(stage), work):
        both = [Process(stage, work) for _ in range(2)]
        ended = [process.wait() for process in both]
        tally.attacked, tally.at_work, tally.runs = 1, 1, 2
        for status, _, said in ended:
            if status != 0:
                tally.wrong.append(f"{stage.name} ended with {status}: {said[-500:]}")
        if not tally.wrong and stage.name in {"caption", "edit", "embed", "verify", "index"}:
            made, wanted = sum(_computed(printed) for _, printed, _ in ended), stage.printed
            if made != _computed(wanted):
                tally.wrong.append(f"{stage.name} computed {made}, not {_computed(wanted)}")
        tally.check(world, stage, work)
    return tally


def _computed(printed: str) -> int:
    """Return how many items a stage says it computed."""
    content = json.loads(printed)
    reports = content if isinstance(content, list) else content.get("stages", [content])
    return sum(report["computed"] for report in reports)


def flips(world: World, work: Path, count: int, rng: random.Random) -> Iterator[Tally]:
    """Flip a random bit in a copy of each feature and record file: it is found by reading.

    Then the stage that made the file ends with what it was before; it names what it had to read.
    """
    for stage in world.stages:
        if stage.name not in {"caption", "edit", "embed", "verify", "index"}:
            continue
        old = {name for name, _ in _relative(world.before(stage))}
        made = [
            name
            for name, _ in _relative(world.after(stage))
            if name not in old and not name.endswith(DERIVED)
        ]
        for name in made:
            tally = Tally(f"{stage.name}: {Path(name).parent.name}/*{Path(name).suffix}")
            with copied(world.after(stage), work):
                file = work / name
                whole = file.read_bytes()
                right = _read(file)
                for _ in range(count):
                    _flip(file, whole, rng)
                    tally.attacked += 1
                    try:
                        if not _alike(_read(file), right):
                            tally.wrong.append(f"a flipped bit of {name} was not noticed")
                    except InputError as error:
                        tally.at_work += str(file) in str(error)
                _flip(file, whole, rng)
                _, said = finish(stage, work)
                tally.attacked += 1
                tally.runs += 1
                tally.at_work += str(file) in said
                tally.check(world, stage, work)
            yield tally


def _relative(folder: Path) -> list[tuple[str, int]]:
    return [(os.path.relpath(name, folder), size) for name, size in _state(folder)]


def _read(file: Path) -> Any:
    """Return what the pipeline reads from a file of the cache."""
    if file.name == settings.REMEMBERED:
        return settings.read(file)
    if file.suffix == ".safetensors":
        features = FeatureFile(file)
        return features.names, features.all(), features.header
    records = RecordFile(file, {}).read()
    # That the name of the checksum is damaged does no harm: nothing reads a field of another name.
    return [
        {name: value for name, value in record.items() if not _is_checksum(name)}
        for record in records
    ]


def _is_checksum(name: str) -> bool:
    """Return whether ``name`` is that of the checksum, but for one character."""
    return len(name) == 8 and sum(map(operator.ne, name, "checksum")) <= 1


def _flip(file: Path, whole: bytes, rng: random.Random) -> None:
    changed = bytearray(whole)
    changed[rng.randrange(len(whole) - 1)] ^= 1 << rng.randrange(8)
    file.write_bytes(changed)


ATTACKS = ("kills", "disk", "read-only", "clock", "twice", "flips")
TITLES = {
    "kills": "SIGKILL at random moments, then run again",
    "disk": "Disk full (a file system in memory), then room is made",
    "read-only": "Cache that may only be read: without the stage's results, and with them",
    "clock": "Killed, all files a year ahead, and run again with the clock a year back",
    "twice": "The same stage twice at once",
    "flips": "A bit flipped in a file of the cache",
}
COLUMNS = {
    "kills": ("kills", "after the first write", "runs to the end"),
    "disk": ("runs", "ended with one line and code 6", "runs to the end"),
    "read-only": ("runs", "ended with one line and code 6", ""),
    "clock": ("runs", "killed", "runs to the end"),
    "twice": ("pairs", "", "runs to the end"),
    "flips": ("flips", "named", "runs to the end"),
}


def attack(name: str, world: World, work: Path, count: int, rng: random.Random) -> Iterator[Tally]:
    """Yield what came of an attack, stage by stage; raises OSError where it cannot be tried."""
    each: dict[str, Callable[[Stage], Tally]] = {
        "disk": lambda stage: full_disk(world, work, stage, rng),
        "read-only": lambda stage: read_only(world, work, stage),
        "clock": lambda stage: clock(world, work, stage, rng),
        "twice": lambda stage: twice(world, work, stage),
    }
    if name == "kills":
        yield from kills(world, work, count, rng)
        yield chain(world, work, rng)
    elif name == "flips":
        yield from flips(world, work, 200, rng)
    else:
        yield from map(each[name], world.stages)


@click.command()
@click.option("--kills", "count", default=50, show_default=True, help="over all stages")
@click.option("--seed", default=0, show_default=True, help="of the random moments and places")
@click.option("--attack", "names", multiple=True, type=click.Choice(ATTACKS), help="only these")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def main(count: int, seed: int, names: Sequence[str], as_json: bool) -> None:
    """Attack every stage, and print a Markdown table an attack; exit 1 where anything differs.

    Example: python -m tests.campaigns.crash --kills 50 --seed 1
    """
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="seize-crash-") as folder:
        world = prepare(Path(folder))
        for name in names or ATTACKS:
            start, rng = time.monotonic(), random.Random(f"{seed} {name}")
            try:
                tallies = []
                for tally in attack(name, world, Path(folder) / "work", count, rng):
                    tallies.append(tally)
                    click.echo(f"{name}: {tally.stage}, {tally.attacked}", err=True)
            except OSError as error:
                result[name] = {"skipped": str(error)}
                click.echo(f"{TITLES[name]}: skipped, {error}\n", err=as_json)
                continue
            seconds = time.monotonic() - start
            result[name] = {"seconds": round(seconds), "stages": [vars(t) for t in tallies]}
            rows = [
                (t.stage, t.attacked, t.at_work, t.runs, "no" if t.wrong else "yes")
                for t in tallies
            ]
            sums = [sum(row[column] for row in rows) for column in (1, 2, 3)]  # type: ignore[misc]
            rows.append(("together", *sums, "no" if any(t.wrong for t in tallies) else "yes"))
            kept = [0, *(1 + i for i, title in enumerate(COLUMNS[name]) if title), 4]
            head = ("stage", *COLUMNS[name], "equal")
            title = f"{TITLES[name]} ({seconds / 60:.0f} minutes)"
            shown = [[str(row[column]) for column in kept] for row in rows]
            click.echo(table(title, [head[column] for column in kept], shown), err=as_json)
            for tally in tallies:
                for wrong in tally.wrong:
                    click.echo(f"- {wrong}", err=True)
    if as_json:
        click.echo(json.dumps(result))
    failed = any(t["wrong"] for attacked in result.values() for t in attacked.get("stages", ()))
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
