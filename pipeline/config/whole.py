"""The whole of a configuration."""

import re
from typing import Any

from pydantic import Field, ValidationError, field_validator

from pipeline.config.base import Section
from pipeline.config.models import CaptionerConfig, ClipConfig, LlmConfig, VerifierConfig
from pipeline.config.names import CLIP, encoder_of, split
from pipeline.config.sections import (
    DatasetConfig,
    OwnConfig,
    RuntimeConfig,
    SearchConfig,
    SynthesizeConfig,
)
from pipeline.errors import ConfigError, nearest
from pipeline.yamls import first_problem

OWN_IMAGES = "folder"
"""The name under which weights are set for a folder of one's own images."""


class Config(Section):
    """Everything one run needs besides the dataset, split and folders.

    >>> import seize
    >>> config: seize.Config = seize.configure("demo")
    >>> config.search.method, config.captioner.samples
    ('seize', 15)
    """

    description: str = ""
    needs: str = ""
    note: str = Field(
        default="", description="said with what the models find among images of one's own"
    )
    captioner: CaptionerConfig
    llm: LlmConfig
    clip: ClipConfig
    encoders: dict[str, ClipConfig] = Field(
        default={}, description="further encoders by name: METHOD@NAME ranks by one of them"
    )
    search: SearchConfig = SearchConfig()
    verifier: VerifierConfig = VerifierConfig()
    dataset: DatasetConfig = DatasetConfig()
    synthesize: SynthesizeConfig = SynthesizeConfig()
    own: OwnConfig = OwnConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @field_validator("encoders")
    @classmethod
    def _named(cls, encoders: dict[str, ClipConfig]) -> dict[str, ClipConfig]:
        for name in encoders:
            if name == CLIP or not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(f"{name!r} cannot name an encoder: letters, digits, - . _ can")
        return encoders

    @property
    def encoder(self) -> ClipConfig:
        """The encoder of the method in use: the one that it names, else ``clip``.

        Several methods have one where it is the same of all; else this is ``clip``, and each is to
        be asked alone. Raises ConfigError for a name that no encoder has.
        """
        return self.named_encoder(self._encoder_name)

    @property
    def _encoder_name(self) -> str:
        names = {encoder_of(name) for name in split(self.search.method)}
        return names.pop() if len(names) == 1 else CLIP

    def named_encoder(self, name: str) -> ClipConfig:
        """Return an encoder by its name; raises ConfigError with the nearest one."""
        if name == CLIP:
            return self.clip
        if name not in self.encoders:
            raise ConfigError(
                f"There is no encoder {name!r}.{nearest(name, [CLIP, *self.encoders])} Name one "
                f"with --set encoders.{name}.model=KIND:NAME, or under encoders: in a file."
            )
        return self.encoders[name]

    def with_encoder(self, encoder: ClipConfig) -> "Config":
        """Return a copy in which the method in use has another encoder."""
        name = self._encoder_name
        if name == CLIP:
            return self.model_copy(update={"clip": encoder})
        return self.model_copy(update={"encoders": self.encoders | {name: encoder}})

    def with_search(self, **changes: Any) -> "Config":
        """Return a copy whose ``search`` section has ``changes``; None changes nothing.

        Raises ConfigError naming the field that is wrong.
        """
        search = self.search.model_dump()
        search |= {name: value for name, value in changes.items() if value is not None}
        try:
            return self.model_copy(update={"search": SearchConfig.model_validate(search)})
        except ValidationError as error:
            raise ConfigError(f"search.{first_problem(error)}") from None

    def with_own(self, **changes: Any) -> "Config":
        """Return a copy whose ``own`` section has ``changes``; raises ConfigError as above."""
        try:
            own = OwnConfig.model_validate(self.own.model_dump() | changes)
        except ValidationError as error:
            raise ConfigError(f"own.{first_problem(error)}") from None
        return self.model_copy(update={"own": own})

    def with_section(self, name: str, weights: dict[str, Any]) -> "Config":
        """Return a copy whose section ``search.NAME`` of weights is ``weights``."""
        return self.with_search(**{name: weights})
