"""i-CIR (Psomas et al., NeurIPS 2025): instances, each with a pool of its own to be ranked whole.

Layout (billpsomas/icir: README.md, create_features.py, utils_features.py, utils.py):
``query_files.csv`` and ``database_files.csv`` (or both in ``annotations/``) without a header, each
line ``path,text,instance``; paths begin with the benchmark's own folder. The images of the
distribution in shards (WebDataset) have to be unpacked to these paths.

An image of the pool is right where both its instance and its text are the query's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.datasets.base import Dataset
from pipeline.datasets.metrics import trapezoidal_average_precision
from pipeline.datasets.reading import Predictions, read_lines, read_predictions
from pipeline.errors import InputError
from pipeline.records import Query

FIELDS = ("path", "text", "instance")
LEAST = 0.9
"""A list has to hold so much of its pool where it lacks images that are right."""


class _Line(NamedTuple):
    path: str
    text: str
    instance: str


class Icir(Dataset):
    """The one split of i-CIR. Image ids are paths below the benchmark's folder."""

    name = "icir"
    folder = "icir"
    splits = ("test",)
    headline = "mAP"

    def read(self) -> None:
        """Read queries and pools; rankings are as long as the largest pool."""
        listed = self._lines("database_files.csv", self._listing)
        right: dict[tuple[str, str], dict[str, None]] = {}
        pools: dict[str, dict[str, None]] = {}
        for _, line in listed:
            pools.setdefault(line.instance, {})[line.path] = None
            right.setdefault((line.instance, line.text), {})[line.path] = None
        self.galleries = {name: list(images) for name, images in pools.items()}
        self.depth = max(map(len, self.galleries.values()), default=1)
        self.gallery_name = "icir"
        asked = self._lines("query_files.csv", self._annotations)
        self.images = {
            line.path: self.inside(line.path, where) for where, line in (*listed, *asked)
        }
        self.queries = []
        for number, (where, line) in enumerate(asked):
            truths = right.get((line.instance, line.text))
            if truths is None:
                raise InputError(
                    f"{where}: no image of the pool of {line.instance!r} has the text "
                    f"{line.text!r}."
                )
            self.queries.append(self._query(str(number), line, tuple(truths)))
        twice = len(listed) - sum(map(len, self.galleries.values()))
        if twice:
            self.notes.append(f"{twice:,} lines of the pools name an image for the second time")
        shown = sum(q.reference in pools[q.gallery] for q in self.queries)
        if shown:
            self.notes.append(f"{shown:,} queries have their reference image in the pool")

    def _lines(self, name: str, digest: Any) -> list[tuple[str, _Line]]:
        file = self.root / name
        if not file.exists() and (self.root / "annotations" / name).exists():
            file = self.root / "annotations" / name
        found = []
        for where, text in read_lines(file, digest):
            fields = [field.strip() for field in text.split(",")]
            if len(fields) != len(FIELDS) or not all(fields):
                raise InputError(
                    f"{where}: expected {','.join(FIELDS)}, but there are {len(fields)} fields"
                    f"{'' if all(fields) else ', one of them empty'}."
                )
            path = fields[0].removeprefix(f"{self.folder}/").removeprefix(f"{self.root.name}/")
            found.append((where, _Line(path, fields[1], fields[2])))
        return found

    def _query(self, name: str, line: _Line, truths: tuple[str, ...] = ()) -> Query:
        return Query(name, line.path, (line.text,), line.instance, ground_truths=truths)

    def parse(self, entry: Any, where: str) -> Query:
        """Return the query of a line that is split into its fields; raises InputError."""
        if not isinstance(entry, list) or len(entry) != len(FIELDS):
            raise InputError(f"{where}: expected {', '.join(FIELDS)}.")
        return self._query("", _Line(*map(str, entry)))

    def stratum(self, query: Query) -> str:
        """All queries are one: many instances have a single one."""
        return "all"

    def values(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        """Return the trapezoidal AP over the whole pool."""
        lists = predictions["recall"]
        return {
            "mAP": {
                q.id: trapezoidal_average_precision(lists[q.id], set(q.ground_truths))
                for q in self.queries
            }
        }

    def check_prediction(self, kind: str, query: Query, images: Sequence[str]) -> None:
        """A list is of the whole pool, less what could not be read."""
        pool = len(self.galleries[query.gallery])
        if len(images) < LEAST * pool and not set(query.ground_truths) <= set(images):
            raise InputError(
                f"Query {query.id}: {len(images):,} of the {pool:,} images of its pool are ranked, "
                "and some that are right are not among them; AP is measured over the whole pool."
            )

    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        """Return the query's number to its pool, best first. i-CIR has no server."""
        return {name: list(images) for name, images in predictions.items()}

    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        """Read such an object."""
        return "recall", read_predictions(content, file)
