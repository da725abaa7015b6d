"""Images, captions and texts of the demo's world to train from: what ``seize train`` is given.

``python -m pipeline.demo.lessons FOLDER`` renders scenes that are not held out, so that none of
them is in a benchmark of the demo.
"""

import json
import random
from pathlib import Path

import click

from pipeline.demo import world
from pipeline.demo.training import said


def write(folder: Path, images: int, texts: int, seed: int = 0) -> None:
    """Write ``images/``, ``captions.jsonl`` (a partial description an image) and ``texts.txt``."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    lines = []
    for number in range(images):
        scene, name = world.training_scene(rng), f"{number:05}.png"
        world.render(scene, number).save(folder / "images" / name)
        lines.append({"image": name, "captions": [world.mention(scene, rng).text()]})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    rng = random.Random(seed + 1)
    made = [said(world.training_scene(rng), rng) for _ in range(texts)]
    (folder / "texts.txt").write_text("\n".join(made), encoding="utf-8")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--images", type=int, default=2000, show_default=True)
@click.option("--texts", type=int, default=20_000, show_default=True)
def main(folder: Path, images: int, texts: int) -> None:
    """Write images, captions and texts to train from into FOLDER."""
    write(folder, images, texts)


if __name__ == "__main__":
    main()
