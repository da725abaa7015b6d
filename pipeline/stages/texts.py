"""The kinds of texts that clues are made from: where each comes from and which stage makes it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.models.prompts import edit as prompts
from pipeline.retrieval import methods
from pipeline.run import Run
from pipeline.stages import caption, edit
from pipeline.store.identity import fingerprint

ByQuery = Mapping[str, Sequence[str | None]]
"""Query id to its texts; None stands for one that failed."""


@dataclass(frozen=True)
class TextKind:
    """One kind of texts of a run's queries."""

    read: Callable[[Run], ByQuery]
    """Raises MissingStageError where the stage was not run."""
    stage: str | None = None
    """The stage that makes it, None where the dataset has it."""
    name: str = ""
    header: Callable[[Run], dict[str, Any]] | None = None
    """What made the texts; its fingerprint stands under ``name`` in a ranking's header."""


def _relative(run: Run) -> ByQuery:
    return {query.id: run.relative_captions(query) for query in run.queries}


def _parts(run: Run) -> ByQuery:
    return {query.id: query.relative_captions for query in run.queries}


def _role(name: str) -> TextKind:
    def read(run: Run) -> ByQuery:
        return {query: said[name] for query, said in edit.read_roles(run).items()}

    return TextKind(read, "edit", "edits", edit.header)


KINDS: dict[str, TextKind] = {
    "relative_captions": TextKind(_relative),
    "relative_parts": TextKind(_parts),
    "captions": TextKind(caption.read, "caption", "captions", caption.header),
    "edits": TextKind(edit.read, "edit", "edits", edit.header),
    **{role: _role(role) for role in prompts.ROLES},
}
NEEDED_FIRST: dict[str, tuple[str, ...]] = {"edit": ("caption",)}
"""Stages that another one needs."""


def lacking(run: Run) -> dict[str, str]:
    """Return the kinds of texts that this run has none of, and what would make them."""
    if edit.asks_for_roles(run):
        return {}
    how = "edits with roles: edit with --prompt roles, or another prompt that has `answer: roles`."
    return dict.fromkeys(prompts.ROLES, how)


def selection(run: Run) -> list[str]:
    """Return the run's methods; raises ConfigError, see ``methods.selection``."""
    unmade = methods.lacking(run.config, run.dataset.name)
    return methods.selection(run.config.search.method, lacking(run) | unmade)


def reads(run: Run) -> set[str]:
    """Return the kinds of texts that the run's methods, and its verifier, are about."""
    found: set[str] = set()
    for name in selection(run):
        found |= methods.reads(name)
        if name != methods.base(name) and verified_by_edits(run):
            found |= {"captions", "edits"}
    return found


def verified_by_edits(run: Run) -> bool:
    """Whether the verifier's question is about edited captions."""
    from pipeline.models.prompts import verify as questions

    return "edited_caption" in questions.load(run.config.verifier.prompt).variables


def stages(run: Run) -> set[str]:
    """Return the stages that make texts and that the run's methods need."""
    found = {stage for kind in reads(run) if (stage := KINDS[kind].stage)}
    return found | {first for stage in found for first in NEEDED_FIRST.get(stage, ())}


def headers(run: Run, kinds: Iterable[str]) -> dict[str, str]:
    """Return the fingerprints of what made these kinds of texts, for a ranking's header."""
    found = [KINDS[kind] for kind in sorted(kinds)]
    return {kind.name: fingerprint(kind.header(run)) for kind in found if kind.header}


def embedded(run: Run) -> list[str]:
    """Return every text that the embed stage embeds, once, kind by kind in query order.

    Those of the run's methods, and what else the same stages made. Raises MissingStageError where
    one of these stages is not complete.
    """
    wanted, made_by = reads(run), stages(run)
    chosen = [
        kind
        for name, kind in KINDS.items()
        if name in wanted or (kind.stage in made_by and name not in lacking(run))
    ]
    found: dict[str, None] = {}
    for kind in chosen:
        texts = kind.read(run)
        for query in run.queries:
            found |= dict.fromkeys(text for text in texts.get(query.id, ()) if text is not None)
    return list(found)
