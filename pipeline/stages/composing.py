"""What composers are trained on: a run's triplets as features, from the embed stage's files."""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pipeline.datasets.triplets import Triplet, Triplets
from pipeline.errors import InputError
from pipeline.images.files import read_named
from pipeline.models.composers.phrases import entities
from pipeline.run import Run, log, progress
from pipeline.stages import embed, embeddings
from pipeline.stages.inputs import Inputs
from pipeline.store.identity import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.composers.training import Examples


@dataclass(frozen=True)
class Lessons:
    """A run's triplets, as a composer is trained on them."""

    examples: "Examples"
    identity: dict[str, Any]
    """What they are of: encoder, dataset and split, and a fingerprint of the triplets."""
    left_out: Counter[str]
    """Triplets that were left out, by the reason."""


def triplets_of(run: Run) -> list[Triplet]:
    """Return the triplets of a run's dataset: its own, or its queries with their targets.

    Raises InputError for a split without targets.
    """
    if isinstance(run.dataset, Triplets):
        return run.dataset.triplets
    run.dataset.check_ground_truth()
    return [
        Triplet(
            reference=query.reference,
            text=run.relative_captions(query)[0],
            target=query.target,
            generator=run.name,
        )
        for query in run.queries
        if query.target is not None
    ]


def lessons(run: Run, tokens: bool = False) -> Lessons:
    """Return a run's triplets as features; what is not embedded yet is embedded now.

    ``tokens`` also makes the patch tokens of their images, which are held in memory.

    Triplets whose reference could not be read are left out and counted, as are those of which
    neither the target image nor its caption is known. Raises InputError where none is left.
    """
    triplets = triplets_of(run)
    embed.embed_images(run)
    embed.embed_texts(run, _texts(triplets))
    inputs = Inputs(run)
    row, left_out, kept = inputs.images.row, Counter[str](), []
    for one in triplets:
        if one.reference not in row:
            left_out["without a feature of the reference image"] += 1
        elif one.target not in row and not one.target_caption:
            left_out["without a feature of the target image"] += 1
        else:
            kept.append(one)
    if not kept:
        raise InputError(
            f"None of {len(triplets):,} triplets of {run.name} can be used: {left_out}"
        )
    for why, count in left_out.items():
        log.warning("[train composer] %s triplets left out, %s", f"{count:,}", why)
    identity = {
        "encoder": embeddings.identity(run.config),
        "clip": run.config.encoder.model_dump(mode="json"),
        "trained_on": run.name,
        "content": fingerprint([one.as_json() for one in kept]),
        "generators": sorted({one.generator for one in kept if one.generator})[:20],
    }
    examples = _examples(inputs, kept)
    if tokens:
        examples = _with_tokens(run, examples, kept)
    return Lessons(examples, identity, left_out)


def _with_tokens(run: Run, examples: "Examples", triplets: Sequence[Triplet]) -> "Examples":
    """Return the examples with the patch tokens of references and targets; zeros where none."""
    import torch

    from pipeline.models.decode import decode
    from pipeline.models.encoders._composer import tokens_of

    clip = Inputs(run).encoder()
    asked = dict.fromkeys(n for one in triplets for n in (one.reference, one.target) if n)
    read = functools.partial(read_named, run.dataset.images)
    rows: dict[str, int] = {}
    parts = []
    with progress(len(asked), 0, "image", "patch tokens") as bar:
        for chunk in decode(list(asked), read, clip, run.config.runtime):
            if chunk.names:
                rows |= {name: len(rows) + i for i, name in enumerate(chunk.names)}
                parts.append(tokens_of(clip, cast("Tensor", chunk.prepared))[1].cpu())
            bar.update(len(chunk.names) + len(chunk.broken))
    nothing = torch.zeros_like(parts[0][:1])
    found = torch.cat([*parts, nothing])
    references = torch.tensor([rows.get(one.reference, -1) for one in triplets])
    targets = torch.tensor([rows.get(one.target or "", -1) for one in triplets])
    given = replace(examples.given, tokens=found[references])
    return replace(examples, given=given, target_tokens=found[targets])


def _texts(triplets: Sequence[Triplet]) -> list[str]:
    """Return every text that a composer may be trained with, once."""
    found: dict[str, None] = {}
    for one in triplets:
        own = (one.text, one.target_caption, one.source_caption, one.text_reverse)
        found |= dict.fromkeys(text for text in own if text)
        found |= dict.fromkeys(entities(one.text))
    return list(found)


def _examples(inputs: Inputs, triplets: Sequence[Triplet]) -> "Examples":
    import torch

    from pipeline.models.composers.base import Given, padded, unit
    from pipeline.models.composers.training import Examples

    d = inputs.images.shape[1]

    def of_images(names: Sequence[str | None]) -> "Tensor":
        """Return features (n, d) of images, zeros for those that there are none of."""
        row = inputs.images.row
        known = [place for place, name in enumerate(names) if name in row]
        found = torch.zeros(len(names), d)
        if known:
            rows = np.array([row[str(names[place])] for place in known])
            found[known] = unit(torch.from_numpy(inputs.images.take(rows)).float())
        return found

    def of_texts(texts: Sequence[str | None]) -> "Tensor":
        found = torch.zeros(len(texts), d)
        known = [place for place, text in enumerate(texts) if text]
        if known:
            found[known] = unit(inputs.embed([str(texts[place]) for place in known]))
        return found

    named = [entities(one.text) for one in triplets]
    own = of_texts([name for names in named for name in names])
    targets = [one.target or one.target_caption for one in triplets]
    number = {name: place for place, name in enumerate(dict.fromkeys(targets))}
    return Examples(
        given=Given(
            of_images([one.reference for one in triplets]),
            of_texts([one.text for one in triplets]),
            padded(torch.split(own, [len(names) for names in named]), d),
        ),
        targets=of_images([one.target for one in triplets]),
        captions=of_texts([one.target_caption for one in triplets]),
        sources=of_texts([one.source_caption for one in triplets]),
        reverse=of_texts([one.text_reverse for one in triplets]),
        labels=torch.tensor([number[name] for name in targets]),
    )
