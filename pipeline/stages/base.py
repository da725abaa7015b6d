"""What a stage declares: when a run needs it, what it does, what it makes and what it will cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.run import Run, StageReport
from pipeline.stages.rates import Work

ByQuery = Mapping[str, Sequence[str | None]]
"""Query id to its texts; None stands for one that failed."""
Check = Callable[[Run], None]
"""Raises the error that a stage would end in."""
Certainty = Literal["exact", "at most", "estimate"]


@dataclass(frozen=True)
class TextKind:
    """One kind of texts of a run's queries, which clues can be made from."""

    read: Callable[[Run], ByQuery]
    """Raises MissingStageError where the stage was not run."""
    name: str = ""
    header: Callable[[Run], dict[str, Any]] | None = None
    """What made the texts; its fingerprint stands under ``name`` in a ranking's header."""
    most: Callable[[Run], int] | None = None
    """How many texts there will be at most, told before they are made."""
    embedded: bool = True
    """Whether the embed stage embeds them; else they say something else to whoever reads them."""
    lacking: Callable[[Run], str | None] | None = None
    """What would make them, where this run has none: the end of "The method x needs …"."""


@dataclass(frozen=True)
class Line:
    """One quantity of a run: how much in all, and how much of it the cache holds already."""

    stage: str
    quantity: str
    total: int
    cached: int = 0
    certainty: Certainty = "exact"
    work: Work | None = field(default=None, compare=False)
    """What one of them costs a model, where they take time."""

    @property
    def todo(self) -> int:
        """What is left to compute."""
        return max(self.total - self.cached, 0)

    def as_json(self) -> dict[str, Any]:
        """Return the line as JSON-able data, without the work, which the plan's costs tell."""
        content = asdict(self) | {"todo": self.todo}
        del content["work"]
        return content


def always(_: Run) -> bool:
    """Say that every run needs the stage."""
    return True


def nothing(_: Run) -> list[Any]:
    """Return nothing: no reports, or no lines of a plan."""
    return []


@dataclass(frozen=True)
class Stage:
    """One stage: a file of ``pipeline/stages`` that declares it as ``STAGE``, or an entry point.

    It gets the command ``seize NAME``, and its place in `seize run` and `seize plan`. The command
    line reads every stage, so the module that declares it imports what is slow (torch, a model's
    library) inside its functions.
    """

    name: str
    help: str
    """What it does, in a sentence; paragraphs and an example may follow."""
    run: Callable[..., list[StageReport]] = nothing
    """Does what is not in the cache yet, of a ``Run``.

    Raises MissingStageError where a stage before it was not run. Takes ``retry_failed`` beside the
    run where the stage ``retries``.
    """
    after: tuple[str, ...] = ()
    """Names of stages that are run before it, where they are wanted."""
    before: tuple[str, ...] = ()
    """Names of stages that are run after it: ``embed``, for one that makes texts."""
    wanted: Callable[[Run], bool] = always
    """Whether `seize run` and `seize plan` of this run include it."""
    header: Callable[[Run], dict[str, Any]] | None = None
    """Everything that changes what it makes, for the file beside a submission."""
    sources: Mapping[str, Callable[[Run], Path]] = field(default_factory=dict)
    """What a ranking is made from, by what it is called in a report's provenance: its files."""
    texts: Mapping[str, TextKind] = field(default_factory=dict)
    """The kinds of texts that it makes, for clues to read."""
    plan: Callable[[Run], Sequence[Line]] = nothing
    """How much it has to do; loads no model and asks no server."""
    checks: tuple[Check, ...] = ()
    """What can be refused before any stage is run, without torch."""
    slow_checks: tuple[Check, ...] = ()
    """The same, with torch."""
    serves: Literal["llm", "verifier"] | None = None
    """The model that ``--serve`` starts vLLM with for this stage."""
    ready: Callable[[Run], object] = nothing
    """Raises MissingStageError for what must be there before minutes go into starting vLLM."""
    retries: str = ""
    """What ``--retry-failed`` does, where the stage has it."""
    shared: bool = False
    """Whether processes launched together share its work."""
    measure: Callable[[Run], dict[str, float]] | None = None
    """Returns metrics in percent, which `seize run` ends with."""

    def with_model(self, run: Run, model: str, url: str) -> Run:
        """Return the run with the ``model`` that the stage asks behind a server."""
        return run.with_llm(model, url) if self.serves == "llm" else run.with_verifier(model, url)
