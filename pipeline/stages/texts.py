"""The kinds of texts that clues are made from: where each comes from and which stage makes it."""

import functools
from collections.abc import Iterable

from pipeline.config import encoder_of
from pipeline.models.composers.phrases import entities
from pipeline.retrieval import methods
from pipeline.run import Run
from pipeline.stages import known
from pipeline.stages.base import ByQuery, TextKind
from pipeline.store.identity import fingerprint


def _relative(run: Run) -> ByQuery:
    return {query.id: run.relative_captions(query) for query in run.queries}


def _parts(run: Run) -> ByQuery:
    return {query.id: query.relative_captions for query in run.queries}


def _entities(run: Run) -> ByQuery:
    return {query.id: entities(*query.relative_captions) for query in run.queries}


def _concepts(run: Run) -> ByQuery:
    told = run.config.dataset.shared_concept
    return {query.id: (query.shared_concept or "",) if told else () for query in run.queries}


@functools.cache
def kinds() -> dict[str, TextKind]:
    """Return every kind of texts by name: the dataset's own, then stage by stage in their order."""
    made = {name: kind for stage in known().values() for name, kind in stage.texts.items()}
    own = {
        "relative_captions": TextKind(_relative),
        "relative_parts": TextKind(_parts),
        "entities": TextKind(_entities),
        "shared_concepts": TextKind(_concepts),
    }
    return own | made


@functools.cache
def _makers() -> dict[str, str]:
    """Return the stage that makes each kind of texts; the dataset's own has none."""
    return {kind: stage.name for stage in known().values() for kind in stage.texts}


def lacking(run: Run) -> dict[str, str]:
    """Return the kinds of texts that this run has none of, and what would make them."""
    told = {name: kind.lacking(run) for name, kind in kinds().items() if kind.lacking}
    return {name: how for name, how in told.items() if how}


def selection(run: Run) -> list[str]:
    """Return the run's methods; raises ConfigError, see ``methods.selection``."""
    unmade = methods.lacking(run.config, run.dataset.name)
    return methods.selection(run.config.search.method, lacking(run) | unmade)


def by_encoder(run: Run) -> list[Run]:
    """Return the run once an encoder that its methods rank by, each with the methods of its own.

    Raises ConfigError for a method or an encoder that is not there.
    """
    groups: dict[str, list[str]] = {}
    ranked = [part for name in selection(run) for part in _parts_of(name)]
    for name in dict.fromkeys(ranked):
        groups.setdefault(encoder_of(name), []).append(name)
    lists = map(methods.join, groups.values())
    found = [run] if len(groups) == 1 else [run.with_method(names) for names in lists]
    for one in found:
        _ = one.config.encoder  # raises for a name that no encoder has
    return found


def _parts_of(name: str) -> list[str]:
    """Return the parts of a pool, else the method. Of a verified pool the first part is verified:
    the captions that its candidates are held against are chosen by that part's encoder.
    """
    if not methods.is_pool(name):
        return [name]
    first, *others = methods.expanded([name])
    return [first if name == methods.base(name) else methods.verified(first), *others]


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
    """Return the stages that make texts and that the run's methods need, or one of these needs."""
    makers = _makers()
    todo = {makers[kind] for kind in reads(run) if kind in makers}
    found: set[str] = set()
    while todo:
        found |= todo
        before = {name for stage in todo for name in known()[stage].after}
        todo = (before & set(makers.values())) - found
    return found


def most(run: Run) -> int:
    """Return how many texts the stages of ``stages`` make at most."""
    needed = stages(run)
    chosen = [kind for name, kind in kinds().items() if _makers().get(name) in needed]
    return sum(kind.most(run) for kind in chosen if kind.most)


def headers(run: Run, names: Iterable[str]) -> dict[str, str]:
    """Return the fingerprints of what made these kinds of texts, for a ranking's header."""
    found = [kinds()[name] for name in sorted(names)]
    return {kind.name: fingerprint(kind.header(run)) for kind in found if kind.header}


def embedded(run: Run) -> list[str]:
    """Return every text that the embed stage embeds, once, kind by kind in query order.

    Those of the run's methods, and what else the same stages made. Raises MissingStageError where
    one of these stages is not complete.
    """
    wanted, needed, none = reads(run), stages(run), lacking(run)
    chosen = [
        kind
        for name, kind in kinds().items()
        if kind.embedded
        and (name in wanted or (_makers().get(name) in needed and name not in none))
    ]
    found: dict[str, None] = {}
    for kind in chosen:
        texts = kind.read(run)
        for query in run.queries:
            found |= dict.fromkeys(text for text in texts.get(query.id, ()) if text is not None)
    return list(found)
