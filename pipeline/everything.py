"""All stages of one run, in order."""

from pipeline.caption import caption
from pipeline.edit import edit
from pipeline.embed import embed
from pipeline.evaluate import evaluate
from pipeline.run import Run, StageReport
from pipeline.search import search
from pipeline.submit import submit


def run_stages(run: Run) -> tuple[list[StageReport], dict[str, float] | None]:
    """Run every stage; return their reports, and metrics where the ground truth is known."""
    reports = [caption(run), edit(run), *embed(run), *search(run), submit(run)]
    return reports, evaluate(run) if run.dataset.has_ground_truth else None
