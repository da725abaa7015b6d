"""Pictures of scenes."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from pipeline.demo.world.scenes import COLOURS, SIZES, Scene

SIDE = 64
CELL = 16
SCALE = 3


def render(scene: Scene, seed: int) -> Image.Image:
    """Draw a full scene as RGB, 64 x 64; the seed sets places, jitter and noise."""
    rng = np.random.default_rng(seed)
    canvas = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), "white")
    draw = ImageDraw.Draw(canvas)
    _background(draw, scene.background or "white", int(rng.integers(0, 8)))
    for group, cells in zip(scene.groups, _cells(scene, rng), strict=True):
        diameter = SIZES[group.size or "large"]
        colour = tuple(
            int(np.clip(c + rng.integers(-8, 9), 0, 255)) for c in COLOURS[group.colour or "red"]
        )
        slack = (CELL - diameter) / 2
        for column, row in cells:
            x = column * CELL + CELL / 2 + rng.uniform(-slack, slack)
            y = row * CELL + CELL / 2 + rng.uniform(-slack, slack)
            _shape(draw, group.shape, x * SCALE, y * SCALE, diameter * SCALE / 2, colour)
    small = canvas.resize((SIDE, SIDE), Image.Resampling.BOX)
    noise = rng.normal(0, 4, (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(np.asarray(small) + noise, 0, 255).astype(np.uint8))


def _cells(scene: Scene, rng: np.random.Generator) -> list[list[tuple[int, int]]]:
    """Return free cells of a 4 x 4 grid for each group, on its own half where there are two."""
    everything = [(column, row) for column in range(4) for row in range(4)]
    halves: dict[str | None, Callable[[int, int], bool]] = {
        "left of": lambda column, row: column < 2,
        "right of": lambda column, row: column >= 2,
        "above": lambda column, row: row < 2,
        "below": lambda column, row: row >= 2,
    }
    chosen = []
    for number, group in enumerate(scene.groups):
        free = everything
        if scene.relation:
            inside = halves[scene.relation]
            free = [cell for cell in everything if inside(*cell) == (number == 0)]
        picked = rng.choice(len(free), size=group.count or 1, replace=False)
        chosen.append([free[i] for i in picked])
    return chosen


def _background(draw: ImageDraw.ImageDraw, name: str, shift: int) -> None:
    side = SIDE * SCALE
    plain = {"white": (250, 250, 250), "grey": (150, 150, 150), "dark": (25, 25, 35)}
    draw.rectangle((0, 0, side, side), fill=plain.get(name, (235, 230, 220)))
    ink = (190, 180, 160)
    step = 8 * SCALE
    if name == "striped":
        for x in range(-step + shift * SCALE, side, step):
            draw.rectangle((x, 0, x + step // 2, side), fill=ink)
    elif name == "checkered":
        for i, x in enumerate(range(-step + shift * SCALE, side, step)):
            for j, y in enumerate(range(0, side, step)):
                if (i + j) % 2:
                    draw.rectangle((x, y, x + step - 1, y + step - 1), fill=ink)
    elif name == "dotted":
        for x in range(-step + shift * SCALE, side, step):
            for y in range(step // 2, side, step):
                draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=ink)


def _shape(
    draw: ImageDraw.ImageDraw, name: str, x: float, y: float, r: float, colour: tuple[int, ...]
) -> None:
    if name == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif name == "square":
        draw.rectangle((x - r * 0.88, y - r * 0.88, x + r * 0.88, y + r * 0.88), fill=colour)
    elif name == "triangle":
        draw.polygon([(x, y - r), (x + r, y + r * 0.85), (x - r, y + r * 0.85)], fill=colour)
    elif name == "diamond":
        draw.polygon([(x, y - r), (x + r * 0.7, y), (x, y + r), (x - r * 0.7, y)], fill=colour)
    elif name == "star":
        points = []
        for corner in range(10):
            radius = r * (1.1 if corner % 2 == 0 else 0.42)
            angle = np.pi * corner / 5 - np.pi / 2
            points.append((x + radius * np.cos(angle), y + radius * np.sin(angle)))
        draw.polygon(points, fill=colour)
    elif name == "cross":
        thick = r * 0.36
        draw.rectangle((x - r, y - thick, x + r, y + thick), fill=colour)
        draw.rectangle((x - thick, y - r, x + thick, y + r), fill=colour)
    else:  # heart
        draw.ellipse((x - r, y - r * 0.9, x + r * 0.08, y + r * 0.2), fill=colour)
        draw.ellipse((x - r * 0.08, y - r * 0.9, x + r, y + r * 0.2), fill=colour)
        draw.polygon([(x - r * 0.93, y - r * 0.1), (x + r * 0.93, y - r * 0.1), (x, y + r)], colour)
