"""Prompts of the verify stage, YAML files too: what is asked about a candidate and its images."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.models.prompts import files
from pipeline.models.prompts.edit import check_template, render, variables_of
from pipeline.models.prompts.files import PROMPTS

FOLDER = PROMPTS / "verify"
VARIABLES = {"edited_caption", "relative_caption"}
Form = Literal["question", "query"]


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
    form: Form = "question"
    """``question``: its answer begins with yes or no; ``query``: what a reranker compares the
    candidate with, that is the text and the images but the candidate."""

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
    def identity(self) -> dict[str, Any]:
        """What enters the fingerprint of verdicts; of a question the same as before rerankers."""
        return self.model_dump(exclude={"form"} if self.form == "question" else None)

    def said(self, edited_caption: str, relative_caption: str) -> str:
        """Return the text that goes with the images."""
        texts = {"edited_caption": edited_caption, "relative_caption": relative_caption}
        return render(self.user, **texts).strip()

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
    return files.names(FOLDER)


def load(name: str) -> VerifyPrompt:
    """Load a prompt by name, or a YAML file by path; raises ConfigError naming file and field."""
    return files.load(VerifyPrompt, FOLDER, "verify prompt", name)
