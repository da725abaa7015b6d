"""How much a run is, before it is run: from the dataset, the configuration and the cache."""

from collections.abc import Sequence

from pipeline import stages
from pipeline.run import Run
from pipeline.stages.base import Line
from pipeline.stages.estimates import CAPTION_CHARACTERS, CHARACTERS_A_TOKEN

__all__ = ("Line", "plan", "render")


def plan(run: Run) -> list[Line]:
    """Return what every stage has to do; loads no model and asks no server."""
    return [line for stage in stages.wanted(run) for line in stage.plan(run)]


def render(run: Run, lines: Sequence[Line]) -> str:
    """Return the plan as a table with a note on what its figures are."""
    from tabulate import tabulate

    cells = [
        (line.stage, line.quantity, *map("{:,}".format, (line.total, line.cached, line.todo)),
         line.certainty)
        for line in lines
    ]  # fmt: skip
    columns = ("stage", "quantity", "in all", "cached", "to do", "")
    align = ("left", "left", "right", "right", "right", "left")
    table = tabulate(cells, columns, tablefmt="simple", disable_numparse=True, colalign=align)
    return (
        f"{run.name}\n{table}\nEstimates take {CHARACTERS_A_TOKEN} characters for a token, "
        f"{CAPTION_CHARACTERS} for a caption that is not there yet, and float32 features."
    )
