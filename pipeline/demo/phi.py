"""Trains the demo's φ for LinCIR from descriptions of scenes alone.

It shows that the path works, not that it helps: the demo's CLIP has read descriptions of scenes
alone, and most relative captions of the world (`is red instead of blue`) describe none. See
``data/models/README.md``.
"""

import random
import shutil
from pathlib import Path

import click

from pipeline import config
from pipeline.demo import world
from pipeline.demo.training import said
from pipeline.models.inversion import towers
from pipeline.models.inversion.corpus import Corpus
from pipeline.models.training import files, loop
from pipeline.recipes import lincir
from pipeline.stages import embeddings

NAME = "lincir.safetensors"
TEXTS = 20_000


def train_phi(out: Path, steps: int, seed: int, rate: float, start: Path | None) -> None:
    """Train LinCIR's φ on the demo's CLIP, and keep its weights and record in ``out``."""
    if start:
        raise click.UsageError("φ is trained anew; a stopped training resumes without --start.")
    rng = random.Random(seed)
    texts = [said(world.training_scene(rng), rng) for _ in range(TEXTS)]
    settings = lincir.Settings(
        steps=steps,
        batch=128,
        rate=rate,
        warmup=50,
        schedule="cosine",
        dropout=0.1,
        seed=seed,
        masking="words",
        every=50,
    )
    demo = config.load("demo")
    clip, file = towers.load(demo.clip, demo.runtime), out / NAME
    encoder = embeddings.identity(demo)
    task = lincir.Lincir(clip.model, clip.tokenizer, encoder, Corpus(texts), settings)
    loop.train(task, file, settings, half=True)
    folder = files.folder_of(file)
    (folder / "training.json").replace(out / "training.json")
    shutil.rmtree(folder)
