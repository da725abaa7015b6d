"""FTI4CIR's network (SIGIR 2024): a subject and several attributes an image, from captions.

Prompts of pseudo-words should have the image's feature, local features should differ, and subject
and attributes should say what the two parts of the image's caption say (the three-way term).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.errors import ConfigError, InputError
from pipeline.models.training import settings as training
from pipeline.models.training.task import Order, Task, enlarged
from pipeline.recipes import images
from pipeline.recipes.base import Given, Preset, Recipe, Source
from pipeline.run import log, progress

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.inversion.corpus import Pair
    from pipeline.models.inversion.networks import FineGrained
    from pipeline.recipes.images import Images

KEPT = 4 << 30
"""Bytes of image tokens that are kept in memory; of more images they are computed by the batch."""
BLOCK = 64
"""Images whose tokens are computed at a time to be kept."""
BOTH, SUBJECT, ATTRIBUTES = "{words} with {words}", "{words} with {text}", "{text} with {words}"
"""What stands in a prompt, behind the settings' ``prefix``."""


class Settings(training.Settings):
    """The defaults are FTI4CIR's published values, but for the seed."""

    epochs: float | None = Field(
        default=60, gt=0, le=1_000_000, description="times that all images are seen"
    )
    batch: int = Field(default=256, ge=2, le=1_000_000, description="images a step and process")
    rate: float = Field(default=4e-5, gt=0, le=1_000, description="learning rate of AdamW")
    drop_after: float | None = Field(
        default=10, gt=0, le=1_000_000, description="epochs after which the rate is a tenth"
    )
    dropout: float = Field(default=0.5, ge=0, lt=1, description="in both φ")
    temperature: float = Field(default=0.2, gt=0, le=100, description="of the contrast")
    apart_weight: float = Field(
        default=1.0, ge=0, le=1_000, description="of the local features' orthogonality"
    )
    caption_weight: float = Field(
        default=1.4, ge=0, le=1_000, description="of the captions' three-way term"
    )
    masking: str = Field(
        default="auto",
        pattern="^(auto|words|spacy(:.+)?)$",
        description="where a caption's subject ends: at spaCy's first noun, or at the first run of "
        "content words; see seize train lincir",
    )
    prefix: str = Field(
        default="a photo of",
        pattern="^[^{}]*$",
        description="what prompts begin with; for an encoder that reads other texts",
    )
    most: int | None = Field(
        default=None, ge=1, le=training.MOST, description="images at most, chosen by the seed"
    )


class Fti4cir(Task):
    """The network, the captions' parts, and the frozen encoder."""

    name = "fti4cir"
    module: FineGrained

    def __init__(
        self,
        clip: Any,
        encoder: dict[str, Any],
        found: Images,
        pairs: Sequence[Sequence[Pair]],
        told: Mapping[str, Any],
        own: Settings,
        max_pixels: int,
    ) -> None:
        import torch

        from pipeline.models.inversion.networks import FineGrained
        from pipeline.models.inversion.prompts import Tokenizer, token_width
        from pipeline.store.identity import fingerprint

        self.settings, self.pairs, self.features = own, pairs, found.features
        self.model, self.tokenizer = clip.model, Tokenizer(clip.tokenizer)
        self.items = len(found.names)
        self.order = Order(self.items, own.batch, own.seed)
        self.tokens = Tokens(clip, found, max_pixels)
        v = self.tokens.of([0]).shape[2]
        d, t = found.features.shape[1], token_width(clip.model)
        self.identity = {
            "encoder": encoder,
            "images": self.items,
            "content": fingerprint([found.identity, pairs]),
            "d": d,
            "t": t,
            "v": v,
            "masking": told["masking"],
        }
        self.record = {"images_that_could_not_be_read": found.lost, **told}
        weight = next(iter(clip.model.parameters()))
        self.device, self.enlarged = weight.device, enlarged(weight, own.batch)
        torch.manual_seed(own.seed)
        self.module = FineGrained(d, v, dropout=own.dropout, t=t).to(weight.device).train()

    def batch(self, number: int) -> tuple[list[int], list[Pair], Tensor]:
        """Return the places of a batch's images, their subjects and attributes, their tokens."""
        rng = random.Random(f"{self.settings.seed} captions {number}")
        places = self.order.of(number)
        pairs = [rng.choice(self.pairs[place]) for place in places]
        return places, pairs, self.tokens.of(places)

    def losses(self, batch: tuple[list[int], list[Pair], Tensor]) -> dict[str, Tensor]:
        """Return contrast, orthogonality and the three-way term, weighted."""
        import torch
        from torch.nn.functional import mse_loss

        from pipeline.models.inversion.concepts import apart
        from pipeline.models.training.several import gathered
        from pipeline.recipes.searle import contrast

        places, pairs, tokens = batch
        seen = self.features[places].to(self.device)
        local = self.module.attributes(seen, tokens.to(self.device))
        subjects, others = self.module.phi_s(seen), self.module.phi_a(local.features)
        counts = local.counts.tolist()
        attributes = [row[:count] for row, count in zip(others, counts, strict=True)]
        words = [torch.cat([one[None], row]) for one, row in zip(subjects, attributes, strict=True)]
        both = self._encode(BOTH, words, runs=[[1, count] for count in counts])
        with torch.no_grad():
            texts = [" with ".join(pair) for pair in pairs]
            meant = self._encode("{text}", [row[:0] for row in words], texts)
        subject = self._encode(SUBJECT, list(subjects[:, None]), [pair[1] for pair in pairs])
        attribute = self._encode(ATTRIBUTES, attributes, [pair[0] for pair in pairs])
        three = sum(apart(one, meant).mean() for one in (subject, attribute, both))
        gram = local.features @ local.features.transpose(1, 2)
        eye = torch.eye(gram.shape[1], device=gram.device).expand_as(gram)
        own = self.settings
        return {
            "contrast": contrast(gathered(seen), gathered(both), own.temperature),
            "orthogonality": own.apart_weight * mse_loss(gram, eye),
            "captions": own.caption_weight * torch.as_tensor(three),
        }

    def _encode(
        self,
        template: str,
        words: Sequence[Tensor],
        texts: Sequence[str] | None = None,
        runs: Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        """Return the features (n, d) of a template with each image's words and its text."""
        from pipeline.models.inversion.prompts import assemble, encode

        template = f"{self.settings.prefix} {template}"
        texts = texts or [""] * len(words)
        runs = runs or [[len(own)] for own in words]
        prompts = [
            assemble(self.tokenizer, template, text, run)
            for text, run in zip(texts, runs, strict=True)
        ]
        return encode(self.model, self.tokenizer, prompts, words).float()


class Tokens:
    """The image tower's tokens of images: kept where they fit, else computed by the batch.

    Either way an image's come from batches that are the same whenever a training goes on.
    """

    def __init__(self, clip: Any, found: Images, max_pixels: int) -> None:
        self._clip, self._images, self._limit = clip, found, max_pixels
        self._pool = ThreadPoolExecutor()
        self._kept: Tensor | None = None
        first = self._made([0])
        if first.numel() * 4 * len(found.names) <= KEPT:
            self._kept = self._all()

    def of(self, places: Sequence[int]) -> Tensor:
        """Return the tokens (n, tokens, v), float32."""
        return self._made(places) if self._kept is None else self._kept[list(places)]

    def _all(self) -> Tensor:
        import torch

        count, made = len(self._images.names), []
        with progress(count, 0, "image", "image tokens") as bar:
            for start in range(0, count, BLOCK):
                made.append(self._made(range(count)[start : start + BLOCK]).cpu())
                bar.update(len(made[-1]))
        return torch.cat(made)

    def _made(self, places: Sequence[int]) -> Tensor:
        import torch

        from pipeline.models.inversion.towers import image_tokens

        names = [self._images.names[place] for place in places]
        prepared = torch.stack(list(self._pool.map(self._prepared, names)))
        with torch.no_grad():
            return image_tokens(self._clip, prepared)

    def _prepared(self, name: str) -> Tensor:
        from pipeline.images.files import open_image

        file, content = self._images.read(name)
        made: Tensor = self._clip.prepare(open_image(file, content, max_pixels=self._limit))
        return made


def captions(given: Given, left_out: Counter[str]) -> dict[str, list[str | Pair]]:
    """Return the captions by image, or the two parts where a record has them.

    They are those of ``--captions``, else those that the caption stage made for the benchmark's
    split. Raises InputError for a file without any, MissingStageError for a split without.
    """
    place = given.sources["captions"]
    if place is not None:
        return _of_file(given.file("captions"), left_out)
    where = given.sources["images"] or ""
    if Path(where).is_dir():
        raise ConfigError(
            'Images of a folder need --captions FILE: JSON lines {"image": path below the folder, '
            '"captions": [text, …]}.'
        )
    from pipeline.stages import caption

    run = given.run(where)
    records = caption.record_file(run)
    found = caption.by_image(records) if records.file.exists() else {}
    if not any(found.values()):
        raise run.missing("caption", records.file, f"{where} has no captions yet")
    return {image: list(texts) for image, texts in found.items()}


def _of_file(file: Path, left_out: Counter[str]) -> dict[str, list[str | Pair]]:
    found: dict[str, list[str | Pair]] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}.") from None
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            left_out["no JSON"] += 1
            continue
        if not isinstance(record, dict) or "header" in record:
            continue
        image, texts = record.get("image"), record.get("captions")
        parts = (record.get("subject"), record.get("attribute"))
        if isinstance(image, str) and all(isinstance(part, str) for part in parts):
            found.setdefault(image, []).append((str(parts[0]), str(parts[1])))
        elif isinstance(image, str) and isinstance(texts, list):
            found.setdefault(image, []).extend(t for t in texts if isinstance(t, str))
        else:
            left_out["without image and captions"] += 1
    if not found:
        raise InputError(
            f"{file} holds no captions of images ({dict(left_out)}). Give JSON lines with `image` "
            "and `captions`, as a caption stage's file, or with `subject` and `attribute`."
        )
    return found


def paired(
    found: Images,
    texts: Mapping[str, Sequence[str | Pair]],
    split: Callable[[str], Pair | None],
    left_out: Counter[str],
) -> tuple[list[int], list[list[Pair]]]:
    """Return the places of images with a caption in two parts, and those parts."""
    places, pairs = [], []
    for place, name in enumerate(found.names):
        own: list[Pair] = []
        for text in (text for path in found.paths[name] for text in texts.get(path, ())):
            parts = split(text) if isinstance(text, str) else text
            if parts is None:
                left_out["captions of less than four words, or in one part"] += 1
            else:
                own.append(parts)
        if own:
            places.append(place)
            pairs.append(own)
        else:
            left_out["images without a caption"] += 1
    return places, pairs


def make(given: Given) -> Fti4cir:
    """Return the task of images and their captions; raises InputError."""
    from pipeline.models.inversion import corpus, towers
    from pipeline.models.training import loop
    from pipeline.stages import embeddings

    settings, config = given.settings, given.config
    assert isinstance(settings, Settings)
    left_out: Counter[str] = Counter()
    texts = captions(given, left_out)
    masking, split = corpus.splitter(settings.masking)
    if towers.widths(config.clip).v == 0:
        raise towers.without_tokens(config.clip.model)
    clip = given.encoder()
    found = images.load(given, settings.most)
    places, pairs = paired(found, texts, split, left_out)
    log.info(
        "[train fti4cir] %s images with captions, subjects by %s (%s)",
        f"{len(places):,}", masking, corpus.said(left_out),
    )  # fmt: skip
    loop.check(settings, len(places), given.out, "images with captions")
    told = {"masking": masking, "left_out": dict(left_out)}
    encoder, limit = embeddings.identity(config), config.runtime.max_pixels
    return Fti4cir(clip, encoder, found.chosen(places), pairs, told, settings, limit)


RECIPE = Recipe(
    "fti4cir",
    """Train FTI4CIR's network: a subject and several attributes an image.

    Captions are those of --captions, or those of seize caption for the gallery's split; a caption's
    subject ends with its first noun, the rest are its attributes.

    Example: seize train fti4cir --images photos --captions captions.jsonl --out words.safetensors
    """,
    Settings,
    (
        images.SOURCE,
        Source("captions", "JSON lines with `image` and `captions`, or its parts", required=False),
    ),
    make,
    {
        "fti4cir-l14": Preset(
            "the authors' repository (ZiChao111/FTI4CIR) and its README's command",
            {"seed": 42},
            {"clip.model": "ViT-L-14", "clip.pretrained": "openai"},
            "Its captions are BLIP's of ImageNet's test images; mixed precision is not set here.",
        )
    },
    weights="search.fti4cir.phi",
    method="fti4cir",
)
