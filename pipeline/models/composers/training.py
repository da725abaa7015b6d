"""How a composer is trained on cached features: minutes on two cores, as no encoder runs."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError, InputError
from pipeline.models import composers
from pipeline.models.composers.base import Given, Head
from pipeline.models.composers.losses import info_nce, prototype_loss
from pipeline.models.composers.settings import Settings
from pipeline.models.training.several import gathered
from pipeline.models.training.task import Order, Task


@dataclass(frozen=True)
class Examples:
    """Triplets as normalised features, float32; zero rows where a triplet has no such thing."""

    given: Given
    targets: Tensor
    """The target images (n, d)."""
    captions: Tensor
    """The targets' captions (n, d)."""
    sources: Tensor
    """The captions of the reference images (n, d)."""
    reverse: Tensor
    """The texts that lead back from target to reference (n, d)."""
    labels: Tensor
    """Equal for triplets of one target, int64 (n): none is the other's negative."""
    target_tokens: Tensor | None = None
    """Patch tokens of the target images (n, t, v)."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | slice) -> "Examples":
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{n: value[rows] for n, value in own.items() if value is not None})

    def to(self, device: str) -> "Examples":
        """Return the same on a device."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{n: v.to(device) for n, v in own.items() if v is not None})


def build(settings: Settings, examples: Examples) -> Head:
    """Return the head that settings name, new, for the features' widths; raises ConfigError."""
    kind = composers.find(settings.head)
    sizes: dict[str, int] = {"d": examples.targets.shape[1]}
    if kind.reads_tokens:
        tokens = examples.given.tokens
        if tokens is None:
            raise ConfigError(f"The composer {settings.head} needs an encoder with patch tokens.")
        sizes |= {"v": tokens.shape[2], "tokens": tokens.shape[1]}
    if settings.hidden is not None and settings.head != "sum":
        sizes["hidden"] = settings.hidden
    torch.manual_seed(settings.seed)
    return kind(**sizes)


class Composing(Task):
    """A head and the triplets that it learns from."""

    name = "composer"

    def __init__(
        self, examples: Examples, settings: Settings, identity: dict[str, Any], device: str = "cpu"
    ) -> None:
        self.settings = settings
        self.module: Head = build(settings, examples).to(device).train()
        self.aims = _aims(settings, examples, self.module)
        self.examples = examples.to(device)
        self.back = bool((examples.reverse.any(dim=1) & examples.targets.any(dim=1)).any())
        self.items = len(examples)
        self.order = Order(self.items, settings.batch, settings.seed)
        self.identity = identity | {
            "sizes": self.module.sizes,
            "triplets": self.items,
        }

    def batch(self, number: int) -> Examples:
        """Return the triplets of a batch."""
        place = self.examples.labels.device
        return self.examples[torch.tensor(self.order.of(number), device=place)]

    def losses(self, batch: Examples) -> dict[str, Tensor]:
        """Return InfoNCE by aim and of the way back, and the prototype's term."""
        own, head = self.settings, self.module
        queries = head(batch.given)
        references = head.targets(batch.given.images, batch.given.tokens)
        found = {}
        if "image" in self.aims:
            targets = head.targets(batch.targets, batch.target_tokens)
            there = batch.targets.any(dim=1)
            found["image"] = self._contrast(queries, targets, there, references, batch.labels)
        if "text" in self.aims:
            captions, there = batch.captions, batch.captions.any(dim=1)
            found["text"] = self._contrast(queries, captions, there, batch.sources, batch.labels)
        if self.back:
            way = Given(batch.targets, batch.reverse, tokens=batch.target_tokens)
            there = batch.reverse.any(dim=1) & batch.targets.any(dim=1)
            if own.reverse:
                found["reverse"] = own.reverse * self._contrast(head(way), references, there)
            forth, back = head.prototype(batch.given), head.prototype(way)
            if own.prototype and forth is not None and back is not None:
                there = there[:, None]
                found["prototype"] = own.prototype * prototype_loss(forth * there, back * there)
        return found

    def _contrast(
        self,
        queries: Tensor,
        targets: Tensor,
        there: Tensor,
        negatives: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Return InfoNCE over what all processes have of the batch, of those that are ``there``."""
        own = self.settings
        hard = torch.zeros_like(targets) if negatives is None or not own.hard else negatives
        label = torch.arange(len(queries)) if labels is None else labels
        rows = [gathered(one) for one in (queries, targets, hard, there.double(), label.double())]
        known = rows[3] > 0
        if not bool(known.any()):
            return queries.sum() * 0
        queries, targets, hard = (one[known] for one in rows[:3])
        same = rows[4][known] if labels is not None else None
        return info_nce(queries, targets, same, hard[:, None], own.temperature, own.smoothing)


def _aims(settings: Settings, examples: Examples, head: Head) -> tuple[str, ...]:
    """Return what queries are drawn to; raises InputError for what the triplets do not have."""
    there = {
        "image": bool(examples.targets.any()),
        "text": bool(examples.captions.any()) and not head.reads_tokens,
    }
    aims = tuple(there) if settings.aim in ("auto", "both") else (settings.aim,)
    if settings.aim == "auto":
        aims = tuple(aim for aim in aims if there[aim])
    names = {"image": "target image", "text": "target caption that this head can be drawn to"}
    for aim in aims or there:
        if not there[aim]:
            raise InputError(f"The triplets have no {names[aim]}: choose another --aim.")
    return aims
