"""What every benchmark offers to the stages, and what their readers share."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets import checking
from pipeline.datasets.checking import Findings
from pipeline.datasets.paths import check_links, relative
from pipeline.datasets.reading import (
    Predictions,
    read_json,
    read_json_lines,
    read_parquet,
)
from pipeline.errors import ConfigError, InputError
from pipeline.records import ImageFile, Query, Ranking, file_of


class Dataset(ABC):
    """One split of a benchmark, read from its official layout below ``root``.

    Reading never opens an image: ``images`` maps every id to where its file should be, or to a crop
    of one. A file that is a link out of the images' folder is refused unless ``follow_links``; the
    folder may be one.
    """

    name: ClassVar[str]
    folder: ClassVar[str]
    """The benchmark's own folder, looked for below ``--data-root``."""
    splits: ClassVar[tuple[str, ...]]
    tuned_on: ClassVar[tuple[str, ...]] = ("val", "train")
    """Splits that weights may be chosen on, where they are there: none that figures are told of."""
    kinds: ClassVar[tuple[str, ...]] = ("recall",)
    """The prediction lists that the protocol asks for, by name; see ``predictions``."""
    lengths: ClassVar[Mapping[str, int]] = {"recall": 50}
    """How many images a list of each kind holds in a submission."""
    max_bytes: ClassVar[int | None] = None
    """The largest file the evaluation server takes."""
    lists_all_truths: ClassVar[bool] = True
    """Whether every ground truth has to be listed as an image; if not, others are never found."""
    reference_allowed: ClassVar[bool] = True
    """Whether a list may hold the query's own reference image."""

    choices: ClassVar[tuple[str, ...]] = ()
    """Fields of the configuration's ``dataset`` section that change this benchmark's figures."""
    gallery_choices: ClassVar[tuple[str, ...]] = ("split",)
    """What ``gallery`` may be: the split's own listing, or others the field uses."""
    averages: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Metrics that are the unweighted mean of other metrics."""
    headline: ClassVar[str]
    """The metric by which methods are compared first."""
    falling: ClassVar[tuple[str, ...]] = ()
    """What the names of metrics begin with of which less is better."""
    parts: ClassVar[str] = ""
    """What the part after the slash of a metric such as ``mAP@10/negation`` is, in words."""

    queries: list[Query]
    annotations: dict[str, Any]
    """The content of the annotation files, by their path below the root."""
    notes: list[str]
    """What the annotations hold that a reader of the figures should know, in words."""
    complete: bool
    """False once ``limit`` has left queries out."""
    images: dict[str, ImageFile]
    galleries: dict[str, list[str]]
    """Gallery name to the ids searched, in a fixed order; ties are broken by it."""
    depth: int
    """How many images a ranking has to hold at least for the metrics, whatever is asked for."""
    gallery_name: str
    """Names the set of images, so that splits sharing one (CIRCO val and test) embed it once."""

    def __init__(
        self, split: str, root: Path, gallery: str = "split", follow_links: bool = False
    ) -> None:
        if gallery not in self.gallery_choices:
            raise ConfigError(
                f"{self.name} has no gallery {gallery!r}. Known: {', '.join(self.gallery_choices)}."
            )
        self.split = split
        self.gallery = gallery
        self.annotations, self.notes, self.depth = {}, [], 1
        nested = root / self.folder
        self.root = nested if nested.is_dir() else root
        self._annotations = hashlib.sha256()
        self._listing = hashlib.sha256()
        self._folders: dict[Path, Path] = {}
        self.read()
        self._check_queries()
        if not follow_links:
            check_links(self._folders, map(file_of, self.images.values()))
        self.complete = True

    @property
    def fingerprint(self) -> str:
        """Hash of the annotation files that were read."""
        return self._annotations.hexdigest()

    @property
    def gallery_fingerprint(self) -> str:
        """Hash of the gallery's listing that was read."""
        return self._listing.hexdigest()

    @property
    def gallery_identity(self) -> dict[str, Any]:
        """What tells whose images the ids are, for fingerprints of what is made from images."""
        return {"gallery": self.gallery_fingerprint}

    def match(self, entries: Sequence[Any], file: Path) -> list[Query | None]:
        """Return the query that each annotation of ``file`` is, None for one of another split.

        Compared by id where annotations have one, reference image and relative captions.
        """
        known: dict[tuple[Any, ...], list[Query]] = {}
        for query in self.queries:
            content = (query.references, query.relative_captions)
            known.setdefault(content, []).append(query)
            known.setdefault((query.id, *content), []).append(query)
        found: list[Query | None] = []
        for number, entry in enumerate(entries):
            query = self.parse(entry, f"{file}, entry {number}")
            content = (query.references, query.relative_captions)
            candidates = known.get((query.id, *content) if query.id else content, [])
            found.append(candidates.pop(0) if candidates else None)
        return found

    @property
    def has_ground_truth(self) -> bool:
        """Whether validation metrics can be computed on this split."""
        return any(query.relevant for query in self.queries)

    @classmethod
    def worth(cls, metric: str, value: float) -> float:
        """Return what is the higher the better a metric's value is."""
        return -value if metric.startswith(cls.falling) else value

    @property
    def for_tuning(self) -> bool:
        """Whether weights may be chosen on this split."""
        return self.split in self.tuned_on and self.has_ground_truth

    def check_ground_truth(self) -> None:
        """Raise InputError where there is no ground truth."""
        if not self.has_ground_truth:
            raise InputError(
                f"{self.name} {self.split} has no ground truth here. Write a submission with "
                "`seize submit` and upload it to the benchmark's evaluation server."
            )

    def limit(self, count: int) -> None:
        """Keep the first ``count`` queries of each stratum, for a trial; galleries stay whole."""
        kept = [[self.queries[i] for i in numbers[:count]] for numbers in self.strata()]
        self.complete = sum(map(len, kept)) == len(self.queries)
        self.queries = [query for queries in kept for query in queries]

    def stratum(self, query: Query) -> str:
        """Return the part of the benchmark that a query is of; resampling keeps each part's size.

        A category has a gallery. A benchmark whose queries have one each says here what else
        divides them: queries that are alone in their stratum would never be resampled.
        """
        return query.gallery

    def unit(self, query: Query) -> str:
        """Return what resampling draws whole: the query alone, unless others depend on it."""
        return query.id

    @property
    def units(self) -> list[str]:
        """Every query's unit, see ``unit``."""
        return [self.unit(query) for query in self.queries]

    def strata(self) -> list[list[int]]:
        """Return the numbers of each stratum's queries, the strata in the order of galleries."""
        order = {name: place for place, name in enumerate(self.galleries)}
        found: dict[str, list[int]] = {}
        for number, query in enumerate(self.queries):
            found.setdefault(self.stratum(query), []).append(number)
        return [found[name] for name in sorted(found, key=lambda name: order.get(name, 0))]

    def touched_by(self, lost: Collection[str]) -> int:
        """Return how many queries have an image of ``lost`` as reference or ground truth."""
        gone = set(lost)
        return sum(not gone.isdisjoint((*q.references, *q.relevant)) for q in self.queries)

    @abstractmethod
    def read(self) -> None:
        """Fill ``queries``, ``images``, ``galleries`` and ``gallery_name``; raises InputError."""

    @abstractmethod
    def parse(self, entry: Any, where: str) -> Query:
        """Return an annotation's query, its id empty where annotations have none; InputError."""

    @abstractmethod
    def values(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        """Return, for each metric, its value in [0, 1] for every query id that it is defined on."""

    @abstractmethod
    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        """Return the JSON object the evaluation server takes for one kind of prediction list."""

    @abstractmethod
    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        """Return kind and predictions of a submission-shaped JSON object; raises InputError."""

    def predictions(self, rankings: Sequence[Ranking]) -> dict[str, Predictions]:
        """Return the prediction lists of each kind out of rankings: whole ones, unless overridden.

        A benchmark with other kinds of lists (CIRR's groups) says here what they hold.
        """
        return {kind: {r.query: r.images for r in rankings} for kind in self.kinds}

    @property
    def metrics(self) -> list[str]:
        """The names of the protocol's metrics, of a split with ground truth."""
        self.check_ground_truth()
        nothing = {kind: {query.id: () for query in self.queries} for kind in self.kinds}
        defined = {metric: own for metric, own in self.values(nothing).items() if own}
        return list(self.means(defined, np.ones((1, len(self.queries)))))

    def evaluate(self, predictions: Mapping[str, Predictions]) -> dict[str, float]:
        """Return the protocol's metrics in percent for the given kinds of prediction lists.

        Raises InputError, naming the query, for missing, unknown or duplicate predictions.
        """
        once = np.ones((1, len(self.queries)))
        means = self.means(self.per_query(predictions), once)
        return {metric: float(values[0]) for metric, values in means.items()}

    def means(
        self, values: Mapping[str, Mapping[str, float]], weights: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """Return each metric in percent, (n), where queries count as ``weights`` (n, queries) say.

        ``values`` is what ``per_query`` returns. NaN where the weights of all its queries are 0.
        """
        number = {query.id: i for i, query in enumerate(self.queries)}
        found = {}
        for metric, by_query in values.items():
            counts = weights[:, [number[name] for name in by_query]]
            total = counts.sum(axis=1)
            mean = counts @ np.array(list(by_query.values())) / np.where(total > 0, total, np.nan)
            found[metric] = 100 * mean
        for metric, parts in self.averages.items():
            if all(part in found for part in parts):
                found[metric] = np.mean([found[part] for part in parts], axis=0)
        return found

    def per_query(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        """Return each metric's value in [0, 1] by query id, of checked predictions.

        Raises InputError as ``evaluate`` does.
        """
        self.check_ground_truth()
        for kind, lists in predictions.items():
            if kind not in self.kinds:
                raise InputError(f"{self.name} has no {kind} predictions.")
            self.check_predictions(kind, lists)
        return {metric: values for metric, values in self.values(predictions).items() if values}

    def of_each_query(
        self, values: Mapping[str, Mapping[str, float]], metric: str
    ) -> dict[str, float]:
        """Return the value in [0, 1] by query id of a metric, out of what ``per_query`` returns.

        Of an average over parts (FashionIQ's categories) each query has its own part's value.
        """
        if metric in values:
            return dict(values[metric])
        return {name: v for part in self.averages[metric] for name, v in values[part].items()}

    def check_predictions(self, kind: str, lists: Predictions) -> None:
        """Check that lists are of these queries, every one, and of their galleries; InputError."""
        known = {query.id: query for query in self.queries}
        members = {name: set(images) for name, images in self.galleries.items()}
        missing = [name for name in known if name not in lists]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(known)} queries of {self.name} {self.split} have no "
                f"{kind} predictions, the first is query {missing[0]}."
            )
        for name, images in lists.items():
            if name not in known:
                raise InputError(f"Query {name} is not in {self.name} {self.split}.")
            twice = [image for image, count in Counter(images).items() if count > 1]
            if twice:
                raise InputError(f"Query {name}: image {twice[0]} is predicted more than once.")
            for image in images:
                if image not in members[known[name].gallery]:
                    raise InputError(f"Query {name}: image {image} is not in its gallery.")
            self.check_prediction(kind, known[name], images)

    def check_prediction(self, kind: str, query: Query, images: Sequence[str]) -> None:
        """Check what only this benchmark asks of a prediction list; raises InputError."""
        return None

    def misplaced(self, kind: str, query: Query, image: str) -> str:
        """Return what is wrong with a gallery image in a submission's list, "" for nothing."""
        return ""

    def check(self, file: Path) -> Findings:
        """Return every reason why the evaluation server would refuse a submission file.

        Raises InputError if the file is not there or not JSON.
        """
        return checking.check(self, file)

    def check_header(self, content: dict[str, Any], found: Findings) -> tuple[str, dict[str, Any]]:
        """Check what stands beside the lists; return their kind and the lists alone."""
        return self.kinds[0], content

    def _check_queries(self) -> None:
        twice = [name for name, n in Counter(q.id for q in self.queries).items() if n > 1]
        if twice:
            raise InputError(f"{self.name} {self.split}: query {twice[0]} appears more than once.")
        if not self.queries:
            raise InputError(f"{self.name} {self.split} below {self.root} holds no query.")
        for query in self.queries:
            asked = {
                "reference": query.references,
                "target": (query.target,) if query.target is not None else (),
                "ground truth": query.ground_truths if self.lists_all_truths else (),
                "group member": query.group,
            }
            for role, images in asked.items():
                for image in images:
                    if image not in self.images:
                        raise InputError(
                            f"{self.name} {self.split}, query {query.id}: {role} image {image} is "
                            f"not in the gallery that is listed below {self.root}."
                        )

    # --- for the readers --------------------------------------------------------------------

    def read_annotations(self, file: str) -> Any:
        """Read an annotation file below the root; its bytes enter ``fingerprint``."""
        self.annotations[file] = read_json(self.root / file, self._annotations)
        return self.annotations[file]

    def either(self, stem: str) -> list[Query]:
        """Read ``STEM.jsonl`` where there is one, else ``STEM.json``, a list; InputError."""
        lines = f"{stem}.jsonl"
        return self.lines(lines) if (self.root / lines).exists() else self.entries(f"{stem}.json")

    def lines(self, file: str) -> list[Query]:
        """Read an annotation file of JSON lines, as ``entries`` reads a list; raises InputError."""
        found = list(read_json_lines(self.root / file, self._annotations))
        self.annotations[file] = [content for _, content in found]
        return [self.parse(content, where) for where, content in found]

    def read_rows(self, file: str) -> list[Query]:
        """Read an annotation file in Parquet; its bytes enter ``fingerprint``. Raises InputError
        naming row and field."""
        rows = read_parquet(self.root / file, self._annotations)
        self.annotations[file] = rows
        return [
            self.parse(row, f"{self.root / file}, row {number}") for number, row in enumerate(rows)
        ]

    def read_listing(self, file: str) -> Any:
        """Read a gallery listing below the root; its bytes enter ``gallery_fingerprint``."""
        return read_json(self.root / file, self._listing)

    def entries(self, file: str) -> list[Query]:
        """Read an annotation file that is a list; raises InputError naming entry and field."""
        content = self.read_annotations(file)
        if not isinstance(content, list):
            raise InputError(f"{self.root / file} must be a list of queries.")
        return [
            self.parse(entry, f"{self.root / file}, entry {number}")
            for number, entry in enumerate(content)
        ]

    def inside(self, path: str, where: str, folder: str = "") -> Path:
        """Return ``path``, an image's in a listing, below ``folder`` of the root.

        Raises InputError with ``where`` if it is absolute, climbs out or cannot be a path at all.
        """
        pure = relative(path, f"{self.root}/{where}")
        own = self.root / folder
        file = own / pure
        # A listing that names folders of its own, as CIRR's, has its images in the first of them.
        own = own if folder or len(pure.parts) == 1 else own / pure.parts[0]
        self._folders[file.parent] = own
        return file
