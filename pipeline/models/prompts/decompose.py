"""Prompts that have a query taken apart into atomic retrievals, and the plan that comes of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.models import answers
from pipeline.models.prompts import files
from pipeline.models.prompts.edit import check_template, variables_of
from pipeline.models.prompts.files import PROMPTS
from pipeline.models.prompts.structured import StructuredPrompt

FOLDER = PROMPTS / "decompose"
VARIABLES = {"captions", "relative_caption"}
MOST = 6
"""Atomic retrievals of a plan."""
LONGEST = 300
"""Characters of one's text."""
OF_A_ROLE = 2
"""Texts of a role that become retrievals, those that most edits name."""


class Atom(BaseModel):
    """One atomic retrieval: the images nearest to a text, the reference image, or both."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    by: Literal["text", "image", "both"]
    text: str = Field(default="", max_length=LONGEST)
    wanted: bool = True
    """Whether what it finds is joined, or taken away (a difference)."""

    @model_validator(mode="after")
    def _has_text(self) -> "Atom":
        if (self.by != "image") != bool(self.text):
            raise ValueError("a retrieval by text or both has a text, one by image has none")
        return self


class Plan(BaseModel):
    """A query as atomic retrievals, and how the wanted ones are joined."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    retrievals: tuple[Atom, ...] = Field(min_length=1, max_length=MOST)
    join: Literal["union", "intersection"] = "union"

    @model_validator(mode="after")
    def _wants(self) -> "Plan":
        if not any(atom.wanted for atom in self.retrievals):
            raise ValueError("nothing is wanted")
        return self

    @property
    def texts(self) -> list[str]:
        """The texts of the retrievals that have one, in order."""
        return [atom.text for atom in self.retrievals if atom.text]


def of_roles(desired: Sequence[str], preserve: Sequence[str], forbidden: Sequence[str]) -> Plan:
    """Return the plan that an LLM's roles are: what is desired with the image, what is preserved
    by its text, less what is forbidden. Texts that most edits name count.
    """
    wanted = [Atom(by="both", text=text) for text in _most_common(desired)]
    wanted += [Atom(by="text", text=text) for text in _most_common(preserve)]
    never = [Atom(by="text", text=text, wanted=False) for text in _most_common(forbidden)]
    return Plan(retrievals=(*(wanted or [Atom(by="image")]), *never))


def _most_common(texts: Sequence[str]) -> list[str]:
    cut = (text.strip()[:LONGEST].strip() for text in texts)
    return [text for text, _ in Counter(filter(None, cut)).most_common(OF_A_ROLE)]


class DecomposePrompt(StructuredPrompt):
    """A prompt whose answer is a plan as JSON."""

    max_tokens: int = Field(default=384, gt=0)
    temperature: float = Field(default=0.0, ge=0, le=2)

    @field_validator("system", "user")
    @classmethod
    def _known_variables(cls, template: str) -> str:
        check_template(template, VARIABLES)
        return template

    @field_validator("user")
    @classmethod
    def _needed_variables(cls, template: str) -> str:
        if "relative_caption" not in variables_of(template):
            raise ValueError("does not use {{ relative_caption }}")
        return template

    @property
    def answer_schema(self) -> dict[str, Any]:
        """The JSON schema that the answer must follow."""
        atom = {
            "by": {"enum": ["text", "image", "both"]},
            "text": {"type": "string"},
            "wanted": {"type": "boolean"},
        }
        return answers.object_schema(
            retrievals={
                "type": "array",
                "items": answers.object_schema(**atom),
                "minItems": 1,
                "maxItems": MOST,
            },
            join={"enum": ["union", "intersection"]},
        )

    def messages(self, texts: Mapping[str, str]) -> list[dict[str, str]]:
        """Return chat messages (role, content); ``captions`` are lines of one text."""
        return self.turns({name: texts.get(name, "") for name in VARIABLES})

    def read(self, answer: str) -> tuple[dict[str, str], str | None]:
        """Return ``{"plan": JSON}`` of an answer, or {} and why there is none."""
        said = answers.without_thoughts(answer)
        if said is None:
            return {}, answers.CUT_OFF
        try:
            found = answers.json_object(said)
            return {"plan": Plan.model_validate(found).model_dump_json()}, None
        except ValidationError as error:
            return {}, f"the plan cannot be used: {error.errors()[0]['msg']}"
        except (ValueError, RecursionError):
            return {}, "the answer was no JSON"


def names() -> list[str]:
    """Return the names of the prompts that come with the project."""
    return files.names(FOLDER)


def load(name: str) -> DecomposePrompt:
    """Load a prompt by name, or a YAML file by path; raises ConfigError naming file and field."""
    return files.load(DecomposePrompt, FOLDER, "decompose prompt", name)
