"""Planned queries: candidate lists of atomic retrievals, joined by set logic, then fused.

After OSCAR (arXiv 2602.08603), whose gain is the pool with planned set operations; its optimised
demonstrations are left out, so nothing here is trained or labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pipeline.records import Ranking
from pipeline.retrieval.pool import Pool, Scored, fuse
from pipeline.retrieval.scoring import Ends
from pipeline.retrieval.sections import Section

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.retrieval.parts import Part
    from pipeline.retrieval.searcher import Searcher
    from pipeline.run import Run

Join = Literal["union", "intersection"]


class Planned(Section):
    """How far the lists of atomic retrievals are looked into."""

    name: ClassVar[str] = "planned"

    depth: int = Field(default=100, ge=1, le=1_000_000, title="images of a wanted retrieval")
    removed: int = Field(default=10, ge=0, le=1_000_000, title="images an unwanted one takes away")
    k: float = Field(default=60.0, ge=10, title="k of reciprocal rank fusion")


@dataclass(frozen=True)
class Lists:
    """Atomic retrievals of every query: vectors, float32 (n, d) each, and what they are for."""

    vectors: list[Tensor]
    wanted: list[list[bool]]
    joins: list[Join]
    settings: Planned


def joined(
    lists: Sequence[Scored], wanted: Sequence[bool], join: Join, settings: Planned
) -> dict[str, float]:
    """Return the images of the wanted lists, best first, with falling scores.

    First those of the set (union or intersection of the wanted lists, less what the first
    ``removed`` places of an unwanted list hold), by reciprocal ranks; then, as a ranking has to be
    long enough, the rest of the union, and last what was taken away. Each step costs a score of 1.
    """
    good = [scores for scores, is_wanted in zip(lists, wanted, strict=True) if is_wanted]
    bad = [scores for scores, is_wanted in zip(lists, wanted, strict=True) if not is_wanted]
    gone = {image for scores in bad for image in list(scores)[: settings.removed]}
    fused = fuse(good, Pool(k=settings.k), [1.0] * len(good))

    def step(image: str) -> int:
        outside = join == "intersection" and not all(image in scores for scores in good)
        return 2 if image in gone else int(outside)

    found = {image: score - step(image) for image, score in fused.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def rank(run: Run, score: Lists, searcher: Searcher) -> list[Ranking]:
    """Return each query's best images, and CIRR's group, by set logic on its lists."""
    from pipeline.retrieval.parts import parts

    found: dict[str, Ranking] = {}
    for part in parts(run, searcher.images):
        for ranking in _of_part(run, part, score, searcher):
            found[ranking.query] = ranking
    return [found[query.id] for query in run.queries]


def _of_part(run: Run, part: Part, score: Lists, searcher: Searcher) -> list[Ranking]:
    import torch

    from pipeline.retrieval.ranking import scores_of

    counts = [len(score.vectors[place]) for place in part.places]
    own = [i for i, count in enumerate(counts) for _ in range(count)]
    vectors = torch.cat([score.vectors[place] for place in part.places])
    ends = Ends(vectors, vectors)
    repeated = replace(
        part,
        places=[part.places[i] for i in own],
        excluded=part.excluded[own],
        groups=[part.groups[i] for i in own],
    )
    depth = max(score.settings.depth, run.config.search.top_k)
    best, rows = searcher.best(ends, repeated, depth)
    groups = [torch.empty(0)] * len(own)
    if any(part.groups):
        asked = repeated.groups
        groups = scores_of(ends, part.gallery, asked, part.inside, searcher.device)
    made, start = [], 0
    for i, (place, count) in enumerate(zip(part.places, counts, strict=True)):
        lists, subsets = [], []
        for atom in range(start, start + count):
            kept = best[atom].isfinite()
            names = [part.names[row] for row in rows[atom][kept].tolist()]
            lists.append(dict(zip(names, best[atom][kept].tolist(), strict=True)))
            members = [part.names[row] for row in part.groups[i]]
            scored = zip(members, groups[atom].tolist(), strict=True)
            subsets.append(dict(sorted(scored, key=lambda member: -member[1])))
        start += count
        made.append(_ranking(run, place, lists, subsets, score))
    return made


def _ranking(
    run: Run, place: int, lists: Sequence[Scored], subsets: Sequence[Scored], score: Lists
) -> Ranking:
    query, settings = run.queries[place], score.settings
    wanted, join = score.wanted[place], score.joins[place]
    images = list(joined(lists, wanted, join, settings).items())[: run.config.search.top_k]
    # A group is ranked whole: of it, an unwanted retrieval takes its best member away.
    few = settings.model_copy(update={"removed": min(settings.removed, 1)})
    subset = joined(subsets, wanted, "union", few)
    last = min(subset.values(), default=0.0)
    subset |= {name: last for name in query.group if name not in subset}
    return Ranking(
        query.id,
        tuple(image for image, _ in images),
        tuple(value for _, value in images),
        tuple(subset),
        subset_scores=tuple(subset.values()),
    )
