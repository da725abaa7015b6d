"""One benchmark in Python: what the commands do, with pandas in and out (``seize.open``)."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from pipeline import config as configuration
from pipeline import datasets
from pipeline.config import Config
from pipeline.errors import InputError, nearest
from pipeline.images import pictures
from pipeline.records import Ranking
from pipeline.retrieval import methods as retrieval
from pipeline.run import Run
from pipeline.stages import search as searching
from pipeline.stages import texts
from pipeline.stages.everything import run_stages
from pipeline.study import compare, frames

COLUMNS = ("query", "rank", "image")
"""What a frame of rankings made elsewhere has to have."""


class Benchmark:
    """One split of a benchmark under one configuration; made by ``seize.open``.

    >>> import seize
    >>> circo = seize.open("circo", "val", "data/demo", config="demo")
    >>> circo
    <Benchmark circo-val: 12 queries, method seize>
    >>> metrics = circo.run()  # every stage that is not in the cache yet
    >>> circo.search(["seize", "pdv"])  # from features on disk; no model is called
    >>> table = circo.compare(["seize", "pdv"])
    >>> table.columns.tolist()
    ['value', 'low', 'high', 'difference', 'difference_low', 'difference_high', 'p', 'p_holm']
    >>> float(table.loc[("seize", "mAP@5"), "difference"])  # against the first one
    0.0
    >>> ranked = circo.rankings("pdv")
    >>> ranked.columns.tolist()
    ['query', 'rank', 'image', 'score', 'relevant']
    >>> circo.evaluate(ranked).equals(circo.evaluate("pdv"))  # rankings come from anywhere
    True
    >>> picture = circo.show(circo.queries.index[0], "pdv")  # a notebook shows it

    A method is one name (``circo.methods`` lists them), that of the configuration where none is
    given; the errors are the command line's.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def __repr__(self) -> str:
        run = self._run
        method = run.config.search.method
        return f"<Benchmark {run.name}: {len(run.queries)} queries, method {method}>"

    @property
    def methods(self) -> list[str]:
        """The names of the methods that can rank here."""
        return retrieval.selection("all", texts.lacking(self._run))

    @property
    def queries(self) -> pd.DataFrame:
        """A line a query, by its id: reference, relative_caption, gallery, relevant (a tuple)."""
        lines = [
            (query.reference, self._run.relative_captions(query)[0], query.gallery, query.relevant)
            for query in self._run.queries
        ]
        names = pd.Index([query.id for query in self._run.queries], name="query")
        columns = ["reference", "relative_caption", "gallery", "relevant"]
        return pd.DataFrame(lines, index=names, columns=columns)

    def run(self, method: str | None = None) -> pd.Series | None:
        """Run every stage that the method needs; return the metrics, None without ground truth.

        What the cache holds is not computed again. Submissions are written, too.
        """
        run = self._with(method)
        metrics = run_stages(run)[1]
        return None if metrics is None else _series(metrics, run.config.search.method)

    def search(self, methods: str | Sequence[str] | None = None) -> None:
        """Rank the gallery by one method, several or ``"all"``, from features on disk."""
        searching.search(self._with(methods))

    def rankings(self, method: str | None = None) -> pd.DataFrame:
        """Return a line a retrieved image: query, rank (from 1), image, score, relevant.

        Raises MissingStageError where the method was not searched.
        """
        run = self._with(method)
        return frames.frame(run, searching.read(run))

    def evaluate(self, rankings: "str | pd.DataFrame | None" = None) -> pd.Series:
        """Return the metrics in percent of a method's rankings, or of a frame's.

        A frame has the columns query, rank and image, as ``rankings`` returns; and kind, where a
        benchmark has several kinds of lists (CIRR: ``recall``, ``recall_subset``) and others than
        the first are meant. Raises InputError without ground truth or naming what is wrong.
        """
        if isinstance(rankings, pd.DataFrame):
            return _series(self._run.dataset.evaluate(self._lists(rankings)), "rankings")
        run = self._with(rankings)
        run.dataset.check_ground_truth()
        found = searching.read(run)
        metrics = run.dataset.evaluate(run.dataset.predictions(found))
        return _series(metrics, run.config.search.method)

    def compare(
        self,
        methods: str | Sequence[str] | None = "all",
        others: "Mapping[str, pd.DataFrame] | None" = None,
        baseline: str | None = None,
        resamples: int = 2000,
    ) -> pd.DataFrame:
        """Return every metric of these methods and of other rankings, by method and metric.

        Columns: value, low, high (percent, 95 % intervals), and difference, difference_low,
        difference_high (percentage points) against ``baseline``, the first row by default, by the
        paired bootstrap; p of Fisher's randomisation test, and p_holm, corrected for all rows.
        ``others`` are frames as ``evaluate`` takes them, by the name of the row;
        whether they were made under the same protocol is for you to know.
        """
        run = self._with(methods)
        run.dataset.check_ground_truth()
        rows = compare.rows_of_run(run)
        for name, frame in (others or {}).items():
            values = run.dataset.per_query(self._lists(frame))
            rows.append(compare.Row(name, values, run.protocol))
        found = compare.compare(run.dataset, rows, baseline or rows[0].name, resamples)
        return found.set_index(["method", "metric"])

    def show(self, query: str, method: str | None = None, top: int = 10) -> Image.Image:
        """Return a picture of a query and its best images, ground truth framed."""
        run = self._with(method)
        known: dict[str, Ranking] = {ranking.query: ranking for ranking in searching.read(run)}
        if query not in known:
            raise InputError(f"Query {query} is not in {run.name}.{nearest(str(query), known)}")
        return pictures.show(run, known[query], top)

    def _with(self, methods: str | Sequence[str] | None) -> Run:
        """Return the run with another method, or with several for the stages that take them."""
        if methods is None:
            return self._run
        return self._run.with_method(
            methods if isinstance(methods, str) else retrieval.join(list(methods))
        )

    def _lists(self, frame: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
        """Return a frame's prediction lists by kind and query; raises InputError."""
        missing = [column for column in COLUMNS if column not in frame.columns]
        if missing:
            raise InputError(
                f"The rankings have no column {missing[0]!r}: give query, rank and image."
            )
        if frame[list(COLUMNS)].isna().to_numpy().any():
            raise InputError("The rankings have lines without query, rank or image: fill them.")
        first = self._run.dataset.kinds[0]
        kinds = frame["kind"] if "kind" in frame.columns else [first] * len(frame)
        found: dict[str, dict[str, list[str]]] = {}
        lines = zip(kinds, frame["query"], frame["rank"], frame["image"], strict=True)
        for kind, query, _, image in sorted(lines, key=lambda line: line[2]):
            found.setdefault(str(kind), {}).setdefault(str(query), []).append(str(image))
        return found or {first: {}}


def open_benchmark(
    benchmark: str,
    split: str = "val",
    root: Path | str = "data",
    *,
    config: Config | str = configuration.DEFAULT,
    cache: Path | str = "cache",
    submissions: Path | str = "submissions",
    limit: int | None = None,
) -> Benchmark:
    """Return one split of a benchmark, read from its official layout in or below ``root``.

    ``config`` is a preset's name, a YAML file or a ``Config``; ``limit`` keeps the first queries
    alone, for a trial. No image is opened. Raises ConfigError for a name or setting, InputError for
    the benchmark's files.

    >>> import seize
    >>> cirr = seize.open("cirr", "val", "data/demo", config="demo", limit=2)
    >>> cirr.queries.columns.tolist()
    ['reference', 'relative_caption', 'gallery', 'relevant']
    """
    settings = configuration.load(config) if isinstance(config, str) else config
    retrieval.check(settings, tuple(datasets.known()))
    links = settings.runtime.follow_links
    loaded = datasets.load(benchmark, split, Path(root), settings.dataset.gallery, links)
    given = ["--dataset", benchmark, "--split", split, "--data-root", str(root)]
    given += ["--config", config] if isinstance(config, str) else []
    given += ["--cache", str(cache)]
    if limit is not None:
        if limit < 1:
            raise InputError(f"limit is {limit}: give the number of queries to keep, 1 or more.")
        loaded.limit(limit)
        given += ["--limit", str(limit)]
    return Benchmark(Run(loaded, settings, Path(cache), Path(submissions), shlex.join(given)))


def _series(metrics: Mapping[str, float], name: str) -> pd.Series:
    return pd.Series(dict(metrics), name=name, dtype="float64").rename_axis("metric")
