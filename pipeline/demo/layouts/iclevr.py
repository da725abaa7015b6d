"""i-CLEVR's layout: a blank canvas that gains one group of shapes, then another beside it."""

import random
from pathlib import Path

from PIL import Image

from pipeline.demo import world
from pipeline.demo.build import draw
from pipeline.demo.world import Scene
from pipeline.store.files import write_json, write_text


def write(root: Path, rng: random.Random, queries: int) -> None:
    """Write ``queries`` sessions of two turns."""
    made, pictures = root / "i-CLEVR", []
    for folder in ("scenes", "text", "images"):
        (made / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (world.SIDE, world.SIDE), (250, 250, 250)).save(made / "background.png")
    for number in range(queries):
        steps, texts = drawn(rng)
        name = f"CLEVR_val_{number:06}"
        objects = [{"shape": g.shape, "color": g.colour} for g in steps[1].groups]
        write_json(made / "scenes" / f"{name}.json", {"objects": objects})
        write_text(made / "text" / f"{name}.txt", "\n".join(texts) + "\n")
        for turn, scene in enumerate(steps):
            file = made / "images" / f"{name}_{turn}.png"
            pictures.append((file, scene, rng.getrandbits(32)))
    draw(pictures)


def drawn(rng: random.Random) -> tuple[list[Scene], list[str]]:
    """Return the scenes of two turns on white, and what is said at each."""
    while not world.held_out(whole := world.random_scene(rng, groups=2)):
        pass
    first, second = whole.groups
    one = Scene((first,), None, "white")
    back = world.OPPOSITE[whole.relation or "above"]
    where = f"{back} the {first.shape if first.count == 1 else world.plural(first.shape)}"
    texts = [f"add {first.text()}", f"add {second.text()} {where}"]
    return [one, Scene(whole.groups, whole.relation, "white")], texts
