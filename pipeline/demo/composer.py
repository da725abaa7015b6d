"""Trains the demo's composer on synthetic triplets of scenes that are not held out.

No scene, picture or text of the demo's benchmarks is among them: those are held out of training.
"""

import random
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click

from pipeline import config
from pipeline.datasets import triplets
from pipeline.datasets.triplets import Triplet, Triplets
from pipeline.demo import world
from pipeline.demo.world import Scene
from pipeline.models.composers.settings import Settings
from pipeline.models.composers.training import Composing
from pipeline.models.training import files, loop
from pipeline.run import Run
from pipeline.stages import composing
from pipeline.store.files import write_json

NAME = "composer.safetensors"
TRIPLETS = 4000
EDITS = 2
"""Edits of one reference scene."""
TRIES = 200
"""Edits of a target that are drawn to find one that leads back."""


def questions(count: int, seed: int) -> Iterator[tuple[Scene, Scene, Triplet]]:
    """Yield ``count`` triplets of training scenes, with reference and target; ids count up."""
    rng = random.Random(f"triplets {seed}")
    made = 0
    while made < count:
        scene = world.training_scene(rng)
        reference = f"{made:06}-reference"
        for _ in range(EDITS):
            edit = world.random_edit(scene, rng)
            target = edit.apply(scene).canonical()
            if target == scene or world.held_out(target) or made == count:
                continue
            described = world.mention(scene, rng)
            yield (
                scene,
                target,
                Triplet(
                    reference=reference,
                    text=edit.text,
                    target=f"{made:06}-target",
                    source_caption=described.text(),
                    target_caption=edit.apply(described).text(),
                    text_reverse=_way_back(target, scene, rng),
                    generator="demo world",
                ),
            )
            made += 1


def _way_back(target: Scene, scene: Scene, rng: random.Random) -> str | None:
    for _ in range(TRIES):
        edit = world.random_edit(target, rng)
        if edit.apply(target).canonical() == scene:
            return edit.text
    return None


def build_triplets(root: Path, count: int = TRIPLETS, seed: int = 1, split: str = "train") -> Path:
    """Write triplets with pictures below ``root`` as the dataset ``triplets``; return ``root``."""
    found: list[Triplet] = []
    pictures: dict[str, Scene] = {}
    for scene, target, triplet in questions(count, seed):
        found.append(triplet)
        pictures |= {triplet.reference: scene, str(triplet.target): target}
    (root / triplets.IMAGES).mkdir(parents=True, exist_ok=True)
    triplets.write(root / f"triplets.{split}.jsonl", found)
    write_json(root / triplets.LISTING, {name: f"{name}.png" for name in pictures})
    items = list(pictures.items())
    chunks = [
        (root, seed, start, items[start : start + 500]) for start in range(0, len(items), 500)
    ]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_draw, chunks))
    return root


def _draw(job: tuple[Path, int, int, list[tuple[str, Scene]]]) -> None:
    root, seed, start, items = job
    for place, (name, scene) in enumerate(items, start):
        world.render(scene, seed * 1_000_003 + place).save(root / triplets.IMAGES / f"{name}.png")


def train_composer(out: Path, steps: int, seed: int, rate: float, start: Path | None) -> None:
    """Train the demo's composer, and keep its weights and record in ``out``."""
    if start:
        raise click.UsageError("A composer is trained anew; a stopped training resumes by itself.")
    settings = CHOSEN.model_copy(update={"steps": steps, "rate": rate, "seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        root = build_triplets(Path(folder) / "triplets")
        demo = config.load("demo", {"search.method": "image+text"})
        run = Run(Triplets("train", root), demo, Path(folder) / "cache", Path(folder))
        lessons = composing.lessons(run)
    file = out / NAME
    task = Composing(lessons.examples, settings, lessons.identity)
    loop.train(task, file, settings, half=True)
    record = files.folder_of(file)
    (record / "training.json").replace(out / "training.json")
    shutil.rmtree(record)


CHOSEN = Settings(head="combiner", hidden=128, steps=800, rate=1e-3, schedule="cosine", every=400)
"""What the demo's composer is; figures of every head are in ``docs/composers.md``."""
