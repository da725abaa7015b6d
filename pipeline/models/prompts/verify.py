"""Prompts of the verify stage, YAML files too: what is asked about a candidate and its images."""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.errors import ConfigError, nearest
from pipeline.models.prompts.edit import PROMPTS, check_template, render, variables_of
from pipeline.yamls import first_problem, read_yaml

FOLDER = PROMPTS / "verify"
VARIABLES = {"edited_caption", "relative_caption"}


class VerifyPrompt(BaseModel):
    """A question about a candidate whose answer begins with yes or no."""

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str
    source: str = ""
    system: str = ""
    images: list[Literal["reference", "candidate"]] = Field(default=["candidate"])
    """The images of the request, in order, before the text."""
    user: str

    @field_validator("images")
    @classmethod
    def _has_candidate(cls, images: list[str]) -> list[str]:
        if "candidate" not in images:
            raise ValueError("the candidate must be among the images")
        return images

    @field_validator("system", "user")
    @classmethod
    def _known_variables(cls, template: str) -> str:
        check_template(template, VARIABLES)
        return template

    @field_validator("user")
    @classmethod
    def _needed_variables(cls, template: str) -> str:
        if not variables_of(template):
            raise ValueError(f"must use one or both of {sorted(VARIABLES)}")
        return template

    @property
    def variables(self) -> set[str]:
        """The variables that the templates use."""
        return variables_of(self.user) | variables_of(self.system)

    def messages(
        self, images: list[dict[str, Any]], edited_caption: str, relative_caption: str
    ) -> list[dict[str, Any]]:
        """Return chat messages; ``images`` are the content parts that stand for the images."""
        texts = {"edited_caption": edited_caption, "relative_caption": relative_caption}
        system, user = (render(part, **texts).strip() for part in (self.system, self.user))
        turns: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        content = [*images, {"type": "text", "text": user}]
        return [*turns, {"role": "user", "content": content}]


def names() -> list[str]:
    """Return the names of the prompts that come with the project."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name: str) -> VerifyPrompt:
    """Load a prompt by name, or a YAML file by path; raises ConfigError naming file and field."""
    file = Path(name)
    if not (file.suffix in {".yaml", ".yml"} or os.path.isfile(file)):
        if name not in names():
            raise ConfigError(f"There is no verify prompt {name!r}.{nearest(name, names())}")
        file = FOLDER / f"{name}.yaml"
    try:
        return VerifyPrompt.model_validate(read_yaml(file) or {})
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_problem(error)}") from None
