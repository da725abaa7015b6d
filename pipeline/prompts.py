"""Prompts are YAML files: how the LLM is asked for an edit and how its answer is cleaned."""

import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.errors import ConfigError, nearest

PROMPTS = Path(__file__).resolve().parent.parent / "prompts"
VARIABLES = {"caption", "relative_caption"}

_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


class Example(BaseModel):
    """One worked example, sent as a user and an assistant turn."""

    model_config = ConfigDict(extra="forbid")

    caption: str
    relative_caption: str
    edited_caption: str


class Prompt(BaseModel):
    """A prompt for the edit stage."""

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str
    source: str = ""
    system: str = ""
    user: str
    examples: list[Example] = Field(default_factory=list)
    stop: list[str] = Field(default_factory=list)
    max_tokens: int = Field(default=64, gt=0)
    label: str = "Edited Description:"

    @field_validator("system", "user")
    @classmethod
    def _known_variables(cls, template: str) -> str:
        try:
            unknown = meta.find_undeclared_variables(_environment.parse(template)) - VARIABLES
        except TemplateError as error:
            raise ValueError(f"not a Jinja template: {error}") from None
        if unknown:
            raise ValueError(f"unknown variable {sorted(unknown)}; known: {sorted(VARIABLES)}")
        return template

    def messages(self, caption: str, relative_caption: str) -> list[dict[str, str]]:
        """Return chat messages (role, content); what all requests share comes first."""
        turns = [{"role": "system", "content": self.system.strip()}] if self.system else []
        for example in self.examples:
            turns.append(self._ask(example.caption, example.relative_caption))
            answer = f"{self.label} {example.edited_caption}".strip()
            turns.append({"role": "assistant", "content": answer})
        return [*turns, self._ask(caption, relative_caption)]

    def _ask(self, caption: str, relative_caption: str) -> dict[str, str]:
        template = _environment.from_string(self.user)
        content = template.render(caption=caption, relative_caption=relative_caption)
        return {"role": "user", "content": content.strip()}

    def clean(self, answer: str) -> str:
        """Return the edited caption in ``answer``: label and quotes stripped, first line kept."""
        text = answer.strip()
        if self.label:
            text = re.sub(rf"^\W*{re.escape(self.label.rstrip(':'))}\W*:?", "", text, flags=re.I)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[0].strip("\"'“”‘’` \t") if lines else ""


def names() -> list[str]:
    """Return the names of the prompts that come with the project."""
    return sorted(file.stem for file in PROMPTS.glob("*.yaml"))


def load(name: str) -> Prompt:
    """Load a prompt by name, or a YAML file by path; raises ConfigError naming file and field."""
    file = Path(name)
    if not (file.suffix in {".yaml", ".yml"} or file.is_file()):
        file = PROMPTS / f"{name}.yaml"
        if not file.is_file():
            raise ConfigError(f"There is no prompt {name!r}.{nearest(name, names())}")
    try:
        return Prompt.model_validate(read_yaml(file) or {})
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_problem(error)}") from None


def read_yaml(file: Path) -> Any:
    """Return a YAML file's content; raises ConfigError naming the file."""
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from None


def first_problem(error: ValidationError) -> str:
    """Return a pydantic error as one line: field, and what is wrong with it."""
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    return f"{field or 'content'}: {problem['msg']}"
