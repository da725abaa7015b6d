"""All stages of one run, in order."""

from contextlib import AbstractContextManager, nullcontext

from pipeline.models import captioners
from pipeline.run import Run, StageReport
from pipeline.stages import checks, texts
from pipeline.stages.caption import caption
from pipeline.stages.edit import edit
from pipeline.stages.embed import embed
from pipeline.stages.evaluate import evaluate
from pipeline.stages.inputs import make_clues
from pipeline.stages.search import search
from pipeline.stages.submit import submit
from pipeline.stages.verify import verify


def run_stages(
    run: Run, model: str | None = None, serving: AbstractContextManager[str] | None = None
) -> tuple[list[StageReport], dict[str, float] | None]:
    """Run every stage that the method needs; return their reports, and metrics where known.

    With ``model``, ``serving`` serves it during the edit stage and yields the server's URL. What
    any stage would refuse is refused before the first.
    """
    checks.check(run if model is None else run.with_llm(model, ""), *checks.stages_of(run))
    needed, reports = texts.stages(run), []
    if "caption" in needed:
        reports.append(caption(run))
    if "edit" in needed:
        if model is not None:
            captioners.unload()  # the server may need its memory
        with serving or nullcontext("") as url:
            if model is not None:
                run = run.with_llm(model, url)
            reports.append(edit(run))
    reports += [*embed(run), *make_clues(run), *search(run.unverified)]
    if run.verified:
        reports += verify(run)
    reports.append(submit(run))
    return reports, evaluate(run) if run.dataset.has_ground_truth else None
