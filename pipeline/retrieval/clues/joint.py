"""The reference image and the relative caption in one vector, by a joint embedder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.config import OWN_IMAGES, Config
from pipeline.errors import ConfigError
from pipeline.models.prompts import embed as prompts
from pipeline.retrieval.clues.base import Clues, clue, good
from pipeline.retrieval.scoring import normalise
from pipeline.retrieval.sections import Section, section
from pipeline.run import Run

if TYPE_CHECKING:
    from torch import Tensor

PLAIN, CONCEPT = "change", "concept"
"""The prompts where none is named: without CIRCO's shared concept, and with it."""


class Joint(Section):
    """What the embedder is told of an image with a text."""

    name: ClassVar[str] = "joint"

    prompt: str | None = None
    """Name in prompts/embed or a YAML file."""


def prompt_of(own: Joint, told: bool) -> prompts.EmbedPrompt:
    """Return the prompt; ``told`` says whether queries tell their shared concept.

    Raises ConfigError where the prompt says the concept and queries do not, or the other way round:
    figures with it and without it do not compare, so the protocol has to say which it is.
    """
    found = prompts.load(own.prompt or (CONCEPT if told else PLAIN))
    if found.uses_concept and not told:
        raise ConfigError(
            f"The prompt {found.name!r} says CIRCO's shared concept: add --shared-concept, or "
            f"choose another with --set search.joint.prompt={PLAIN}."
        )
    if told and not found.uses_concept:
        raise ConfigError(
            f"--shared-concept: the prompt {found.name!r} does not say it. Choose one that does, "
            f"such as --set search.joint.prompt={CONCEPT}."
        )
    return found


def _told(config: Config, choices: tuple[str, ...]) -> bool:
    return config.dataset.shared_concept and "shared_concept" in choices


def header(run: Run) -> dict[str, Any]:
    """Return what the embedder is told."""
    own = section(run.config, Joint, run.dataset.name)
    prompt = prompt_of(own, _told(run.config, run.dataset.choices))
    return {"instruction": prompt.instruction, "text": prompt.text}


def check(config: Config, dataset: str) -> None:
    """Raise ConfigError for the prompt, or an encoder that embeds no image with a text."""
    from pipeline import datasets
    from pipeline.models import encoders

    choices = () if dataset == OWN_IMAGES else datasets.find(dataset).choices
    prompt_of(section(config, Joint, dataset), _told(config, choices))
    encoders.check_joint(config.encoder)


@clue(
    "joint",
    by_model=True,
    by_part=True,
    joint=True,
    settings=Joint,
    header=header,
    check=check,
    training="trained",
)
def joint(clues: Clues) -> Tensor:
    """Return the normalised vector (queries, d) of image and text; of two orders the mean."""
    import torch

    source = clues.source
    concepts = [next(iter(good(texts)), "") for texts in source.texts("shared_concepts")]
    prompt = prompt_of(source.settings(Joint), any(concepts))
    asked = [
        (query, prompt.said(text, concepts[query]))
        for query, texts in enumerate(source.texts("relative_captions"))
        for text in good(texts)
    ]
    features = normalise(source.joint(asked, prompt.instruction))
    total = torch.zeros(source.count, features.shape[1])
    return normalise(total.index_add_(0, torch.tensor([query for query, _ in asked]), features))
