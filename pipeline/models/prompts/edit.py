"""Prompts are YAML files: how the LLM is asked for an edit and how its answer is cleaned."""

import functools
import json
from collections.abc import Sequence
from typing import Any, Literal, Self

from jinja2 import StrictUndefined, Template, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.errors import ConfigError
from pipeline.models import answers
from pipeline.models.answers import Reading
from pipeline.models.prompts import files
from pipeline.models.prompts.files import PROMPTS

NEEDED = {"caption", "relative_caption"}
TOGETHER = "captions"
"""All captions of a query as JSON, by number: stands for ``caption`` where one call edits all."""
VARIABLES = NEEDED | {"shared_concept", TOGETHER}
ROLES = ("desired", "preserve", "forbidden")
"""What an answer with roles lists besides the target's description (MulVec, arXiv 2608.25305)."""
MOST_TEXTS = 8
"""How many texts an answer may list for one role."""

BESIDE = 16
"""Tokens of JSON around edits, beside ``max_tokens`` for each with its number."""
NO_EDITS = "the answer was no JSON with as many edits as captions"

LONGEST_PROMPT = 1_000_000
"""Characters of a prompt with its texts put in."""
PARTS = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.If),
    *(nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Test),
    *(nodes.Filter, nodes.Keyword),
)
"""What a template may be made of: nothing that repeats, calls, computes or reads files, so that it
is rendered in time and memory of its own size. The sandbox is a second line of defence."""
FILTERS = ("capitalize", "default", "lower", "title", "trim", "truncate", "upper")
"""Filters that a template may use."""

_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
_environment.globals.clear()


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
    answer: Literal["text", "roles", "together"] = "text"
    """``roles``: JSON with the target's description and, for each role, a list of short texts.
    ``together``: JSON with an edit for the number of each of ``captions``: without numbers, a model
    that leaves one out and adds another would shift those between unseen."""

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must follow, None where it is plain text."""
        return self.schema_of(1)

    def schema_of(self, count: int) -> dict[str, Any] | None:
        """Return the JSON schema of an answer about so many captions."""
        if self.answer == "text":
            return None
        if self.answer == "together":
            one = {"type": "string", "minLength": 1}
            return answers.object_schema(**dict.fromkeys(numbers(count), one))
        texts = {"type": "array", "items": {"type": "string"}, "maxItems": MOST_TEXTS}
        return answers.object_schema(target={"type": "string"}, **dict.fromkeys(ROLES, texts))

    @property
    def identity(self) -> dict[str, Any]:
        """What enters the fingerprint of edits; the same as before there were roles, without."""
        return self.model_dump(exclude={"answer"} if self.answer == "text" else None)

    @field_validator("system", "user")
    @classmethod
    def _known_variables(cls, template: str) -> str:
        check_template(template, VARIABLES)
        return template

    @model_validator(mode="after")
    def _needed_variables(self) -> Self:
        together = self.answer == "together"
        needed = NEEDED - {"caption"} | {TOGETHER} if together else NEEDED
        missing = sorted(needed - variables_of(self.user))
        if missing:
            named = " and ".join(f"{{{{ {m} }}}}" for m in missing)
            raise ValueError(f"user does not use {named}")
        if other := sorted(self.variables & ({"caption"} if together else {TOGETHER})):
            raise ValueError(f"answer {self.answer} does not go with {{{{ {other[0]} }}}}")
        if together and self.examples:
            raise ValueError("examples are of single edits: put them into system or user")
        return self

    @property
    def variables(self) -> set[str]:
        """The variables that the templates use."""
        return variables_of(self.user) | variables_of(self.system)

    def messages(
        self, caption: str, relative_caption: str, shared_concept: str = ""
    ) -> list[dict[str, str]]:
        """Return chat messages (role, content).

        What all requests share (system turn, examples) comes first, so that a server with a prefix
        cache computes it once; ``shared_concept`` is empty unless asked for.
        """
        return self.messages_of([caption], relative_caption, shared_concept)

    def messages_of(
        self, captions: Sequence[str], relative_caption: str, shared_concept: str = ""
    ) -> list[dict[str, str]]:
        """Return the messages about several captions; of one, unless they are edited together."""
        caption = as_json(captions)
        if self.answer != "together":
            (caption,) = captions
        system = self._render(self.system, caption, relative_caption, shared_concept)
        turns = [{"role": "system", "content": system}] if system else []
        for example in self.examples:
            turns.append(self._ask(example.caption, example.relative_caption, ""))
            answer = f"{self.label} {example.edited_caption}".strip()
            turns.append({"role": "assistant", "content": answer})
        return [*turns, self._ask(caption, relative_caption, shared_concept)]

    def _ask(self, caption: str, relative_caption: str, shared_concept: str) -> dict[str, str]:
        content = self._render(self.user, caption, relative_caption, shared_concept)
        return {"role": "user", "content": content}

    @staticmethod
    def _render(template: str, caption: str, relative_caption: str, shared_concept: str) -> str:
        return render(
            template,
            caption=caption,
            captions=caption,
            relative_caption=relative_caption,
            shared_concept=shared_concept,
        ).strip()

    def read(self, answer: str) -> Reading:
        """Return the edited caption in an LLM's answer, or "" and why there is none.

        It is the first line without label, preamble and quotes; where the answer repeats the
        question first, what follows the last label counts. What a reasoning model thinks first is
        dropped. An answer with roles gives the target's description.
        """
        if self.answer == "text":
            return answers.read(answer, self.label)
        if answers.without_thoughts(answer) is None:
            return Reading("", answers.CUT_OFF)
        if self.answer == "together":
            edits = self.edits(answer, 1)
            return answers.read(edits[0], self.label) if edits else Reading("", NO_EDITS)
        fields = self.fields(answer)
        if fields is None:
            return Reading("", f"the answer was no JSON with target, {', '.join(ROLES)}")
        target = fields["target"][0]
        return Reading(target, None if target else answers.EMPTY)

    def clean(self, answer: str) -> str:
        """Return the edited caption in ``answer``, empty where there is none; see ``read``."""
        return self.read(answer).text

    def fields(self, answer: str) -> dict[str, list[str]] | None:
        """Return an answer with roles: ``target`` (one text) and each of ``ROLES`` (any number).

        None where it is no JSON object with such fields.
        """
        text = answers.without_thoughts(answer) or ""
        try:
            found = answers.json_object(text)
            # Small tokenizers put spaces around quotes.
            named = {name.strip(): value for name, value in found.items()}
            texts = {"target": [named["target"]]} | {role: named[role] for role in ROLES}
            if not all(isinstance(values, list) for values in texts.values()):
                return None
            return {
                name: [text.strip() for text in values if text.strip() or name == "target"]
                for name, values in texts.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def tokens_of(self, count: int) -> int:
        """Return how many tokens an answer about so many captions may have."""
        beside = BESIDE if self.answer == "together" else 0
        return self.max_tokens * count + beside

    def edits(self, answer: str, count: int) -> list[str] | None:
        """Return the edits of an answer by their numbers, as many as captions were given.

        A list of so many is taken, too. None where it is anything else. Texts may be empty, which
        is no edit.
        """
        text = answers.without_thoughts(answer) or ""
        for read in (_numbered, _listed):
            try:
                found = read(text)
            except (ValueError, RecursionError):
                continue
            if len(found) == count and all(isinstance(one, str) for one in found):
                return [one.strip() for one in found]
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
        lines = (line.strip() for content in asked for line in content.splitlines())
        return any(text in (line, line.removeprefix(self.label).strip()) for line in lines)


def numbers(count: int) -> list[str]:
    """Return the numbers of so many captions in a prompt, and of their edits in the answer."""
    return [str(number) for number in range(1, count + 1)]


def as_json(texts: Sequence[str]) -> str:
    """Return texts by their numbers, as a prompt gives captions and an answer edits: JSON."""
    return json.dumps(dict(zip(numbers(len(texts)), texts, strict=True)), ensure_ascii=False)


def _numbered(text: str) -> list[Any]:
    """Return the values of a JSON object whose names are 1, 2, …, in that order, or none."""
    # Small tokenizers put spaces around quotes.
    found = {name.strip(): value for name, value in answers.json_object(text).items()}
    wanted = numbers(len(found))
    return [found[number] for number in wanted] if set(found) == set(wanted) else []


def _listed(text: str) -> list[Any]:
    """Return the JSON list of an answer, whatever stands around it."""
    found: list[Any] = json.loads(text[text.index("[") : text.rindex("]") + 1])
    return found


def check_template(template: str, known: set[str]) -> None:
    """Raise ValueError for a template that uses other variables than ``known`` or cannot be used.

    It is rendered once, so that a filter's wrong arguments are found before a run.
    """
    unknown = variables_of(template) - known
    if unknown:
        raise ValueError(f"unknown variable {sorted(unknown)}; known: {sorted(known)}")
    try:
        render(template, **dict.fromkeys(known, "a photo of a cat"))
    except ConfigError as error:
        raise ValueError(str(error)) from None


def variables_of(template: str) -> set[str]:
    """Return the variables that a template uses; raises ValueError if it may not be used."""
    try:
        parsed = _environment.parse(template)
        for part in parsed.find_all(nodes.Node):
            allowed = isinstance(part, PARTS)
            if not allowed or (isinstance(part, nodes.Filter) and part.name not in FILTERS):
                name = getattr(part, "name", None) or type(part).__name__.lower()
                raise ValueError(
                    f"a template may hold variables, if, comparisons and the filters "
                    f"{', '.join(FILTERS)}, but not {name!r}"
                )
        _compiled(template)
        # Every name is one: Jinja's own (self, loop, range, …) are none of a prompt's.
        return {part.name for part in parsed.find_all(nodes.Name)}
    except (TemplateError, RecursionError, SyntaxError, MemoryError) as error:
        raise ValueError(f"not a Jinja template: {error}") from None


def render(template: str, **texts: str) -> str:
    """Return a template with ``texts`` put in as they are, whatever they look like.

    Raises ConfigError where that cannot be, or makes more than ``LONGEST_PROMPT`` characters.
    """
    parts, length = [], 0
    try:
        for part in _compiled(template).generate(texts):
            parts.append(part)
            length += len(part)
            if length > LONGEST_PROMPT:
                raise ConfigError(f"A prompt has more than {LONGEST_PROMPT:,} characters.")
    except ConfigError:
        raise
    except Exception as error:  # filters fail in many ways, by assertions too
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"The template {template[:60]!r} cannot be used: {reason}") from None
    return "".join(parts)


@functools.lru_cache(maxsize=64)
def _compiled(text: str) -> Template:
    return _environment.from_string(text)


def names() -> list[str]:
    """Return the names of the prompts that come with the project."""
    return files.names(PROMPTS)


def load(name: str) -> Prompt:
    """Load a prompt by name, or a YAML file by path; raises ConfigError naming file and field."""
    return files.load(Prompt, PROMPTS, "prompt", name)
