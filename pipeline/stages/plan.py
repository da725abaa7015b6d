"""How much a run is, before it is run: from the dataset, the configuration and the cache."""

from collections.abc import Sequence

from pipeline import stages
from pipeline.run import Run, dump
from pipeline.stages import rates
from pipeline.stages.base import Line
from pipeline.stages.estimates import CAPTION_CHARACTERS, CHARACTERS_A_TOKEN
from pipeline.stages.rates import Cost

__all__ = ("Cost", "Line", "costs", "plan", "render", "told")

NOTES = (
    f"Estimates take {CHARACTERS_A_TOKEN} characters for a token, {CAPTION_CHARACTERS} for a "
    "caption that is not there yet, and float32 features.",
    "Times leave out loading models and decoding images. One that is from no run of yours is an "
    "estimate: operations by what the device does a second, of which a share is assumed to be "
    "reached (pipeline/stages/rates.yaml). Memory is weights and what a batch holds.",
)


def plan(run: Run) -> list[Line]:
    """Return what every stage has to do; loads no model and asks no server."""
    return [line for stage in stages.wanted(run) for line in stage.plan(run)]


def told(run: Run, lines: Sequence[Line], on: str | None, as_json: bool) -> str:
    """Return the plan with its costs for people, or as JSON; raises ConfigError as ``costs``."""
    found = costs(run, lines, on)
    if not as_json:
        return render(run, lines, found)
    content = {"lines": [one.as_json() for one in lines], "costs": [one.as_json() for one in found]}
    return dump({"run": run.name} | content)


def costs(run: Run, lines: Sequence[Line], on: str | None = None) -> list[Cost]:
    """Return what the lines will take, on the device ``on`` of the table where one is named.

    Raises ConfigError for a device that is not in the table.
    """
    device = None if on is None else rates.device_named(on)
    return [rates.cost(run, line.work, line.todo, device) for line in lines if line.work]


def render(run: Run, lines: Sequence[Line], costs: Sequence[Cost]) -> str:
    """Return the plan as two tables with a note on what their figures are."""
    from tabulate import tabulate

    cells = [
        (line.stage, line.quantity, *map("{:,}".format, (line.total, line.cached, line.todo)),
         line.certainty)
        for line in lines
    ]  # fmt: skip
    columns = ("stage", "quantity", "in all", "cached", "to do", "")
    align = ("left", "left", "right", "right", "right", "left")
    table = tabulate(cells, columns, tablefmt="simple", disable_numparse=True, colalign=align)
    times = tabulate(
        [(one.stage, one.unit, one.model, _time(one), _memory(one), one.source) for one in costs],
        ("stage", "of", "model", "time", "memory", "by"),
        tablefmt="simple",
        disable_numparse=True,
        colalign=("left", "left", "left", "right", "right", "left"),
    )
    return "\n".join([f"{run.name}\n{table}\n", times, "", _total(costs), *NOTES])


def _time(cost: Cost) -> str:
    if cost.fastest is None or cost.slowest is None:
        return "not told"
    return _between(cost.fastest, cost.slowest)


def _between(fastest: float, slowest: float) -> str:
    first, last = rates.duration(fastest), rates.duration(slowest)
    return first if first == last else f"{first} to {last}"


def _memory(cost: Cost) -> str:
    if cost.memory is None:
        return ""
    size = cost.memory / 1e9
    return f"{size:.1f} GB" if size < 100 else f"{size:,.0f} GB"


def _total(costs: Sequence[Cost]) -> str:
    told = [one for one in costs if one.fastest is not None]
    times = _between(*rates.total(told))
    if lacking := sorted({f"{one.stage} {one.unit}" for one in costs if one not in told}):
        return f"In all {times}, without what is not told: {', '.join(lacking)}."
    return f"In all {times}."
