"""Prompts are YAML files: how the LLM is asked for an edit and how its answer is cleaned."""

import functools
import json
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.errors import ConfigError, nearest

PROMPTS = Path(__file__).resolve().parent.parent / "prompts"
NEEDED = {"caption", "relative_caption"}
VARIABLES = NEEDED | {"shared_concept"}
ROLES = ("desired", "preserve", "forbidden")
"""What an answer with roles lists besides the target's description (MulVec, arXiv 2608.25305)."""
MOST_TEXTS = 8
"""How many texts an answer may list for one role."""

environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


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
    answer: Literal["text", "roles"] = "text"
    """``roles``: JSON with the target's description and, for each role, a list of short texts."""

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must follow, None where it is plain text."""
        if self.answer == "text":
            return None
        texts = {"type": "array", "items": {"type": "string"}, "maxItems": MOST_TEXTS}
        fields = {"target": {"type": "string"}, **dict.fromkeys(ROLES, texts)}
        return {
            "type": "object",
            "properties": fields,
            "required": list(fields),
            "additionalProperties": False,
        }

    @property
    def identity(self) -> dict[str, Any]:
        """What enters the fingerprint of edits; the same as before there were roles, without."""
        return self.model_dump(exclude={"answer"} if self.answer == "text" else None)

    @field_validator("system", "user")
    @classmethod
    def _known_variables(cls, template: str) -> str:
        try:
            unknown = meta.find_undeclared_variables(environment.parse(template)) - VARIABLES
        except TemplateError as error:
            raise ValueError(f"not a Jinja template: {error}") from None
        if unknown:
            raise ValueError(f"unknown variable {sorted(unknown)}; known: {sorted(VARIABLES)}")
        return template

    @field_validator("user")
    @classmethod
    def _needed_variables(cls, template: str) -> str:
        missing = sorted(NEEDED - meta.find_undeclared_variables(environment.parse(template)))
        if missing:
            raise ValueError("does not use " + " and ".join(f"{{{{ {m} }}}}" for m in missing))
        return template

    @property
    def variables(self) -> set[str]:
        """The variables that the user template uses."""
        return meta.find_undeclared_variables(environment.parse(self.user))

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
        content = template(self.user).render(
            caption=caption, relative_caption=relative_caption, shared_concept=shared_concept
        )
        return {"role": "user", "content": content.strip()}

    def clean(self, answer: str) -> str:
        """Return the edited caption in ``answer``: label and quotes stripped, first line kept.

        Where the answer repeats the question first, what follows the last label counts. What a
        reasoning model thinks first (``<think>…</think>``) is dropped. An answer with roles gives
        the target's description; empty where it is no such JSON.
        """
        if self.answer == "roles":
            return (self.fields(answer) or {"target": [""]})["target"][0]
        text = _thought_through(answer)
        if self.label:
            label = rf"\W*{re.escape(self.label.rstrip(':'))}\W*:?"
            text = re.sub(rf"^{label}", "", text, flags=re.I)
            labelled = re.split(rf"^{label}", text, flags=re.I | re.M)
            text = labelled[-1] if len(labelled) > 1 and labelled[-1].strip() else text
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[0].strip("\"'“”‘’` \t") if lines else ""

    def fields(self, answer: str) -> dict[str, list[str]] | None:
        """Return an answer with roles: ``target`` (one text) and each of ``ROLES`` (any number).

        None where it is no JSON object with such fields.
        """
        text = _thought_through(answer)
        try:
            found = json.loads(text[text.index("{") : text.rindex("}") + 1])
            # Small tokenizers put spaces around quotes.
            named = {name.strip(): value for name, value in found.items()}
            texts = {"target": [named["target"]]} | {role: named[role] for role in ROLES}
            if not all(isinstance(values, list) for values in texts.values()):
                return None
            return {
                name: [text.strip() for text in values if text.strip() or name == "target"]
                for name, values in texts.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

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


def _thought_through(answer: str) -> str:
    return re.sub(r"<think>.*?</think>", "", answer, flags=re.S).strip()


@functools.lru_cache(maxsize=64)
def template(text: str) -> Template:
    return environment.from_string(text)


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
