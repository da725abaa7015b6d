"""What can be refused about a folder of one's own images before a model is loaded."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pipeline.config import Config


def images(root: Path, config: "Config") -> None:
    """Raise what ``seize index`` would end in for a folder that is none, or models that are not."""
    from pipeline.stages import embed

    if not os.path.isdir(root):
        raise InputError(f"{root} is not a folder.")
    embed.check_files(config)


def query(root: Path, config: "Config") -> None:
    """Raise what a query of one's own images would end in, as far as it can be known now."""
    from pipeline.stages import caption, edit, released

    for model in (config.captioner.model, config.llm.model):
        if released.is_imported(model):
            raise ConfigError(
                f"{model}: imported texts belong to a benchmark's queries, not to a folder's."
            )
    edit.check(config)
    images(root, config)
    caption.check_files(config)
    edit.check_files(config)
