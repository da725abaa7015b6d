"""The evaluate stage: validation metrics of a ranking, or of any submission-shaped file."""

from collections.abc import Sequence
from pathlib import Path

from pipeline import search
from pipeline.datasets.base import Dataset, Predictions, read_json
from pipeline.errors import InputError
from pipeline.records import Ranking
from pipeline.run import Run


def predictions(rankings: Sequence[Ranking], kinds: Sequence[str]) -> dict[str, Predictions]:
    """Return the prediction lists of each kind: whole rankings, and CIRR's group rankings."""
    fields = {"recall": lambda r: r.images, "recall_subset": lambda r: r.subset}
    return {kind: {r.query: fields[kind](r) for r in rankings} for kind in kinds}


def evaluate(run: Run) -> dict[str, float]:
    """Return the dataset's metrics in percent for the run's ranking."""
    return run.dataset.evaluate(predictions(search.read(run), run.dataset.kinds))


def evaluate_files(dataset: Dataset, files: Sequence[Path]) -> dict[str, float]:
    """Return the metrics of submission-shaped files: one a kind. Raises InputError."""
    lists = predictions_of_files(dataset, files)
    try:
        return dataset.evaluate(lists)
    except InputError as error:
        raise InputError(f"{', '.join(map(str, files))}: {error}") from None


def predictions_of_files(dataset: Dataset, files: Sequence[Path]) -> dict[str, Predictions]:
    """Return the prediction lists of submission-shaped files by kind. Raises InputError."""
    found: dict[str, Predictions] = {}
    for file in files:
        kind, content = dataset.read_submission(read_json(file), file)
        if kind in found:
            raise InputError(f"{file} is a second file with {kind} predictions; give one a kind.")
        found[kind] = content
    return found
