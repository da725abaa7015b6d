"""Fashion200K (Han et al., ICCV 2017) as TIRG asks about it (Vo et al., CVPR 2019).

Layout (xthan/fashion200k, google/tirg: datasets.py and test_retrieval.py):
``labels/CATEGORY_test_detect_all.txt``, lines of path, score and description with tabs between;
``test_queries.txt`` of TIRG, a source and a target path a line; images below the root.

The relative caption says which word of the description changes: ``replace black with blue``. Every
image with the target's description is right, and recall@k asks whether one of them is found.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.datasets.base import Dataset
from pipeline.datasets.reading import Predictions, read_lines, read_predictions
from pipeline.errors import InputError
from pipeline.records import Query

CUTOFFS = (1, 10, 50)


class Fashion200k(Dataset):
    """TIRG's test queries among the images of all categories. Image ids are paths."""

    name = "fashion200k"
    folder = "Fashion200K"
    splits = ("test",)
    headline = "recall@10"

    def read(self) -> None:
        """Read descriptions and queries."""
        files = sorted((self.root / "labels").glob(f"*_{self.split}_*.txt"))
        if not files:
            raise InputError(f"{self.root / 'labels'} holds no file *_{self.split}_*.txt.")
        said: dict[str, str] = {}
        self.images = {}
        for file in files:
            for where, line in read_lines(file, self._listing):
                fields = line.split("\t")
                if len(fields) != 3:
                    raise InputError(f"{where}: expected path, score and description.")
                path, _, description = fields
                said[path] = description.strip()
                self.images[path] = self.inside(path, where)
        self.galleries = {"all": list(self.images)}
        self.gallery_name = f"fashion200k-{self.split}"
        alike: dict[str, list[str]] = {}
        for path, description in said.items():
            alike.setdefault(description, []).append(path)
        self.queries = []
        for number, (where, line) in enumerate(
            read_lines(self.root / "test_queries.txt", self._annotations)
        ):
            source, *rest = paths = line.split()
            if len(paths) != 2 or any(path not in said for path in paths):
                raise InputError(f"{where}: expected two paths that the labels describe.")
            text = change(said[source], said[rest[0]])
            if text is None:
                raise InputError(f"{where}: the two descriptions have the same words.")
            truths = tuple(alike[said[rest[0]]])
            self.queries.append(Query(f"{number}", source, (text,), ground_truths=truths))

    def parse(self, entry: Any, where: str) -> Query:
        """Return the query of a source and its relative caption; raises InputError."""
        if not isinstance(entry, list) or len(entry) != 2:
            raise InputError(f"{where}: expected a source and a relative caption.")
        return Query("", str(entry[0]), (str(entry[1]),))

    def values(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        """Return whether one of the right images is among the first k."""
        lists = predictions["recall"]
        return {
            f"recall@{k}": {
                q.id: float(not set(q.ground_truths).isdisjoint(lists[q.id][:k]))
                for q in self.queries
            }
            for k in CUTOFFS
        }

    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        """Return query id to 50 paths. There is no server."""
        return {name: list(images[:50]) for name, images in predictions.items()}

    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        """Read such an object."""
        return "recall", read_predictions(content, file)


def change(source: str, target: str) -> str | None:
    """Return TIRG's text of a change: the first word that only either description has.

    Where one has none, its last word stands for it, as there; None where both have none.
    """
    before, after = source.split(), target.split()
    gone = next((word for word in before if word not in after), None)
    new = next((word for word in after if word not in before), None)
    if gone is None and new is None:
        return None
    return f"replace {gone or before[-1]} with {new or after[-1]}"
