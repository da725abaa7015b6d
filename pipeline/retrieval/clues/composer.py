"""The query that a trained composer makes of the reference image and the relative caption."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipeline.config import Config, shipped
from pipeline.errors import ConfigError
from pipeline.models import encoders
from pipeline.models.identity import model_identity
from pipeline.retrieval.clues.base import Clues, clue, good
from pipeline.retrieval.scoring import normalise
from pipeline.retrieval.sections import Section, section
from pipeline.run import Run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class Composer(Section):
    """The checkpoint of `seize train composer`, which names its head."""

    name: ClassVar[str] = "composer"
    needed: ClassVar[Mapping[str, str]] = {"checkpoint": "FILE"}

    checkpoint: str | None = Field(default=None, title="a trained composer")

    @property
    def file(self) -> Path:
        """The checkpoint; one that comes with the project is found from any folder.

        Raises ConfigError where none was chosen: a path of no name is the folder one works in.
        """
        self.require()
        return Path(shipped(self.checkpoint or ""))


def check(config: Config, dataset: str) -> None:
    """Raise ConfigError without a checkpoint, ModelError for one that is of another encoder."""
    from pipeline.models.composers import checkpoints

    own = section(config, Composer, dataset)
    own.require()
    told = checkpoints.configuration(own.file)
    identity = encoders.ROLE.chosen(config).identity
    checkpoints.check(own.file, told, identity, encoders.width(config.encoder))
    if "tokens" in told["sizes"]:
        raise ConfigError(
            f"{own.file} is a {told['head']} composer, which compares several vectors an image: "
            f"use it as the encoder, --clip composer:{own.file} --method joint."
        )


def header(run: Run) -> dict[str, Any]:
    """Return the checkpoint's identity; the encoder's stands beside every clue."""
    check(run.config, run.dataset.name)
    own = section(run.config, Composer, run.dataset.name)
    return {"checkpoint": model_identity(str(own.file))}


@clue(
    "composer",
    needs=("reference", "relative"),
    reads=("relative_captions", "entities"),
    header=header,
    settings=Composer,
    check=check,
    training="trained",
)
def composer(clues: Clues) -> Tensor:
    """Return what the head composes (queries, d); raises ModelError where it does not fit."""
    import torch

    from pipeline.models.composers import checkpoints
    from pipeline.models.composers.base import Given, padded

    source = clues.source
    images, texts = clues.vectors("reference"), clues.vectors("relative")
    head = checkpoints.load(source.settings(Composer).file, d=images.shape[1])
    entities = None
    if head.reads_entities:
        own = [normalise(source.embed(good(names))) for names in source.texts("entities")]
        entities = padded(own, images.shape[1])
    with torch.inference_mode():
        found: Tensor = head(Given(images, texts, entities))
    return found.clone()
