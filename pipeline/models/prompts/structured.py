"""What prompts share whose answers are JSON under a schema: texts in, chat messages out."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.models.prompts.edit import render


class StructuredPrompt(BaseModel):
    """A prompt of a system and a user's turn; a subclass says what is put in and read out."""

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str
    source: str = ""
    system: str = ""
    user: str

    @property
    def identity(self) -> dict[str, Any]:
        """What enters the fingerprint of the texts that are made by it."""
        return self.model_dump(exclude={"description", "source"})

    def turns(self, given: Mapping[str, str]) -> list[dict[str, str]]:
        """Return chat messages (role, content) with ``given`` put in; an empty system turn is none.

        Raises ConfigError as ``render`` does.
        """
        system, user = (render(part, **given).strip() for part in (self.system, self.user))
        before = [{"role": "system", "content": system}] if system else []
        return [*before, {"role": "user", "content": user}]
