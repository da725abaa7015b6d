"""What can be refused about a folder of one's own images before a model is loaded."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import OWN_IMAGES
from pipeline.errors import ConfigError, InputError
from pipeline.stages import checks

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.models.kinds import Choice


def folder(root: Path) -> None:
    """Raise InputError for a folder that is none."""
    if not os.path.isdir(root):
        raise InputError(f"{root} is not a folder.")


def images(root: Path, config: "Config") -> None:
    """Raise what ``seize index`` would end in for a folder that is none, or models that are not."""
    from pipeline.models import encoders

    folder(root)
    checks.model_files(encoders.ROLE.chosen(config))


def query(root: Path, config: "Config") -> None:
    """Raise what a query of one's own images would end in, as far as it can be known now.

    Captioner and LLM are looked at where the method ranks by what they make.
    """
    from pipeline.models import captioners, llms
    from pipeline.retrieval import methods
    from pipeline.stages import edit

    needs = methods.reads(config.search.method)
    models: list[Choice[Any, Any]] = []
    if needs & {"captions", "edits"}:
        models.append(captioners.ROLE.chosen(config))
    if "edits" in needs:
        models.append(llms.ROLE.chosen(config))
    for model in models:
        if model.kind.given:
            name = f"{model.kind_name}:{model.name}"
            raise ConfigError(
                f"{name}: {model.kind_name} texts belong to a benchmark's queries, not to a "
                "folder's."
            )
        checks.model_files(model)
    if "edits" in needs:
        edit.check(config)
    images(root, config)
    for clue in methods.clues_of(config.search.method).values():
        clue.check(config, OWN_IMAGES)


def method(config: "Config", name: str) -> None:
    """Raise ConfigError unless ``name`` is one method that can rank a folder of one's own."""
    from pipeline.retrieval import methods

    if parts := methods.find(name).parts:
        raise ConfigError(
            f"{name} fuses the rankings of benchmarks' queries. For images of your own take one of "
            f"its parts: --method {parts[0]}."
        )
    if config.with_search(method=name).encoder != config.encoder:
        raise ConfigError(
            f"{name} ranks by another encoder than this folder's index. Give its name at the start."
        )
    methods.selection(name, lacking(config))


def lacking(config: "Config") -> dict[str, str]:
    """Return what a folder of one's own has not, for ``methods.selection``."""
    from pipeline.models.prompts import edit as prompts
    from pipeline.retrieval import methods

    why = "edits with roles, which are made for benchmarks only."
    none = dict.fromkeys(prompts.ROLES, why) | methods.lacking(config, OWN_IMAGES)
    return none | {"retrievals": "plans of queries, which are made for benchmarks only."}
