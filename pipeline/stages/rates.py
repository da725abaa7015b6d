"""How long a stage will take and what memory it needs: by the user's own runs, else by estimates.

Every stage leaves what it took in the cache (``pipeline.timings``). Where there is nothing, the
operations and bytes that a model needs are divided by what the device does of each a second
(``rates.yaml``), of which a share is taken for reached; the larger of both times counts, as in a
roofline (Williams et al., CACM 2009).
"""

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline import timings
from pipeline.errors import ConfigError, nearest
from pipeline.yamls import read_yaml

if TYPE_CHECKING:
    from pipeline.run import Run

FILE = Path(__file__).resolve().parent / "rates.yaml"
NOT_TOLD = (None, None)
Kind = Literal["encode", "decode", "scan"]


class Device(BaseModel):
    """What a device does a second."""

    model_config = ConfigDict(extra="forbid")

    name: str
    seen_as: str = ""
    """What stands in the name that the driver gives it."""
    flops: float
    bandwidth: float
    memory: float
    source: str
    reached: dict[Kind, tuple[float, float]] = {}
    """The share that is taken for reached, where it differs from the others'."""


class Rates(BaseModel):
    """The content of ``rates.yaml``."""

    model_config = ConfigDict(extra="forbid")

    devices: dict[str, Device]
    reached: dict[Kind, tuple[float, float]]


@dataclass(frozen=True)
class Work:
    """What one item of a stage costs its model."""

    stage: str
    unit: str
    """What the stage's report calls the items."""
    model: str
    """What the plan calls the model."""
    kind: Kind
    operations: float | None
    """Floating-point operations an item; None where the model's size is untold."""
    streamed: float = 0.0
    """Weights that are read an item, where they are read again for every token."""
    weights: float | None = None
    """Parameters that are held in memory."""
    values: float = 0.0
    """Numbers that a batch holds beside them."""
    served: bool = False
    told: str = ""
    """What the model's size is told by."""


@dataclass(frozen=True)
class Cost:
    """What a stage will take for one kind of item. Seconds; bytes; None where it cannot be told."""

    stage: str
    unit: str
    model: str
    todo: int
    fastest: float | None
    slowest: float | None
    memory: float | None
    """On the device that computes, at most."""
    device: str
    source: str

    def as_json(self) -> dict[str, Any]:
        """Return the cost as JSON-able data."""
        return asdict(self)


@functools.cache
def table() -> Rates:
    """Return what ``rates.yaml`` says."""
    return Rates.model_validate(read_yaml(FILE))


def device_named(name: str) -> str:
    """Return a device of the table; raises ConfigError with the nearest one."""
    known = table().devices
    if name not in known:
        raise ConfigError(
            f"There is no device {name!r} in the table of rates.{nearest(name, known)}"
        )
    return name


def device_here(asked: str) -> tuple[str | None, str]:
    """Return the device that ``runtime.device`` comes to as the table and as the system call it.

    Without torch: by what NVIDIA's driver says. None for one that the table does not have.
    """
    if asked == "cpu":
        return "cpu", "the processor"
    if asked == "mps":
        return None, "Apple's GPU"
    if (seen := _gpu()) is None:
        return "cpu", "the processor"
    found = [key for key, one in table().devices.items() if one.seen_as and one.seen_as in seen]
    return (found[0] if found else None), seen


@functools.cache
def _gpu() -> str | None:
    """Return the name of this machine's first GPU by NVIDIA's driver; None where there is none."""
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with contextlib.suppress(OSError, UnicodeError):
            for line in file.read_text(encoding="utf-8").splitlines():
                if line.startswith("Model:"):
                    return line.partition(":")[2].strip()
    if (program := shutil.which("nvidia-smi")) is None:
        return None
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return next(iter(said.stdout.splitlines()), "").strip() or None
    return None


def cost(run: "Run", work: Work, todo: int, on: str | None = None) -> Cost:
    """Return what ``todo`` items will take; on the device ``on`` of the table, if one is named."""
    key, name = (on, table().devices[on].name) if on else device_here(run.config.runtime.device)
    name = "a server" if work.served and not on else name
    memory = None if work.served and not on else _memory(work, key)
    if not todo:
        return Cost(work.stage, work.unit, work.model, 0, 0.0, 0.0, None, name, "nothing to do")
    last = None if on else timings.last(run, work.stage, work.unit)
    times: tuple[float | None, float | None]
    if last is not None:
        seconds = todo * last.seconds / last.computed
        spread = 2 if last.computed < timings.FEW else 1
        times = seconds / spread, seconds * spread
        source = f"your last run: {last.computed:,} in {last.seconds:,.1f} s, {last.day}"
        memory = memory if last.gpu_memory is None else float(last.gpu_memory)
    else:
        times, source = _estimate(work, todo, None if work.served and not on else key)
    return Cost(work.stage, work.unit, work.model, todo, *times, memory, name, source)


def _estimate(
    work: Work, todo: int, key: str | None
) -> tuple[tuple[float | None, float | None], str]:
    if key is None:
        why = "a server's rate is its own" if work.served else "this device is not in the table"
        return NOT_TOLD, f"{why}: known after a run of yours (--limit 20), or by --on"
    if work.operations is None:
        return NOT_TOLD, "the model's size is not told: known after a run of yours (--limit 20)"
    device = table().devices[key]
    least, most = (table().reached | device.reached)[work.kind]
    threads = _threads() if key == "cpu" else 1
    bytes_read = work.streamed * _bytes(key)
    seconds = todo * max(work.operations / device.flops, bytes_read / device.bandwidth) / threads
    size = f"{work.weights / 1e9:.2g}B parameters by {work.told}" if work.weights else work.told
    of = f"{threads} threads of {device.name}" if key == "cpu" else device.name
    source = f"estimate: {', '.join(filter(None, (size, f'{least:.0%} to {most:.0%} of {of}')))}"
    return (seconds / most, seconds / least), source


def _bytes(key: str | None) -> int:
    return 4 if key == "cpu" else 2


def _memory(work: Work, key: str | None) -> float | None:
    return None if work.weights is None else (work.weights + work.values) * _bytes(key)


def _threads() -> int:
    """Return how many threads this process may use."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return int(named) if named.isdigit() and int(named) else allowed or 1


def total(costs: Sequence[Cost]) -> tuple[float, float]:
    """Return the seconds of all that are told, from and to."""
    return sum(one.fastest or 0.0 for one in costs), sum(one.slowest or 0.0 for one in costs)


def duration(seconds: float) -> str:
    """Return seconds as a person would say them."""
    for name, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return (
                f"{seconds / size:,.0f} {name}"
                if seconds >= 10 * size
                else (f"{seconds / size:.1f} {name}")
            )
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
