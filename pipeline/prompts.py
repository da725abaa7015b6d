"""Prompts are YAML files: how the LLM is asked for an edit and how its answer is cleaned."""

import functools
import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.errors import ConfigError, nearest

PROMPTS = Path(__file__).resolve().parent.parent / "prompts"
NEEDED = {"caption", "relative_caption"}
VARIABLES = NEEDED | {"shared_concept"}

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

    @field_validator("user")
    @classmethod
    def _needed_variables(cls, template: str) -> str:
        missing = sorted(NEEDED - meta.find_undeclared_variables(_environment.parse(template)))
        if missing:
            raise ValueError("does not use " + " and ".join(f"{{{{ {m} }}}}" for m in missing))
        return template

    @property
    def variables(self) -> set[str]:
        """The variables that the user template uses."""
        return meta.find_undeclared_variables(_environment.parse(self.user))

    def messages(
        self, caption: str, relative_caption: str, shared_concept: str = ""
    ) -> list[dict[str, str]]:
        """Return chat messages (role, content).

        What all requests share (system turn, examples) comes first, so that a server with a prefix
        cache computes it once; ``shared_concept`` is empty unless asked for.
        """
        turns = [{"role": "system", "content": self.system.strip()}] if self.system else []
        for example in self.examples:
            turns.append(self._ask(example.caption, example.relative_caption, ""))
            answer = f"{self.label} {example.edited_caption}".strip()
            turns.append({"role": "assistant", "content": answer})
        return [*turns, self._ask(caption, relative_caption, shared_concept)]

    def _ask(self, caption: str, relative_caption: str, shared_concept: str) -> dict[str, str]:
        content = _template(self.user).render(
            caption=caption, relative_caption=relative_caption, shared_concept=shared_concept
        )
        return {"role": "user", "content": content.strip()}

    def clean(self, answer: str) -> str:
        """Return the edited caption in ``answer``: label and quotes stripped, first line kept.

        Where the answer repeats the question first, what follows the last label counts. What a
        reasoning model thinks first (``<think>…</think>``) is dropped.
        """
        text = re.sub(r"<think>.*?</think>", "", answer, flags=re.S).strip()
        if self.label:
            label = rf"\W*{re.escape(self.label.rstrip(':'))}\W*:?"
            text = re.sub(rf"^{label}", "", text, flags=re.I)
            labelled = re.split(rf"^{label}", text, flags=re.I | re.M)
            text = labelled[-1] if len(labelled) > 1 and labelled[-1].strip() else text
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[0].strip("\"'“”‘’` \t") if lines else ""

    def repeated(
        self, text: str, caption: str, relative_caption: str, shared_concept: str = ""
    ) -> bool:
        """Return whether a cleaned answer is a line of the prompt, not an edit.

        The caption or the relative caption alone is an edit: nothing, or everything, was changed.
        """
        if text in (caption.strip(), relative_caption.strip()):
            return False
        messages = self.messages(caption, relative_caption, shared_concept)
        asked = (m["content"] for m in messages if m["role"] != "assistant")
        return any(text == line.strip() for content in asked for line in content.splitlines())


@functools.lru_cache(maxsize=64)
def _template(text: str) -> Template:
    return _environment.from_string(text)


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
