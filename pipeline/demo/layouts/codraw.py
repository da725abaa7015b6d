"""CoDraw's layout: i-CLEVR's drawings told in a dialogue, with turns that draw nothing."""

import random
from pathlib import Path

from PIL import Image

from pipeline.demo import world
from pipeline.demo.build import draw
from pipeline.demo.layouts.iclevr import drawn
from pipeline.store.files import write_json, write_text

KINDS = [(shape, colour) for shape in world.SHAPES for colour in world.COLOURS]


def write(root: Path, rng: random.Random, queries: int) -> None:
    """Write ``queries`` dialogues; every second one is interrupted by a turn without a drawing."""
    made, pictures, lines = root / "CoDraw", [], []
    for folder in ("output", "images"):
        (made / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (world.SIDE, world.SIDE), (250, 250, 250)).save(made / "background.png")
    for number in range(queries):
        steps, texts = drawn(rng)
        said = [{"msg_t": text, "msg_d": "ok", "abs_d": "drawn"} for text in texts]
        if number % 2:
            said.insert(1, {"msg_t": "now look closely", "msg_d": "ok", "abs_d": ""})
        content = {"image_id": number, "dialog": said}
        write_json(made / "output" / f"val_{number:05}.json", content)
        for turn, scene in enumerate(steps):
            name = f"Scene{number}_{turn}"
            pictures.append((made / "images" / f"{name}.png", scene, rng.getrandbits(32)))
            shown = {(group.shape, group.colour) for group in scene.groups}
            there = " ".join(f"{int(kind in shown)},0,0,0" for kind in KINDS)
            lines.append(f"{name}\t{there}")
    write_text(made / "extracted_coords.txt", "\n".join(lines) + "\n")
    draw(pictures)
