"""What each lever is worth on the demo, alone and stacked, and what it costs."""

from collections.abc import Sequence

import pandas as pd

from pipeline.config import VERIFIED
from pipeline.retrieval import methods
from pipeline.run import Run
from pipeline.stages import inputs, search, verify
from pipeline.study import compare

BEST = "pdv"
"""The best lever that needs no further model call, at the weights of the demo's preset."""
SHOWN = ("seize", BEST, "seize+verify", f"{BEST}+verify")


def rank(run: Run, names: Sequence[str]) -> dict[str, float]:
    """Rank by every method, verified ones too; return the milliseconds a query of each.

    Those of a verified one are the verifier's, from when it was asked.
    """
    plain = list(dict.fromkeys(map(methods.base, names)))
    inputs.make_clues(run.with_method(methods.join(plain)))
    took = {r.writes: r.seconds for r in search.search(run.with_method(methods.join(plain)))}

    def seconds(one: Run) -> float:
        """Return what a ranking took; a pool's with its parts'."""
        parts = search.parts_of(one).values() if methods.is_pool(one.config.search.method) else ()
        return took[str(search.ranking_file(one).file)] + sum(map(seconds, parts))

    spent = {name: seconds(run.with_method(name)) for name in plain}
    for name in names:
        if name.endswith(VERIFIED):
            one = run.with_method(name)
            verify.verify(one)
            spent[name] = spent[name.removesuffix(VERIFIED)] + verify.cost_of(one).seconds
    return {name: 1000 * spent[name] / len(run.queries) for name in names}


def calls(run: Run, name: str) -> float:
    """Return the calls a query beyond captioning and editing."""
    if not name.endswith(VERIFIED):
        return 0.0
    cost = verify.cost_of(run.with_method(name))
    return (cost.calls + cost.cached) / cost.queries


def table(runs: Sequence[Run], names: Sequence[str], resamples: int = 2000) -> pd.DataFrame:
    """Return a line a method: the first metric of each run, with its difference against the first
    method and the 95 % interval of the paired bootstrap, calls and milliseconds a query.
    """
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
    for name, line in lines.items():
        line["calls a query"] = " / ".join(f"{number:.1f}" for number, _ in costs[name])
        line["ms a query"] = " / ".join(f"{time:.1f}" for _, time in costs[name])
    return pd.DataFrame(lines.values())
