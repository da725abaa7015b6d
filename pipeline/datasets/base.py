"""What every benchmark offers to the stages. One file a benchmark implements this class."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pipeline.errors import InputError
from pipeline.records import Query

Predictions = Mapping[str, Sequence[str]]
"""Query id to image ids, best first."""


class Dataset(ABC):
    """One split of a benchmark, read from its official layout below ``root``.

    Reading never opens an image: ``images`` maps every id to where its file should be.
    """

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    kinds: ClassVar[tuple[str, ...]] = ("recall",)
    """The prediction lists the protocol asks for; CIRR has a second one, ``recall_subset``."""

    split: str
    root: Path
    queries: list[Query]
    images: dict[str, Path]
    galleries: dict[str, list[str]]
    """Gallery name to the ids searched, in a fixed order; ties are broken by it."""
    gallery_name: str
    """Names the set of images, so that splits sharing one (CIRCO val and test) embed it once."""
    fingerprint: str
    """Hash of the annotation files that were read."""
    gallery_fingerprint: str
    """Hash of the gallery listing that was read."""

    @property
    def has_ground_truth(self) -> bool:
        """Whether validation metrics can be computed on this split."""
        return any(query.target is not None for query in self.queries)

    @abstractmethod
    def evaluate(self, predictions: Mapping[str, Predictions]) -> dict[str, float]:
        """Return the protocol's metrics in percent for the given kinds of prediction lists.

        Raises InputError, naming the query, for missing, unknown or duplicate predictions.
        """

    @abstractmethod
    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        """Return the JSON object the evaluation server takes for one kind of prediction list."""

    @abstractmethod
    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        """Return kind and predictions of a submission-shaped JSON object; raises InputError."""


def read_json(file: Path) -> Any:
    """Read a JSON file; raises InputError naming the file, and the line where it is malformed."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file} does not exist. Is --data-root right?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file} is not valid JSON: {error}") from None
