"""Prompts of the synthesize stage, YAML files too: what is asked for, and which texts it gets."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.models import answers
from pipeline.models.prompts import files
from pipeline.models.prompts.edit import check_template, variables_of
from pipeline.models.prompts.files import PROMPTS
from pipeline.models.prompts.structured import StructuredPrompt

FOLDER = PROMPTS / "synthesize"

Way = Literal["pair", "caption", "fine", "short"]


@dataclass(frozen=True)
class Task:
    """What one way of writing gets, and the fields of a triplet that its answer holds."""

    variables: frozenset[str]
    needed: frozenset[str]
    fields: tuple[str, ...]


TASKS: dict[Way, Task] = {
    "pair": Task(
        frozenset({"source", "target", "category"}),
        frozenset({"source", "target"}),
        ("text", "text_reverse"),
    ),
    "caption": Task(
        frozenset({"source", "category"}), frozenset({"source"}), ("text", "target_caption")
    ),
    "fine": Task(frozenset({"text", "source", "target"}), frozenset({"text"}), ("text_fine",)),
    "short": Task(frozenset({"text", "words"}), frozenset({"text"}), ("text",)),
}
"""``pair``: two descriptions become the difference, forward and reverse (FACap, MTST). ``caption``:
one description becomes an edit and the edited description (SCOT). ``fine``: a short text becomes a
long one (FineCIR). ``short``: a long text becomes one that an encoder can read."""

NOTHING = "nothing differs"
"""Why an answer holds no text though it is as it should be."""


class SynthesizePrompt(StructuredPrompt):
    """A prompt whose answer is JSON with fields of a triplet."""

    way: Way
    max_tokens: int = Field(default=256, gt=0)
    temperature: float = Field(default=0.0, ge=0, le=2)
    """At least; at 0 a model makes the same kind of edit of every caption."""

    @field_validator("system", "user")
    @classmethod
    def _is_template(cls, template: str) -> str:
        variables_of(template)
        return template

    @model_validator(mode="after")
    def _variables(self) -> "SynthesizePrompt":
        for template in (self.system, self.user):
            check_template(template, set(self.task.variables))
        missing = sorted(self.task.needed - variables_of(self.user))
        if missing:
            raise ValueError("user does not use " + " and ".join(f"{{{{ {m} }}}}" for m in missing))
        return self

    @property
    def task(self) -> Task:
        """What is asked for."""
        return TASKS[self.way]

    @property
    def variables(self) -> set[str]:
        """The variables that the templates use."""
        return variables_of(self.user) | variables_of(self.system)

    @property
    def answer_schema(self) -> dict[str, Any]:
        """The JSON schema that the answer must follow."""
        return answers.object_schema(**{name: {"type": "string"} for name in self.task.fields})

    def messages(self, texts: Mapping[str, str]) -> list[dict[str, str]]:
        """Return chat messages (role, content) with the task's variables put in."""
        return self.turns({name: texts.get(name, "") for name in self.task.variables})

    def read(self, answer: str) -> tuple[dict[str, str], str | None]:
        """Return the fields of an answer, or {} and why there are none."""
        said = answers.without_thoughts(answer)
        if said is None:
            return {}, answers.CUT_OFF
        named = self.task.fields
        try:
            found = answers.json_object(said)
            # Small tokenizers put spaces around quotes, and before punctuation.
            by_name = {name.strip(): value for name, value in found.items()}
            fields = {name: _cleaned(by_name[name]) for name in named}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}, f"the answer was no JSON with {' and '.join(named)}"
        empty = [name for name in named if not fields[name]]
        if len(empty) == len(named):
            return {}, NOTHING
        if empty:
            return {}, f"{empty[0]} was empty"
        return fields, None


def _cleaned(text: str) -> str:
    return re.sub(r" +([.,;:!?])", r"\1", " ".join(text.split()))


def names() -> list[str]:
    """Return the names of the prompts that come with the project."""
    return files.names(FOLDER)


def load(name: str) -> SynthesizePrompt:
    """Load a prompt by name, or a YAML file by path; raises ConfigError naming file and field."""
    return files.load(SynthesizePrompt, FOLDER, "synthesize prompt", name)
