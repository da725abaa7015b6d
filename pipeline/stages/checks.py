"""What can be refused before a model is loaded: the checks of each stage, made at its start.

A check raises the error that its stage would end in. `seize run` makes those of all its stages
before the first one, so that nothing is refused after hours. Facts come from the modules that own
them; imports are inside the checks, since the first ones, of folders and options, need no torch.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, InputError, ModelError, StorageError

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.models.kinds import Choice
    from pipeline.run import Run

Check = Callable[["Run"], None]

MODELS = ("caption", "edit", "embed", "verify")
"""The stages that load models."""
RANKINGS = ("search", "verify", "evaluate", "submit")
"""The stages that read or write a ranking."""


def check(run: "Run", *stages: str) -> None:
    """Raise what any of the ``stages`` would end in, as far as it can be known now."""
    for one, concerned in CHECKS:
        if not set(concerned).isdisjoint(stages):
            one(run)


def stages_of(run: "Run") -> tuple[str, ...]:
    """Return the stages that ``seize run`` goes through, besides evaluate."""
    from pipeline.stages import texts

    verify = ("verify",) if run.verified else ()
    return (*texts.stages(run), "embed", "search", *verify, "submit", "run")


def ground_truth(run: "Run") -> None:
    """Raise InputError on a split whose ground truth is not public."""
    run.dataset.check_ground_truth()


def tuning(run: "Run") -> None:
    """Raise ConfigError on a split that is not for tuning."""
    if run.dataset.split != "val" or not run.dataset.has_ground_truth:
        raise ConfigError(
            f"Weights are tuned on val, never on {run.dataset.split}: figures on a test split "
            "would say nothing any more. Use --split val."
        )


def cache_folder(run: "Run") -> None:
    """Raise StorageError where the cache cannot be made. One that is read-only may hold all."""
    if not os.path.isdir(run.cache):
        _writable(run.cache, "--cache")


def submissions_folder(run: "Run") -> None:
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


def captions(run: "Run") -> None:
    """Check the captioner's files, or that the captions of others are there."""
    from pipeline.models import captioners
    from pipeline.stages import caption

    caption.record_file(run)
    model_files(captioners.ROLE.chosen(run.config))


def edits(run: "Run") -> None:
    """Check prompt, number of edits and the LLM's files, or that the edits of others are there."""
    from pipeline.models import llms
    from pipeline.stages import edit

    edit.check(run.config)
    edit.record_file(run)
    model_files(llms.ROLE.chosen(run.config))


def verdicts(run: "Run") -> None:
    """Check the verifier's prompt and, where it runs here, its files."""
    from pipeline.models import verifiers
    from pipeline.models.prompts import verify as prompts

    prompts.load(run.config.verifier.prompt)
    model_files(verifiers.ROLE.chosen(run.config))


def clip_files(run: "Run") -> None:
    """Check CLIP's folder, where it is one."""
    _clip_files(run.config)


def _clip_files(config: "Config") -> None:
    from pipeline.models import encoders

    model_files(encoders.ROLE.chosen(config))


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


def one_method(run: "Run") -> None:
    """Raise ConfigError for a list of methods, where one is needed."""
    from pipeline.retrieval import methods

    methods.find(methods.base(run.config.search.method))


def method(run: "Run") -> None:
    """Check the methods' names, that the prompt asks for what they need, and their weights."""
    from pipeline.retrieval import methods
    from pipeline.stages import texts

    for name in texts.selection(run):
        methods.settings(run.config, name, run.dataset.name)


def index(run: "Run") -> None:
    """Check the index's kind, and that it can serve the methods."""
    from pipeline.retrieval import indexes, methods
    from pipeline.stages import texts

    kind = run.config.search.index.kind
    indexes.check(kind)
    names = texts.selection(run)
    if kind != "scan" and "seize-rank" in map(methods.base, names):
        raise indexes.needs_scan(kind)


def device(run: "Run") -> None:
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


def clip_names(run: "Run") -> None:
    """Raise ModelError for an encoder that its kind does not know."""
    from pipeline.stages import embed

    if not embed.image_file(run).exists():  # else it was known; open_clip is slow to import
        from pipeline.models import encoders

        encoders.width(run.config.clip)


CHECKS: list[tuple[Check, tuple[str, ...]]] = [
    (ground_truth, ("evaluate", "compare")),
    (tuning, ("tune",)),
    (cache_folder, (*MODELS, "search")),
    (submissions_folder, ("submit",)),
    (captions, ("caption",)),
    (edits, ("edit",)),
    (verdicts, ("verify",)),
    (clip_files, ("embed",)),
    # What follows imports torch.
    (one_method, ("run", "evaluate", "submit")),
    (method, (*RANKINGS, "compare")),
    (index, ("search",)),
    (device, (*MODELS, "search")),
    (clip_names, ("run",)),
]
"""Each check with the stages that it concerns, the quickest first."""


def own_images(root: Path, config: "Config") -> None:
    """Raise what ``seize index`` would end in for a folder that is none, or models that are not."""
    if not os.path.isdir(root):
        raise InputError(f"{root} is not a folder.")
    _clip_files(config)


def own_query(root: Path, config: "Config") -> None:
    """Raise what a query of one's own images would end in, as far as it can be known now."""
    from pipeline.models import captioners, llms
    from pipeline.stages import edit

    for model in (captioners.ROLE.chosen(config), llms.ROLE.chosen(config)):
        if model.kind.given:
            name = f"{model.kind_name}:{model.name}"
            raise ConfigError(
                f"{name}: {model.kind_name} texts belong to a benchmark's queries, not to a "
                "folder's."
            )
        model_files(model)
    edit.check(config)
    own_images(root, config)
