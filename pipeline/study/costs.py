"""Cost against quality as a picture: what a query takes, and what it gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.errors import ConfigError
from pipeline.printable import one_line
from pipeline.store.files import atomic, storage_errors
from pipeline.study.published import Entry

Axis = Literal["calls", "seconds"]
AXES: tuple[Axis, ...] = get_args(Axis)
LABELS = {
    "calls": "calls to a language model a query",
    "seconds": "seconds a query (each source's own machine)",
}
SIDES = [((6, 4), "left"), ((6, -12), "left"), ((-6, 4), "right"), ((-6, -12), "right")]
"""Where a point's label may stand: its offset in points, and the side that is fixed."""


@dataclass(frozen=True)
class Point:
    """One row at what one source says it costs."""

    label: str
    cost: float
    quality: float
    """The metric in percent."""
    is_own: bool = False


def points(entries: Sequence[Entry], axis: Axis, metric: str) -> list[Point]:
    """Return a point for each row and statement of its cost; raises ConfigError for none."""
    found = []
    for entry in entries:
        value = entry.values.get(metric)
        for cost in entry.costs:
            spent = getattr(cost, axis)
            if value is not None and spent is not None:
                own = cost.source == "own"
                name = " ".join(part for part in (entry.method, entry.backbone) if part)
                label = name if own else f"{name} ({cost.source})"
                found.append(Point(label, spent, value, own))
    if not found:
        raise ConfigError(f"No row has both {metric} and {axis} a query, so nothing can be drawn.")
    return found


def draw(found: Sequence[Point], axis: Axis, metric: str, title: str, file: Path) -> None:
    """Draw the points as a PNG; a line joins those that nothing beats at their cost or less.

    Seconds were measured on different machines, so that the line joins one's own points alone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for is_own, marker, color in ((False, "o", "tab:blue"), (True, "D", "tab:red")):
        own = [point for point in found if point.is_own == is_own]
        if own:
            label = "measured here" if is_own else "published"
            costs, qualities = [p.cost for p in own], [p.quality for p in own]
            axes.scatter(costs, qualities, marker=marker, color=color, label=label, zorder=3)
    best = frontier([point for point in found if point.is_own or axis == "calls"])
    axes.step([p.cost for p in best], [p.quality for p in best], where="post", color="0.7")
    if axis == "seconds" and min(point.cost for point in found) > 0:
        axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set(xlabel=LABELS[axis], ylabel=f"{metric} (%)", title=title)
    figure.legend(loc="outside lower right", ncols=2)
    figure.draw_without_rendering()  # where points lie is known now
    places = axes.transData.transform([(point.cost, point.quality) for point in found])
    taken: list[Any] = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in places]
    for point in found:
        taken.append(_labelled(axes, point, taken))
    with atomic(file) as temporary, storage_errors(file):
        figure.savefig(temporary, format="png", dpi=120)


def _labelled(axes: Any, point: Point, taken: Sequence[Any]) -> Any:
    """Write a point's label beside it, on the first side that is free; return where it is."""
    words = one_line(point.label).replace("$", r"\$")  # else matplotlib reads mathematics
    place = (point.cost, point.quality)
    text = axes.annotate(words, place, xytext=(5, 4), textcoords="offset points", fontsize=8)
    for offset, side in SIDES:
        text.set(position=offset, horizontalalignment=side)
        box = text.get_window_extent()
        if not any(box.overlaps(other) for other in taken):
            break
    return box


def frontier(found: Sequence[Point]) -> list[Point]:
    """Return the points that nothing beats at their cost or less, the cheapest first."""
    best: list[Point] = []
    for point in sorted(found, key=lambda point: (point.cost, -point.quality)):
        if not best or point.quality > best[-1].quality:
            best.append(point)
    return best
