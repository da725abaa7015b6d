"""Training steps of LinCIR's φ against a bare loop of the same tensors, on this machine.

The bare loop is given each step's token ids, places and random numbers ready-made, and does nothing
but the forward passes, the backward pass and AdamW's step. Both take turns on the same batches, and
the medians count: what else the machine does meets both alike.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.functional import mse_loss

from pipeline import config
from pipeline.demo import world
from pipeline.demo.training import said
from pipeline.models.inversion import towers
from pipeline.models.inversion.corpus import Corpus
from pipeline.models.inversion.networks import Phi
from pipeline.models.inversion.prompts import injected, text_features
from pipeline.models.training.files import Files
from pipeline.models.training.loop import _Loop
from pipeline.recipes.lincir import Lincir, Settings
from tests.benchmarks.report import Size, table

STEPS = {"small": 5, "full": 20}
"""Steps of a turn."""
TURNS = 7


def tables(size: Size) -> Iterator[str]:
    """Yield a line a batch size: steps a second of both, and their ratio."""
    demo = config.load("demo")
    clip = towers.load(demo.clip, demo.runtime)
    rng = random.Random(0)
    texts = [said(world.training_scene(rng), rng) for _ in range(20_000)]
    rows = []
    for batch in (64, 256):
        ours, bare = measured(clip, texts, batch, STEPS[size])
        ratio = median(other / own for own, other in zip(ours, bare, strict=True))
        rows.append((batch, f"{1 / median(bare):.2f}", f"{1 / median(ours):.2f}", f"{ratio:.3f}"))
    columns = ("texts a step", "bare loop, steps/s", "seize train lincir, steps/s", "ratio")
    yield table("Training steps of LinCIR's φ on the demo's CLIP", columns, rows)


def measured(clip: Any, texts: list[str], batch: int, steps: int) -> list[list[float]]:
    """Return seconds a step of the loop and of the bare one, by turn."""
    settings = Settings(steps=1_000_000, batch=batch, masking="words")
    task = Lincir(clip.model, clip.tokenizer, {}, Corpus(texts), settings)
    with tempfile.TemporaryDirectory() as folder:
        loop = _Loop(task, Files(Path(folder) / "phi.safetensors"), settings, False, None)
        bare = _bare(task, batch, steps * TURNS)
        task.texts.prompts.cache_clear()  # the loop prepares its texts itself
        times: dict[Callable[[], Any], list[float]] = {loop._advance: [], bare: []}
        for _ in range(TURNS):
            for step, spent in times.items():
                start = time.perf_counter()
                for _ in range(steps):
                    step()
                spent.append((time.perf_counter() - start) / steps)
    return list(times.values())


def _bare(task: Lincir, batch: int, count: int) -> Callable[[], None]:
    """Return a step on the tensors of the first ``count`` batches, which are there already."""
    model, d = task.model, task.identity["d"]
    ready = iter([_tensors(task, number, batch) for number in range(count)])
    phi = Phi(d, task.identity["t"]).train()
    adam = torch.optim.AdamW(phi.parameters(), lr=1e-4, weight_decay=0.01)

    def step() -> None:
        whole, other, rows, columns, noise = next(ready)
        with torch.no_grad():
            target = text_features(model, whole)
        words = phi(target + noise)
        with injected(model, rows, columns, words[rows]):
            found = text_features(model, other)
        adam.zero_grad()
        mse_loss(found, target).backward()  # type: ignore[no-untyped-call]
        adam.step()

    return step


def _tensors(task: Lincir, number: int, batch: int) -> tuple[torch.Tensor, ...]:
    wholes, masked = zip(*task.batch(number), strict=True)
    places = [(row, 1 + at) for row, prompt in enumerate(masked) for at in prompt.places]
    rows, columns = (torch.tensor(side) for side in zip(*places, strict=True))
    noise = torch.rand(batch, 1) * torch.randn(batch, task.identity["d"])
    return task.tokenizer.rows(wholes), task.tokenizer.rows(masked), rows, columns, noise
