"""What the doctor examines, and what it finds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.datasets.base import Dataset

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What one check found, and what to do about it where something is wrong."""

    part: str
    """Installation, device, model, dataset, server or cache."""
    name: str
    status: Status
    found: str
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the finding as JSON-able data."""
        return asdict(self)

    def render(self) -> str:
        """Return the finding as one line, and one more for what to do."""
        line = f"{self.status:<8} {self.part:<13} {self.name}: {self.found}"
        return f"{line}\n{'':22} -> {self.fix}" if self.fix else line


def usable(findings: Sequence[Finding]) -> bool:
    """Return whether nothing that was found stands in the way."""
    return all(finding.status != "problem" for finding in findings)


@dataclass
class Patient:
    """What is examined: the run's options as given, and what they were read as, where they can."""

    preset: str
    overrides: dict[str, Any]
    dataset: str | None
    split: str | None
    data_root: Path
    cache: Path
    load: bool = False
    """Whether to load every local model, which takes its memory."""
    config: "Config | None" = None
    datasets: "list[Dataset]" = field(default_factory=list)


def in_words(count: float) -> str:
    """Return a number of bytes in words."""
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"
