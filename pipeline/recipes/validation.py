"""Checkpoints told apart by a benchmark's split: each is searched with, as a run would."""

from pathlib import Path

from pipeline.models.training.loop import Validation
from pipeline.recipes.base import Given, Recipe


def on(recipe: Recipe, given: Given, place: str) -> Validation:
    """Return how to measure checkpoints on ``DATASET:SPLIT``, by its first metric.

    Raises ConfigError for a place that is none, InputError for a split without ground truth.
    """
    run = given.run(place)
    run.dataset.check_ground_truth()
    metric = run.dataset.headline

    def measure(checkpoint: Path) -> float:
        from pipeline.stages import embed, evaluate, inputs, search

        changes = {"search.method": recipe.method, recipe.weights: str(checkpoint.absolute())}
        one = given.run(place, changes)
        embed.embed(one)
        inputs.make_clues(one)
        search.search(one)
        return evaluate.evaluate(one)[metric]

    return Validation(f"{run.name} {metric}", measure)
