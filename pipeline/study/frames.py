"""Rankings and metrics as pandas frames, for notebooks.

>>> from pipeline import config, datasets
>>> from pipeline.images.pictures import show
>>> from pipeline.run import Run
>>> from pipeline.stages import search
>>> from pipeline.study import frames
>>> circo = datasets.load("circo", "val", data_root)
>>> run = Run(circo, config.load("demo"), cache, submissions)
>>> rankings = search.read(run)
>>> frames.frame(run, rankings).columns.tolist()
['query', 'rank', 'image', 'score', 'relevant']
>>> found = frames.per_query(run, rankings)["mAP@5"]
>>> worst = found.idxmin()
>>> picture = show(run, next(r for r in rankings if r.query == worst))
>>> picture.size  # a notebook shows it where it is the last line of a cell
(1752, 184)
>>> summary = frames.summary(run, {"seize": rankings})
>>> [metric for metric in summary.loc["seize"].index if "/" not in metric][:3]
['mAP@5', 'mAP@10', 'mAP@25']
>>> summary.columns.tolist()
['value', 'low', 'high', 'difference', 'difference_low', 'difference_high', 'p', 'p_holm']
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from pipeline.records import Ranking
from pipeline.run import Run
from pipeline.study import compare


def frame(run: Run, rankings: Sequence[Ranking]) -> pd.DataFrame:
    """Return a line a retrieved image: query, rank (from 1), image, score, relevant.

    ``relevant`` says whether the image is ground truth; missing (NA) where that is not known.
    """
    relevant = {query.id: query.relevant for query in run.queries}
    lines = [
        (ranking.query, rank, image, score, _is_in(image, relevant.get(ranking.query, ())))
        for ranking in rankings
        for rank, (image, score) in enumerate(
            zip(ranking.images, ranking.scores, strict=True), start=1
        )
    ]
    found = pd.DataFrame(lines, columns=["query", "rank", "image", "score", "relevant"])
    return found.astype({"relevant": "boolean"})


def _is_in(image: str, relevant: Sequence[str]) -> bool | None:
    return image in relevant if relevant else None


def per_query(run: Run, rankings: Sequence[Ranking]) -> pd.DataFrame:
    """Return every metric's value in [0, 1] by query: queries down, metrics across.

    NaN where a metric is not defined on a query, such as another category's. The benchmark's
    headline metric is always there. Raises InputError without ground truth, or where a query has
    no ranking.
    """
    dataset = run.dataset
    values = dataset.per_query(dataset.predictions(rankings))
    columns = {dataset.headline: dataset.of_each_query(values, dataset.headline)} | values
    names = [query.id for query in run.queries]
    return pd.DataFrame(columns, index=pd.Index(names, name="query"))


def summary(
    run: Run, rankings: Mapping[str, Sequence[Ranking]], resamples: int = 2000
) -> pd.DataFrame:
    """Return every metric with its 95 % interval in percent: by method and metric.

    Columns: value, low, high, difference, difference_low, difference_high (percentage points)
    against the first of ``rankings`` by the paired bootstrap, p and p_holm, as ``compare.compare``
    has them.
    """
    rows = [
        compare.Row(name, run.dataset.per_query(run.dataset.predictions(own)), None)
        for name, own in rankings.items()
    ]
    found = compare.compare(run.dataset, rows, rows[0].name, resamples)
    return found.set_index(["method", "metric"])
