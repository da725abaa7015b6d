"""What each lever is worth on the demo, alone and stacked, and what it costs."""

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.config import CLIP, VERIFIED, encoder_of
from pipeline.retrieval import methods
from pipeline.run import Run, log
from pipeline.stages import embed, inputs, search, verify
from pipeline.study import compare
from pipeline.study.costs import Point, draw

BEST = "pdv"
"""The best lever that needs no further model call, at the weights of the demo's preset."""
POOL = f"pool:seize,{BEST},joint@emb"
"""Two encoders and two ways to ask one of them."""
SHOWN = (
    *("seize", BEST, "lincir", "seize+lincir", "sum", "composer", "sum@emb", "joint@emb", POOL),
    *("seize+verify", f"{BEST}+verify", "lincir+verify", f"{POOL}+verify"),
)
TIMED = 32
"""Queries by which the joint embedder is timed, whatever the cache holds."""


def shown() -> tuple[str, ...]:
    """Return the methods of ``SHOWN``, without the joint embedder's where its library is not."""
    if importlib.util.find_spec("sentence_transformers"):
        return SHOWN
    log.info("The demo leaves its joint embedder out: pip install sentence-transformers.")

    def by_clip(name: str) -> bool:
        return all(encoder_of(part) == CLIP for part in methods.expanded([name]))

    return tuple(filter(by_clip, SHOWN))


def joint(name: str) -> bool:
    """Whether the embedder is asked once more a query, for the image with the text."""
    return any(clue.joint for clue in methods.clues_of(name).values())


def _embedding(run: Run) -> float:
    """Return the seconds a query that embedding the image with the text takes."""
    some = run.queries[:TIMED]
    making = inputs.Inputs(run, making=True, queries=some)
    start = time.monotonic()
    making.clues.vectors("joint")
    return (time.monotonic() - start) / len(some)


def rank(run: Run, names: Sequence[str]) -> dict[str, float]:
    """Rank by every method, verified ones too; return the milliseconds a query of each.

    Those of a verified one are the verifier's, from when it was asked.
    """
    plain = list(dict.fromkeys(map(methods.base, names)))
    embed.STAGE.run(run.with_method(methods.join(plain)))
    took = {r.writes: r.seconds for r in search.search(run.with_method(methods.join(plain)))}

    def seconds(one: Run) -> float:
        """Return what a ranking took; a pool's with its parts'."""
        parts = search.parts_of(one).values() if methods.is_pool(one.config.search.method) else ()
        own = one.config.search.method
        model = 0.0 if parts or not joint(own) else _embedding(one) * len(run.queries)
        return took[str(search.ranking_file(one).file)] + model + sum(map(seconds, parts))

    spent = {name: seconds(run.with_method(name)) for name in plain}
    for name in names:
        if name.endswith(VERIFIED):
            one = run.with_method(name)
            verify.verify(one)
            spent[name] = spent[name.removesuffix(VERIFIED)] + verify.cost_of(one).seconds
    return {name: 1000 * spent[name] / len(run.queries) for name in names}


def calls(run: Run, name: str) -> float:
    """Return the calls a query beyond captioning and editing."""
    embedded = float(joint(name))
    if not name.endswith(VERIFIED):
        return embedded
    cost = verify.cost_of(run.with_method(name))
    return embedded + (cost.calls + cost.cached) / cost.queries


def table(
    runs: Sequence[Run], names: Sequence[str], resamples: int = 2000, picture: Path | None = None
) -> pd.DataFrame:
    """Return a line a method: the first metric of each run, with its difference against the first
    method and the 95 % interval of the paired bootstrap, calls and milliseconds a query.

    ``picture``, where given, shows seconds against quality of the first run.
    """
    drawn: list[Point] = []
    lines: dict[str, dict[str, str]] = {name: {"method": name} for name in names}
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for run in runs:
        spent = rank(run, names)
        rows = compare.rows_of_run(run.with_method(methods.join(names)))
        found = compare.compare(run.dataset, rows, names[0], resamples)
        metric = run.dataset.headline
        for _, cell in found[found["metric"] == metric].iterrows():
            name = str(cell["method"])
            text = f"{cell['value']:.2f}"
            if name != names[0]:
                text += f" ({compare.difference(cell)})"
            lines[name][f"{run.name}, {metric}"] = text
            costs[name].append((calls(run, name), spent[name]))
            if run is runs[0]:
                drawn.append(Point(name, spent[name] / 1000, float(cell["value"]), is_own=True))
    for name, line in lines.items():
        line["calls a query"] = " / ".join(f"{number:.1f}" for number, _ in costs[name])
        line["ms a query"] = " / ".join(f"{time:.1f}" for _, time in costs[name])
    if picture is not None:
        title = f"The demo's {runs[0].name}: cost against quality"
        draw(drawn, "seconds", runs[0].dataset.headline, title, picture)
    return pd.DataFrame(lines.values())
