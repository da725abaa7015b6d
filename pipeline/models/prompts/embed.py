"""Prompts of joint embedding, YAML files too: what is sent with a reference image."""

from pydantic import BaseModel, ConfigDict, field_validator

from pipeline.models.prompts import files
from pipeline.models.prompts.edit import check_template, render, variables_of
from pipeline.models.prompts.files import PROMPTS

FOLDER = PROMPTS / "embed"
CONCEPT = "shared_concept"
"""What only CIRCO's queries have."""
VARIABLES = {"relative_caption", CONCEPT}


class EmbedPrompt(BaseModel):
    """An instruction for the embedder, and the text beside the image."""

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str
    source: str = ""
    instruction: str
    """The system turn."""
    text: str = "{{ relative_caption }}"

    @field_validator("text")
    @classmethod
    def _needed_variables(cls, template: str) -> str:
        check_template(template, VARIABLES)
        if "relative_caption" not in variables_of(template):
            raise ValueError("must use {{ relative_caption }}")
        return template

    @property
    def uses_concept(self) -> bool:
        """Whether the text says CIRCO's shared concept."""
        return CONCEPT in variables_of(self.text)

    def said(self, relative_caption: str, shared_concept: str = "") -> str:
        """Return the text that is sent with the image."""
        texts = {"relative_caption": relative_caption, CONCEPT: shared_concept}
        return render(self.text, **texts).strip()


def names() -> list[str]:
    """Return the names of the prompts that come with the project."""
    return files.names(FOLDER)


def load(name: str) -> EmbedPrompt:
    """Load a prompt by name, or a YAML file by path; raises ConfigError naming file and field."""
    return files.load(EmbedPrompt, FOLDER, "embed prompt", name)
