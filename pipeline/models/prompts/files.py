"""Prompts as YAML files: those that come with the project, by name, and a user's, by path."""

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import ConfigError, nearest
from pipeline.installation import SHIPPED
from pipeline.yamls import first_problem, read_yaml

PROMPTS = SHIPPED / "prompts"

Form = TypeVar("Form", bound=BaseModel)


def names(folder: Path) -> list[str]:
    """Return the names of the prompts in one of the project's folders."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def load(form: type[Form], folder: Path, kind: str, name: str) -> Form:
    """Load a prompt of ``folder`` by name, or a YAML file by path.

    ``kind`` is what an error calls it. Raises ConfigError naming file and field.
    """
    file = Path(name)
    if not (file.suffix in {".yaml", ".yml"} or os.path.isfile(file)):
        known = names(folder)
        if name not in known:
            raise ConfigError(f"There is no {kind} {name!r}.{nearest(name, known)}")
        file = folder / f"{name}.yaml"
    try:
        return form.model_validate(read_yaml(file) or {})
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_problem(error)}") from None
