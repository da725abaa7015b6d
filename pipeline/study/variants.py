"""One run under both readings of the two conditions that papers differ in most.

Whether the reference image may be retrieved, and whether CIRCO's shared concept is in the query.
The first only changes the search; the second changes texts, and `seize run --variants` makes both.
"""

from collections.abc import Iterator
from dataclasses import replace

from pipeline import stages
from pipeline.errors import ConfigError
from pipeline.retrieval import methods
from pipeline.run import Run, log
from pipeline.stages import checks, search
from pipeline.stages.inputs import ready
from pipeline.study import compare
from pipeline.study.protocol import Conditions

CONCEPT = "shared_concept"


def of(run: Run) -> list[Run]:
    """Return the run under every pair of the two conditions that its benchmark has, itself first.

    The other reading of the shared concept is left out, with the reason in the log, where the
    prompts cannot say it.
    """
    told = run.config.dataset.shared_concept
    others = [False, True] if CONCEPT in run.dataset.choices else [told]
    _, masked = _conditions(run)
    kept = [True, False] if run.dataset.reference_allowed else [masked]
    found = []
    for concept in sorted(others, key=lambda one: one != told):
        if concept != told and (why := _refused(_with(run, concept, masked))):
            log.info("Left out: %s the shared concept. %s", "with" if concept else "without", why)
            continue
        order = sorted(kept, key=lambda one: one != masked)
        found += [_with(run, concept, exclude) for exclude in order]
    return found


def _with(run: Run, concept: bool, exclude: bool) -> Run:
    """Return the run with the two conditions; its command repeats those that it was not given."""
    if (concept, exclude) == _conditions(run):
        return run
    dataset = run.config.dataset.model_copy(update={CONCEPT: concept})
    config = run.config.with_search(exclude_reference=exclude)
    changed = config.model_copy(update={"dataset": dataset})
    settings = {"dataset.shared_concept": concept, "search.exclude_reference": exclude}
    flags = " ".join(f"--set {name}={str(value).lower()}" for name, value in settings.items())
    return replace(run, config=changed, command=f"{run.command} {flags}".strip())


def _conditions(run: Run) -> tuple[bool, bool]:
    config = run.config
    return config.dataset.shared_concept, config.search.excludes(run.dataset.name)


def _refused(run: Run) -> str | None:
    try:
        making = [one for one in stages.wanted(run) if checks.one_method not in one.checks]
        checks.check(run, making)
    except ConfigError as error:
        return str(error)
    return None


def rows(run: Run) -> list[compare.Row]:
    """Return a row for each of the run's methods under each variant; no model is called.

    Rankings that are not there are searched for, from features on disk. A variant that a method
    does not tell apart (the shared concept, of one that reads no text) is no row of its own. Raises
    MissingStageError where texts, features or verdicts have to be made first.
    """
    found: dict[str, dict[Conditions, compare.Row]] = {name: {} for name in ready(run)}
    for one in of(run):
        _search(one)
        for row in compare.rows_of_run(one):
            known = found[row.name]
            if row.conditions not in known:
                first = next(iter(known), row.conditions)
                label = ", ".join((row.name, *_differing(first, row.conditions)))
                known[row.conditions] = replace(row, name=label)
    return [row for known in found.values() for row in known.values()]


def _search(run: Run) -> None:
    names = dict.fromkeys(map(methods.base, ready(run)))
    runs = {name: run.with_method(name) for name in names}
    if todo := [name for name, one in runs.items() if not search.ranking_file(one).file.exists()]:
        search.search(run.with_method(methods.join(todo)))


def _differing(first: Conditions, other: Conditions) -> Iterator[str]:
    """Yield what sets a variant apart from the first one."""
    if other.reference != first.reference:
        yield f"reference {other.reference}"
    if other.concept != first.concept:
        yield "shared concept" if other.concept == "yes" else "no shared concept"
