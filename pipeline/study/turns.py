"""A benchmark's sessions played turn by turn, with what each turn leaves to the next."""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.datasets.multi_turn import MultiTurn
from pipeline.errors import ConfigError
from pipeline.records import Query, Ranking
from pipeline.retrieval import methods, turns
from pipeline.retrieval.clues import Clue, Texts
from pipeline.retrieval.turns import Carried, State
from pipeline.run import Run
from pipeline.stages import edit, editor, embed, inputs, known, search, texts
from pipeline.stages.inputs import Inputs
from pipeline.study import compare

if TYPE_CHECKING:
    from torch import Tensor

GIVEN: State = "given"
VECTOR: tuple[State, ...] = ("query", "caption")
"""States in which a vector stands for the reference image."""


class Turn(Inputs):
    """The inputs of one turn's queries, some of which are carried on from the turn before."""

    def __init__(self, run: Run, before: Sequence[Carried] | None, state: State) -> None:
        super().__init__(run)
        self.before = before
        self.state = state

    def reference_lists(self) -> "list[Tensor]":
        """Return the features of the references, or the vectors that stand for them (1, d)."""
        if self.before is None or self.state not in VECTOR:
            return super().reference_lists()
        return [one.vector[None] for one in self.before]

    def computed(self, clue: Clue, make: "Callable[[], Tensor]") -> "Tensor":
        """Return a clue that a model makes; of vectors that were carried on it is made now."""
        if self.before is None or self.state not in VECTOR:
            return super().computed(clue, make)
        return make()

    def texts(self, kind: str) -> Texts:
        """Return the queries' texts; captions are those that were carried on, where they were."""
        if self.before is None or self.state != "caption" or kind not in ("captions", "edits"):
            return super().texts(kind)
        if kind == "captions":
            return [list(one.captions) for one in self.before]
        made = edited(self.run, self.before)
        return [
            [made[pair] for pair in pairs_of(self.run, query, one)]
            for query, one in zip(self.run.queries, self.before, strict=True)
        ]


def dataset_of(run: Run) -> MultiTurn:
    """Return the run's benchmark; raises ConfigError for one without turns."""
    if not isinstance(run.dataset, MultiTurn):
        raise ConfigError(
            f"{run.dataset.name} has no turns. Those that have: iclevr, codraw, mtfashioniq."
        )
    return run.dataset


def play(run: Run, state: State) -> list[Ranking]:
    """Return every turn's ranking by the run's method, in the order of the run's queries.

    Captions and edits that are lacking are made. Raises ConfigError for a state that the method
    cannot begin with, see ``turns.check``.
    """
    dataset, method = dataset_of(run), run.config.search.method
    methods.find(method)
    turns.check(method, state)
    found: dict[str, Ranking] = {}
    left: dict[str, Carried] = {}
    for number in dataset.turns:
        queries = [query for query in run.queries if query.turn == number]
        one = _turn_of(run, queries, left if state == "image" else {})
        before = [left[query.session] for query in queries] if left and state != GIVEN else None
        ready(one, before, state)
        own = Turn(one, before, state)
        score = methods.score(run.config, method, dataset.name, own.clues)
        ranked = search.rank(one, score, own.searcher)
        edits: Texts = [()] * len(queries)
        if "edits" in methods.reads(method):
            edits = own.texts("edits")
        for query, ranking, vector, said in zip(
            queries, ranked, turns.fused(score), edits, strict=True
        ):
            found[query.id] = ranking
            left[query.session] = turns.carried(
                ranking.images, vector, said, left.get(query.session)
            )
    return [found[query.id] for query in run.queries]


def _turn_of(run: Run, queries: Sequence[Query], left: Mapping[str, Carried]) -> Run:
    """Return the run of one turn's queries, with the references that were retrieved for them."""
    dataset = copy.copy(run.dataset)
    dataset.queries = [
        replace(query, reference=left[query.session].image or query.reference)
        if query.session in left
        else query
        for query in queries
    ]
    told = [run.dataset.fingerprint, *(f"{q.id} {q.reference}" for q in dataset.queries)]
    dataset._annotations = hashlib.sha256("\n".join(told).encode())
    return replace(run, dataset=dataset)


def ready(run: Run, before: Sequence[Carried] | None, state: State) -> None:
    """Make what the turn's clues are made of: captions, edits, features."""
    if before is None or state != "caption":
        for stage in known().values():
            if stage.name in texts.stages(run):
                stage.run(run)
        embed.embed(run)
        inputs.make_clues(run)
        return
    embed.embed_images(run)
    made = edited(run, before)
    said = [text for one in before for text in one.captions]
    relative = [text for query in run.queries for text in run.relative_captions(query)]
    own = [text for text in made.values() if text]
    embed.embed_texts(run, list(dict.fromkeys([*relative, *said, *own])))


def pairs_of(run: Run, query: Query, carried: Carried) -> list[editor.Pair]:
    """Return the pairs of a query whose captions were carried on."""
    return edit.query_pairs(run, query, {query.id: list(carried.captions)})


def edited(run: Run, before: Sequence[Carried]) -> dict[editor.Pair, str | None]:
    """Return the edits of captions that were carried on; those that are lacking are made."""
    asked = zip(run.queries, before, strict=True)
    wanted = dict.fromkeys(pair for query, one in asked for pair in pairs_of(run, query, one))
    records = edit.record_file(run)
    config = edit.settle(run.config, records)
    with records:
        known = edit.by_pair(records)
        todo = [pair for pair in wanted if pair not in known]
        for made in editor.ask(config, todo) if todo else ():
            records.append(made.record())
            known[made.pair] = made.text
    return {pair: known[pair] for pair in wanted}


def table(run: Run, names: Sequence[str], states: Sequence[State]) -> pd.DataFrame:
    """Return every method's metrics by state, with the difference against its first state.

    A state that a method cannot begin with is left out.
    """
    dataset = dataset_of(run)
    found = []
    for name in names:
        one = run.with_method(name)
        rows = []
        for state in states:
            if state in turns.possible(name):
                values = dataset.per_query(dataset.predictions(play(one, state)))
                rows.append(compare.Row(f"{name}, {state}", values, None))
        if rows:
            found.append(compare.compare(dataset, rows, rows[0].name))
    if not found:
        raise ConfigError(f"None of {', '.join(names)} can begin a turn with {', '.join(states)}.")
    return pd.concat(found, ignore_index=True)


def shown(run: Run, found: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a row a method and state, and a column a metric, in percent."""
    first, numbers = run.dataset.headline, dataset_of(run).turns
    names = [first, *(["object_F1"] if dataset_of(run).objects else [])]
    wanted = {first, *(f"{name}/turn {turn}" for name in names for turn in numbers)}
    lines: dict[str, dict[str, str]] = {}
    for cell in found[found["metric"].isin(wanted)].to_dict("records"):
        method, _, state = str(cell["method"]).rpartition(", ")
        line = lines.setdefault(str(cell["method"]), {"method": method, "state": state})
        line[str(cell["metric"])] = f"{cell['value']:.2f}"
        if cell["metric"] == first and not np.isnan(cell["difference_low"]) and cell["difference"]:
            line[first] += f" ({compare.difference(cell)})"
    return pd.DataFrame(lines.values())
