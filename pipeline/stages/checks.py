"""What can be refused before a model is loaded: the checks that stages share, made at their start.

A check raises the error that its stage would end in. `seize run` makes those of all its stages
before the first one, so that nothing is refused after hours. Facts come from the modules that own
them; imports are inside the checks, since the first ones, of folders and options, need no torch.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, ModelError, StorageError
from pipeline.run import Run
from pipeline.stages.base import Stage

if TYPE_CHECKING:
    from pipeline.models.kinds import Choice


def check(run: Run, stages: Sequence[Stage]) -> None:
    """Raise what any of the ``stages`` would end in, as far as it can be known now.

    The checks that import torch are made last.
    """
    quick = [one for stage in stages for one in stage.checks]
    slow = [one for stage in stages for one in stage.slow_checks]
    for one in dict.fromkeys([*quick, *slow]):
        one(run)


def ground_truth(run: Run) -> None:
    """Raise InputError on a split whose ground truth is not public."""
    run.dataset.check_ground_truth()


def tuning(run: Run) -> None:
    """Raise ConfigError on a split that is not for tuning, saying what is."""
    dataset = run.dataset
    if dataset.for_tuning:
        return
    known = [split for split in dataset.splits if split in dataset.tuned_on]
    if not known:
        raise ConfigError(
            f"{dataset.name} has no split to tune on: figures are reported on {dataset.split}, and "
            "would say nothing any more. Tune on another benchmark's val, or on triplets about "
            f"these images (`seize synthesize --dataset {dataset.name} --eval`)."
        )
    why = "figures on a test split would say nothing any more"
    if dataset.split in known:
        why = "no ground truth is known here"
    others = [split for split in known if split != dataset.split] or known
    raise ConfigError(
        f"Weights are tuned on {' or '.join(known)}, never on {dataset.split}: {why}. Use "
        f"{' or '.join(f'--split {split}' for split in others)}."
    )


def cache_folder(run: Run) -> None:
    """Raise StorageError where the cache cannot be made. One that is read-only may hold all."""
    if not os.path.isdir(run.cache):
        _writable(run.cache, "--cache")


def submissions_folder(run: Run) -> None:
    """Raise StorageError where submissions cannot be written."""
    _writable(run.submissions, "--submissions")


def _writable(folder: Path, option: str) -> None:
    place = folder.absolute()
    while not os.path.exists(place):
        place = place.parent
    if not place.is_dir():
        raise StorageError(f"{folder}: {place} is no folder. Choose another with {option}.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"{place} cannot be written. Choose another folder with {option}.")


def model_files(model: "Choice[Any, Any]") -> None:
    """Raise ModelError for a model's folder that is not there, or lacks a file of the model.

    Hub names pass: whether the hub has them is found out when they are loaded.
    """
    from pipeline.models import weights

    for place in model.files:
        wrong = None
        if os.path.isdir(place):
            wrong = weights.problem(Path(place))
        elif not os.path.exists(place) and weights.is_path(place):
            wrong = "there is no such folder"
        if wrong is not None:
            raise ModelError(
                f"The {model.role.name} {place} cannot be loaded: {wrong}. "
                f"Give another: {model.advice}."
            )


def one_method(run: Run) -> None:
    """Raise ConfigError for a list of methods, where one is needed."""
    from pipeline.retrieval import methods

    methods.find(methods.base(run.config.search.method))


def method(run: Run) -> None:
    """Check the methods' names, that the prompt asks for what they need, and their weights.

    Weights of a pool's parts must be those of a part.
    """
    from pipeline.retrieval import methods
    from pipeline.stages import texts

    names = texts.selection(run)
    for name in [*names, *methods.expanded(names)]:
        methods.settings(run.config, name, run.dataset.name)
    methods.check_pools(run.config, names, run.dataset.name)


def device(run: Run) -> None:
    """Raise ConfigError for a device that this machine does not have."""
    name = run.config.runtime.device
    if name in ("auto", "cpu"):
        return
    import torch

    try:
        torch.ones(1, device=name)
    except (RuntimeError, AssertionError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"--device {name} cannot be used here ({said}). Known: auto, cpu, cuda, cuda:1, mps."
        ) from None
