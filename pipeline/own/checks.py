"""What can be refused about a folder of one's own images before a model is loaded."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, InputError
from pipeline.stages import checks

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.models.kinds import Choice


def images(root: Path, config: "Config") -> None:
    """Raise what ``seize index`` would end in for a folder that is none, or models that are not."""
    from pipeline.models import encoders

    if not os.path.isdir(root):
        raise InputError(f"{root} is not a folder.")
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
