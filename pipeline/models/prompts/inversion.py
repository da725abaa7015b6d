"""Prompts of textual inversion, YAML files too: where the pseudo-words and the change stand."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.models.prompts import files
from pipeline.models.prompts.files import PROMPTS

FOLDER = PROMPTS / "inversion"
LONGEST_TEMPLATE = 1_000
"""Characters of a template; an encoder's context holds far fewer."""

Orders = Literal["given", "reversed", "both"]


WORDS = ("words", "subject", "attributes")
"""What a template may call pseudo-words: all that there are, or FTI4CIR's of either kind."""
_PLACE = re.compile(r"\{(\w+)\}")


def places(template: str) -> list[str]:
    """Return the names of the pseudo-words in a template, in their order."""
    return [name for name in _PLACE.findall(template) if name != "text"]


def with_words(template: str, text: str) -> str:
    """Return a template with ``text`` in the place of every name of pseudo-words."""
    return _PLACE.sub(lambda found: found[0] if found[1] == "text" else text, template)


def _checked(template: str | None) -> str | None:
    if template is None:
        return None
    if len(template) > LONGEST_TEMPLATE:
        raise ValueError(f"has more than {LONGEST_TEMPLATE:,} characters")
    if template.count("{text}") != 1:
        raise ValueError("must hold {text} once")
    found = places(template)
    if re.search(r"[{}]", _PLACE.sub("", template)) or not set(found) <= set(WORDS):
        known = ", ".join(f"{{{name}}}" for name in (*WORDS, "text"))
        raise ValueError(f"may hold no braces but those of {known}")
    if not found or len(found) != len(set(found)):
        raise ValueError("must hold {words} once, or {subject}, {attributes} or both")
    return template


class Form(BaseModel):
    """How the prompts of one benchmark's queries are made."""

    model_config = ConfigDict(extra="forbid")

    template: str = "a photo of {words} that {text}"
    """``{words}`` stands for the pseudo-words, ``{subject}`` and ``{attributes}`` for those of
    FTI4CIR by their kind, ``{text}`` for what the query says."""
    strip: str = ""
    """Characters taken from both ends of each relative caption."""
    joined: str = " and "
    """Between the relative captions of a query with several."""
    orders: Orders = "given"
    """The order of these; ``both`` makes a prompt of either, whose features are averaged."""

    _template = field_validator("template")(_checked)

    def texts(self, captions: Sequence[str]) -> list[str]:
        """Return what takes the place of ``{text}``: one text, or one an order."""
        parts = [caption.strip(self.strip) if self.strip else caption for caption in captions]
        orders = {"given": [parts], "reversed": [parts[::-1]], "both": [parts, parts[::-1]]}
        texts = [self.joined.join(order) for order in orders[self.orders]]
        return list(dict.fromkeys(texts))


class Changes(BaseModel):
    """What is another for one benchmark; None leaves it as it is."""

    model_config = ConfigDict(extra="forbid")

    template: str | None = None
    strip: str | None = None
    joined: str | None = None
    orders: Orders | None = None

    _template = field_validator("template")(_checked)


class InversionPrompt(Form):
    """A prompt around pseudo-words, with what differs by benchmark."""

    name: str
    description: str
    source: str = ""
    by_dataset: dict[str, Changes] = Field(default_factory=dict)

    def form(self, dataset: str) -> Form:
        """Return how a benchmark's prompts are made."""
        general = self.model_dump(include=set(Form.model_fields))
        own: dict[str, Any] = {}
        if dataset in self.by_dataset:
            own = self.by_dataset[dataset].model_dump(exclude_none=True)
        return Form.model_validate(general | own)


def names() -> list[str]:
    """Return the names of the prompts that come with the project."""
    return files.names(FOLDER)


def load(name: str) -> InversionPrompt:
    """Load a prompt by name, or a YAML file by path; raises ConfigError naming file and field."""
    return files.load(InversionPrompt, FOLDER, "inversion prompt", name)
