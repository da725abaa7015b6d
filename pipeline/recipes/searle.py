"""SEARLE's φ (arXiv 2303.15247): images are inverted one by one, then a network learns to do it.

First a pseudo-word of every image is optimised until prompts with it have the image's feature and
say what its concepts say; these are kept in the cache. Then φ learns to give them at once.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.errors import InputError
from pipeline.models.training import settings as training
from pipeline.models.training.task import Order, Task, enlarged
from pipeline.recipes import images
from pipeline.recipes.base import Given, Preset, Recipe, Source
from pipeline.run import log, stage

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pipeline.models.inversion.concepts import Concepts
    from pipeline.recipes.images import Images
    from pipeline.store.shards import Encoded


class Settings(training.Settings):
    """The defaults are SEARLE's published values."""

    epochs: float | None = Field(
        default=100, gt=0, le=1_000_000, description="times that all images are seen"
    )
    batch: int = Field(default=256, ge=2, le=1_000_000, description="images a step and process")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="in φ")
    temperature: float = Field(default=0.25, gt=0, le=100, description="of the distillation")
    phrase_weight: float = Field(
        default=0.75, ge=0, le=1_000, description="of the phrases' term in the distillation"
    )
    concepts_of_image: int = Field(
        default=150, ge=1, le=100_000, description="nearest concepts that phrases are drawn from"
    )
    inversion_steps: int = Field(
        default=350, ge=1, le=1_000_000, description="steps to optimise an image's pseudo-word"
    )
    inversion_rate: float = Field(default=2e-2, gt=0, le=1_000, description="its learning rate")
    inversion_batch: int = Field(default=32, ge=1, le=1_000_000, description="images at a time")
    inversion_average: float = Field(
        default=0.99, ge=0, lt=1, description="decay of the moving average that is kept"
    )
    inversion_phrase_weight: float = Field(
        default=0.5, ge=0, le=1_000, description="of the phrases' term in the optimisation"
    )
    inversion_concepts: int = Field(
        default=15, ge=1, le=100_000, description="nearest concepts, in the optimisation"
    )
    most: int | None = Field(
        default=None, ge=1, le=training.MOST, description="images at most, chosen by the seed"
    )


class Searle(Task):
    """φ, the words that images were inverted to, and the frozen text tower."""

    name = "searle"

    def __init__(
        self,
        clip: Any,
        encoder: dict[str, Any],
        found: Images,
        concepts: Concepts,
        words: Tensor,
        own: Settings,
    ) -> None:
        import torch

        from pipeline.models.inversion.networks import Phi

        self.settings, self.concepts = own, concepts
        self.features, self.words = found.features, words
        self.items = len(found.names)
        self.order = Order(self.items, own.batch, own.seed)
        self.near = concepts.nearest(found.features, own.concepts_of_image)
        d, t = found.features.shape[1], words.shape[1]
        self.identity = {
            "encoder": encoder,
            "images": self.items,
            "content": found.identity,
            "concepts": concepts.identity,
            "d": d,
            "t": t,
        }
        self.record = {
            "images_that_could_not_be_read": found.lost,
            "left_out_of_the_corpus": dict(concepts.left_out),
        }
        weight = next(iter(clip.model.parameters()))
        self.device, self.enlarged = weight.device, enlarged(weight, own.batch)
        torch.manual_seed(own.seed)
        self.module = Phi(d, t, dropout=own.dropout).to(weight.device).train()

    def batch(self, number: int) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the places of a batch's images, and a concept and a phrase for each."""
        rng = random.Random(f"{self.settings.seed} phrases {number}")
        places = self.order.of(number)
        return places, [self.concepts.draw(self.near[place], rng) for place in places]

    def losses(self, batch: tuple[list[int], list[tuple[int, int]]]) -> dict[str, Tensor]:
        """Return the distillation's contrast, and the phrases' 1 - cosine, weighted."""
        from pipeline.models.inversion.concepts import apart
        from pipeline.models.training.several import gathered

        places, drawn = batch
        given = self.module(self.features[places].to(self.device))
        wanted = self.words[places].to(self.device)
        said, meant = self.concepts.phrases(drawn, given)
        return {
            "distillation": contrast(gathered(given), gathered(wanted), self.settings.temperature),
            "phrases": self.settings.phrase_weight * apart(said, meant).mean(),
        }


def contrast(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Return NT-Xent of two views (n, d) of n things, over all 2n, without each with itself."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    both = normalize(torch.cat([one, other]), dim=1)
    logits = both @ both.T / temperature
    logits = logits.masked_fill(torch.eye(len(both), dtype=torch.bool, device=both.device), -1e9)
    count = len(one)
    partner = torch.arange(2 * count, device=both.device).roll(count)
    return cross_entropy(logits, partner)


def invert(own: Settings, encoder: dict[str, Any], found: Images, concepts: Concepts) -> Tensor:
    """Return the images' optimised pseudo-words (n, t).

    They are kept in the cache; a stopped run goes on with those that are missing, and processes
    that were launched together take a share each.
    """
    import torch

    from pipeline.models.embedding import encode_missing
    from pipeline.store.features import FeatureFile
    from pipeline.store.identity import fingerprint

    chosen = own.model_dump(include={name for name in Settings.model_fields if "inversion" in name})
    header = chosen | {
        "stage": "invert images",
        "encoder": encoder,
        "concepts": concepts.identity,
        "seed": own.seed,
    }
    file = found.cache / "pseudo-words" / f"searle-{fingerprint(header)}.safetensors"
    rows = {name: row for row, name in enumerate(found.names)}

    def encode(todo: Sequence[str], _: dict[str, str]) -> Iterator[Encoded]:
        from pipeline.store.shards import Encoded

        size = chosen["inversion_batch"]
        for start in range(0, len(todo), size):
            names = list(todo[start : start + size])
            features = found.features[[rows[name] for name in names]]
            yield Encoded(names, optimised(names, features, concepts, own).cpu().numpy())

    with stage("train searle", found, [], file, "words") as report:
        size = chosen["inversion_batch"]
        encode_missing(file, found.names, encode, header, size, report, "word", grows=True)
    stored = FeatureFile(file)
    places = [stored.row[name] for name in found.names]
    return torch.from_numpy(stored.all()[places]).float()


def optimised(names: Sequence[str], features: Tensor, concepts: Concepts, own: Settings) -> Tensor:
    """Return the pseudo-words (n, t) of images by their raw ``features`` (n, d).

    All that is random in an image's is by the seed and its name: it does not depend on the others.
    """
    import torch

    from pipeline.models.inversion.concepts import apart

    seeds = [random.Random(f"{own.seed} {name}") for name in names]
    drawn = [_normal(rng, concepts.width) for rng in seeds]
    words = torch.stack(drawn).mul(0.02).to(concepts.device).requires_grad_()
    average = words.detach().clone()
    adam = torch.optim.AdamW([words], lr=own.inversion_rate, weight_decay=0.01)
    near = concepts.nearest(features, own.inversion_concepts)
    target = features.to(concepts.device)
    for _ in range(own.inversion_steps):
        said = concepts.named(words, seeds)
        phrases = [concepts.draw(one, rng) for one, rng in zip(near, seeds, strict=True)]
        other, meant = concepts.phrases(phrases, words)
        weight = own.inversion_phrase_weight
        loss = (apart(said, target).sum() + weight * apart(other, meant).sum()) / (1 + weight)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        average.lerp_(words.detach(), 1 - own.inversion_average)
    return average


def _normal(rng: random.Random, width: int) -> Tensor:
    import torch

    return torch.tensor([rng.gauss(0, 1) for _ in range(width)])


def make(given: Given) -> Searle:
    """Return the task; inverts the images that the cache has no pseudo-words of."""
    file = given.file("texts")
    from pipeline.models.inversion import corpus
    from pipeline.models.inversion.concepts import TEMPLATES, Concepts, choose
    from pipeline.models.training import loop
    from pipeline.stages import embeddings

    settings = given.settings
    assert isinstance(settings, Settings)
    texts = corpus.read(file)
    listed = corpus.read(given.file("concepts")).texts if given.sources["concepts"] else None
    chosen = choose(texts.texts, listed)
    if not chosen:
        raise InputError(
            f"No text of {file} has one of the concepts. Give --texts that name them, or "
            "--concepts with one a line that the texts use."
        )
    count, said = f"{len(chosen):,}", corpus.said(texts.left_out)
    log.info("[train searle] %s concepts, %s texts (%s)", count, f"{len(texts.texts):,}", said)
    templates = _templates(given.file("templates")) if given.sources["templates"] else TEMPLATES
    clip = given.encoder()
    encoder = embeddings.identity(given.config)
    found = images.load(given, settings.most)
    loop.check(settings, len(found.names), given.out, "images")
    concepts = Concepts(clip, texts.texts, chosen, Counter(texts.left_out), templates)
    words = invert(settings, encoder, found, concepts)
    return Searle(clip, encoder, found, concepts, words, settings)


def _templates(file: Path) -> list[str]:
    """Return the prompts of a file, one a line; raises InputError for one without ``{words}``."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if line]
    wrong = next((line for line in found if line.count("{words}") != 1), None)
    if wrong is not None or not found:
        raise InputError(f"{file}: give prompts with {{words}} once, one a line, not {wrong!r}.")
    return found


def _preset(model: str) -> Preset:
    return Preset(
        "the authors' repository (miccunifi/SEARLE); its values are the same for either backbone",
        {},
        {"clip.model": model, "clip.pretrained": "openai", "clip.target_pad": 1.25},
        "Its phrases are GPT-Neo's and its concepts Open Images'; here they are the texts' that "
        "are given. Its 24 templates are PALAVRA's; here they are as many of the same kind.",
    )


RECIPE = Recipe(
    "searle",
    """Train SEARLE's φ: invert images one by one, then learn to do it at once.

    The pseudo-words of the images are kept in the cache. Phrases are those of --texts that name one
    of an image's nearest concepts: the concepts of --concepts, else the texts' own keywords.

    Example: seize train searle --images photos --texts captions.txt --out phi.safetensors
    """,
    Settings,
    (
        images.SOURCE,
        Source("texts", "phrases: one text a line, or JSON lines with `text` or `captions`"),
        Source("concepts", "one a line; by default the texts' keywords", required=False),
        Source("templates", "prompts with {words}, one a line, not the 24 own", required=False),
    ),
    make,
    {"searle-b32": _preset("ViT-B-32"), "searle-l14": _preset("ViT-L-14")},
    weights="search.searle.phi",
    method="searle",
)
