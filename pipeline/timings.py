"""What stages took, kept in the cache for the plan of the next run."""

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from pipeline.run import Run, StageReport

FILE = "timings.jsonl"
"""The file of a cache with what its stages took."""
FEW = 32
"""Items below which a rate says little."""
LOADING = "load the model"
"""The step of a stage that its rate leaves out."""
SECTIONS = {
    "caption": "captioner",
    "edit": "llm",
    "decompose": "llm",
    "embed": "encoder",
    "verify": "verifier",
    "search": "search",
    "synthesize": "llm",
}
"""The section of the configuration that a stage's rate depends on."""
TOO = {"synthesize": "synthesize"}
"""A further section that it depends on, by the stage."""
BESIDE = {"seed", "revision", "url"}
"""Fields of it that it does not depend on."""


class Timing(BaseModel):
    """What one run of a stage computed, and the seconds that it took."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    stage: str
    unit: str
    about: dict[str, Any]
    """The settings that the rate depends on."""
    computed: int
    seconds: float
    gpu_memory: int | None = None
    """The most bytes that the GPU held, where the run was profiled."""
    day: str


def keep(run: "Run", report: "StageReport") -> None:
    """Keep what a stage took; a cache that cannot be written keeps nothing."""
    seconds = report.seconds - report.steps.get(LOADING, 0.0)
    if not report.computed or seconds <= 0:
        return
    line = Timing(
        stage=report.stage,
        unit=report.unit,
        about=_about(run, report.stage),
        computed=report.computed,
        seconds=round(seconds, 4),
        gpu_memory=report.peak_gpu_memory,
        day=time.strftime("%Y-%m-%d"),
    )
    with contextlib.suppress(OSError), _file(run).open("a", encoding="utf-8") as stream:
        stream.write(line.model_dump_json() + "\n")  # one write: lines of two processes do not mix


def last(run: "Run", stage: str, unit: str) -> Timing | None:
    """Return what the last run of a stage with these settings took; None where none is kept."""
    about = _about(run, stage)
    with contextlib.suppress(OSError):
        for line in reversed(_file(run).read_bytes().splitlines()):
            with contextlib.suppress(ValidationError):  # torn, or of another version
                found = Timing.model_validate_json(line)
                if (found.stage, found.unit, found.about) == (stage, unit, about):
                    return found
    return None


def _file(run: "Run") -> Path:
    return run.cache / FILE


def _about(run: "Run", stage: str) -> dict[str, Any]:
    section = getattr(run.config, SECTIONS.get(stage, ""), None)
    told = section.model_dump(mode="json", exclude=BESIDE) if section is not None else {}
    if stage in TOO:
        told[TOO[stage]] = getattr(run.config, TOO[stage]).model_dump(mode="json", exclude=BESIDE)
    about: dict[str, Any] = json.loads(json.dumps(told | {"device": run.config.runtime.device}))
    return about
