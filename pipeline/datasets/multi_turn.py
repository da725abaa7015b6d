"""What benchmarks of several turns share: each turn is a query, from the image before to the next.

A session's turns follow one another: the image that turn t asks for is the reference of turn t + 1.
Metrics are of the sessions' last turns, and turn by turn behind a slash.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pipeline.datasets.base import Dataset
from pipeline.datasets.metrics import recall_at_k
from pipeline.datasets.reading import Predictions, read_predictions
from pipeline.errors import InputError
from pipeline.records import Query


class MultiTurn(Dataset):
    """A benchmark whose queries are turns of sessions."""

    parts = "turn"
    cutoffs: ClassVar[tuple[int, ...]] = (1, 5, 10)
    objects: Mapping[str, frozenset[str]] = {}
    """The kinds of objects that each image shows, where a benchmark says so."""

    @property
    def turns(self) -> list[int]:
        """The numbers of the turns, from 1."""
        return sorted({query.turn for query in self.queries})

    @property
    def last(self) -> list[Query]:
        """The last turn of every session."""
        found = {query.session: query for query in sorted(self.queries, key=lambda q: q.turn)}
        return list(found.values())

    def unit(self, query: Query) -> str:
        """Return the session: its turns follow from one another, so they are drawn together."""
        return query.session

    def limit(self, count: int) -> None:
        """Keep the first ``count`` sessions, with all of their turns."""
        kept = set(list(dict.fromkeys(query.session for query in self.queries))[:count])
        whole = len(self.queries)
        self.queries = [query for query in self.queries if query.session in kept]
        self.complete = len(self.queries) == whole

    def values(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        """Return recall@k, and precision, recall and F1 of the first image's objects."""
        lists = predictions["recall"]
        found: dict[str, dict[str, float]] = {}
        for part, queries in self._by_turn():
            for k in self.cutoffs:
                found[f"recall@{k}{part}"] = {
                    q.id: recall_at_k(lists[q.id], q.target or "", k) for q in queries
                }
            if self.objects:
                matched = {q.id: self._matched(lists[q.id], q) for q in queries}
                for place, name in enumerate(("precision", "recall", "F1")):
                    found[f"object_{name}{part}"] = {n: m[place] for n, m in matched.items()}
        return found

    def _by_turn(self) -> Iterable[tuple[str, list[Query]]]:
        yield "", self.last
        for turn in self.turns:
            yield f"/turn {turn}", [query for query in self.queries if query.turn == turn]

    def _matched(self, images: Collection[str], query: Query) -> tuple[float, float, float]:
        shown = self.objects.get(next(iter(images), ""), frozenset())
        return overlap(shown, self.objects[query.target or ""])

    def read_lines(self, file: str) -> list[str]:
        """Read the lines of a text below the root; its bytes enter ``fingerprint``. InputError."""
        try:
            content = (self.root / file).read_bytes()
            text = content.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.root / file} cannot be read: {error}.") from None
        self._annotations.update(content)
        return [line.strip() for line in text.splitlines() if line.strip()]

    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        """Return query id to 50 images; there is no server for it."""
        return {name: list(images[:50]) for name, images in predictions.items()}

    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        """Read such an object."""
        return "recall", read_predictions(content, file)


def overlap(shown: Collection[str], wanted: Collection[str]) -> tuple[float, float, float]:
    """Return precision, recall and F1 of objects ``shown`` against those that are ``wanted``.

    As GeNeVA measures generated images, here for retrieved ones; nothing at all fits nothing.
    """
    both = len(set(shown) & set(wanted))
    precision = both / len(set(shown)) if shown else float(not wanted)
    recall = both / len(set(wanted)) if wanted else 1.0
    total = len(set(shown)) + len(set(wanted))
    return precision, recall, 2 * both / total if total else 1.0
