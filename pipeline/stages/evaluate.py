"""The evaluate stage: validation metrics of a ranking, or of any submission-shaped file."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.datasets.base import Dataset
from pipeline.datasets.reading import Predictions, read_json
from pipeline.errors import InputError
from pipeline.run import Run
from pipeline.stages import checks, search
from pipeline.stages.base import Stage


def evaluate(run: Run) -> dict[str, float]:
    """Return the dataset's metrics in percent for the run's ranking."""
    return run.dataset.evaluate(run.dataset.predictions(search.read(run)))


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


STAGE = Stage(
    "evaluate",
    """Print validation metrics in percent: of the ranking, or of submission-shaped PREDICTIONS.

    Example: seize evaluate --dataset circo --split val predictions.json --json
    """,
    after=("search", "verify", "submit"),
    wanted=lambda run: run.dataset.has_ground_truth,
    checks=(checks.ground_truth, checks.one_method, checks.method),
    measure=evaluate,
)
