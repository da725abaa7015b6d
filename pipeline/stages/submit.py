"""The submit stage: files as the evaluation servers take them, with how they were made beside."""

from pathlib import Path

from pipeline import stages
from pipeline.run import Run, StageReport, log, slug, stage
from pipeline.stages import checks, search
from pipeline.stages.base import Stage
from pipeline.store.files import write_json
from pipeline.store.identity import provenance


def files(run: Run) -> dict[str, Path]:
    """Return where each kind of submission goes; the name ends in the ranking's fingerprint."""
    stem = search.ranking_file(run).file.stem
    name = f"{run.name}-{slug(run.config.encoder.model)}-{stem}"
    kinds = run.dataset.kinds
    return {
        kind: run.submissions / (f"{name}.json" if len(kinds) == 1 else f"{name}-{kind}.json")
        for kind in kinds
    }


def submit(run: Run) -> StageReport:
    """Write one file a kind, and a sidecar ``.config.json`` with the full configuration."""
    rankings = search.read(run)
    if not run.dataset.complete:
        log.warning("This submission holds a trial's %d queries only.", len(rankings))
    outputs = files(run)
    sidecar = {
        "dataset": run.dataset.name,
        "split": run.dataset.split,
        "queries": len(run.queries),
        "complete": run.dataset.complete,
        "config": run.config.model_dump(),
        **{one.name: one.header(run) for one in stages.known().values() if one.header},
        **provenance(),
    }
    source = search.ranking_file(run).file
    with stage("submit", run, [source], next(iter(outputs.values())), "queries") as report:
        for kind, lists in run.dataset.predictions(rankings).items():
            write_json(outputs[kind], run.dataset.submission(kind, lists))
            write_json(outputs[kind].with_suffix(".config.json"), sidecar)
        report.computed = len(rankings)
        report.writes = ", ".join(str(file) for file in outputs.values())
    return report


STAGE = Stage(
    "submit",
    """Write the files that the CIRCO and CIRR evaluation servers take.

    Example: seize submit --dataset cirr --split test1 --config paper-l14
    """,
    lambda run: [submit(run)],
    after=("search", "verify"),
    checks=(checks.submissions_folder, checks.one_method, checks.method),
)
