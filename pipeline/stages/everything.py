"""All stages of one run, in order."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from pipeline import stages
from pipeline.models import captioners
from pipeline.run import Run, StageReport
from pipeline.stages import checks


def run_stages(
    run: Run,
    model: str | None = None,
    serving: Callable[[], AbstractContextManager[str]] | None = None,
) -> tuple[list[StageReport], dict[str, float] | None]:
    """Run every stage that the run needs; return their reports, and metrics where known.

    With ``model``, ``serving()`` serves it during each stage that asks the LLM, and yields the
    server's URL. What any stage would refuse is refused before the first.
    """
    chosen = stages.wanted(run)
    checks.check(run if model is None else run.with_llm(model, ""), chosen)
    reports: list[StageReport] = []
    metrics: dict[str, float] = {}
    for stage in chosen:
        if model is not None and stage.serves == "llm":
            captioners.unload()  # the server may need its memory
            with serving() if serving else nullcontext("") as url:
                run = stage.with_model(run, model, url)
                reports += stage.run(run)
        else:
            reports += stage.run(run)
        if stage.measure is not None:
            metrics |= stage.measure(run)
    return reports, metrics or None
