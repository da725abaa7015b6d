"""Pic2Word's network by contrast on images alone (arXiv 2302.03084).

The feature of "a photo of" and an image's pseudo-word should be the image's own feature, nearer
than those of the batch's other images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.models.training import settings as training
from pipeline.models.training.settings import Schedule
from pipeline.models.training.task import Order, Task, enlarged
from pipeline.recipes import images
from pipeline.recipes.base import Given, Preset, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.recipes.images import Images


class Settings(training.Settings):
    """The defaults are Pic2Word's published values."""

    epochs: float | None = Field(
        default=30, gt=0, le=1_000_000, description="times that all images are seen"
    )
    batch: int = Field(default=1024, ge=2, le=1_000_000, description="images a step and process")
    weight_decay: float = Field(default=0.1, ge=0, le=1_000, description="of AdamW")
    decay_all: bool = Field(default=False, description="decay biases as well as matrices")
    beta2: float = Field(default=0.98, ge=0, lt=1, description="of AdamW")
    epsilon: float = Field(default=1e-6, gt=0, le=1, description="of AdamW")
    warmup: int = Field(
        default=10_000, ge=0, le=training.MOST, description="steps over which the rate rises"
    )
    schedule: Schedule = Field(default="cosine", description="of the rate after the warmup")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="in the network")
    prompt: str = Field(
        default="a photo of {words}",
        pattern=r"^[^{}]*\{words\}[^{}]*$",
        description="what an image's word is read in; for an encoder that reads other texts",
    )
    most: int | None = Field(
        default=None, ge=1, le=training.MOST, description="images at most, chosen by the seed"
    )


class Words(Task):
    """The network, and the frozen text tower that its words are read by."""

    name = "pic2word"

    def __init__(self, clip: Any, encoder: dict[str, Any], found: Images, own: Settings) -> None:
        import torch

        from pipeline.models.inversion.networks import Pic2Word
        from pipeline.models.inversion.prompts import Tokenizer, assemble, token_width

        self.model, self.features = clip.model, found.features
        self.tokenizer = Tokenizer(clip.tokenizer)
        self.prompt = assemble(self.tokenizer, own.prompt, "", 1)
        self.items = len(found.names)
        self.order = Order(self.items, own.batch, own.seed)
        d, t = found.features.shape[1], token_width(clip.model)
        self.identity = {
            "encoder": encoder,
            "images": self.items,
            "content": found.identity,
            "d": d,
            "t": t,
        }
        self.record = {"images_that_could_not_be_read": found.lost}
        weight = next(iter(clip.model.parameters()))
        self.device, self.enlarged = weight.device, enlarged(weight, own.batch)
        torch.manual_seed(own.seed)
        self.module = Pic2Word(d, t, dropout=own.dropout).to(weight.device).train()

    def batch(self, number: int) -> Tensor:
        """Return the raw features (n, d) of a batch."""
        return self.features[self.order.of(number)]

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        """Return InfoNCE between images and texts, in both directions, over all processes."""
        import torch
        from torch.nn.functional import cross_entropy, normalize

        from pipeline.models.inversion.prompts import encode
        from pipeline.models.training.several import gathered

        features = batch.to(self.device)
        words = self.module(features)
        found = encode(self.model, self.tokenizer, [self.prompt] * len(words), list(words[:, None]))
        seen = gathered(normalize(features, dim=1))
        said = gathered(normalize(found.float(), dim=1))
        logits = self.model.logit_scale.exp().float() * seen @ said.T
        own = torch.arange(len(seen), device=self.device)
        return {"contrast": (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2}


def make(given: Given) -> Words:
    """Return the task of a folder's or gallery's images; raises InputError."""
    from pipeline.models.training import loop
    from pipeline.stages import embeddings

    settings = given.settings
    assert isinstance(settings, Settings)
    clip = given.encoder()
    found = images.load(given, settings.most)
    loop.check(settings, len(found.names), given.out, "images")
    return Words(clip, embeddings.identity(given.config), found, settings)


RECIPE = Recipe(
    "pic2word",
    """Train Pic2Word's network by contrast on images alone.

    The published values are for CC3M's three million images: with fewer, give a smaller --batch
    and --warmup.

    Example: seize train pic2word --images photos --config paper-l14 --out words.safetensors
    """,
    Settings,
    (images.SOURCE,),
    make,
    {
        "pic2word-l14": Preset(
            "the authors' repository (google-research/composed_image_retrieval)",
            {},
            {"clip.model": "ViT-L-14", "clip.pretrained": "openai", "clip.target_pad": None},
            "The published batch is 128 on each of 8 GPUs: 1,024 images here, in one process.",
        )
    },
    weights="search.pic2word.phi",
    method="pic2word",
)
