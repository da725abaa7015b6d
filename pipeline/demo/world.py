"""The demo's world: scenes of coloured shapes, their pictures, descriptions and edits.

A scene has one or two groups of equal shapes on a background. A description mentions some of a
scene's attributes; an edit changes attributes and can be applied to scenes and descriptions alike,
which yields ground truth for retrieval and the right answers for the LLM.
"""

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (215, 30, 30),
    "green": (25, 145, 50),
    "blue": (40, 70, 230),
    "yellow": (240, 205, 20),
    "purple": (130, 35, 170),
    "orange": (255, 125, 0),
    "pink": (255, 120, 195),
    "cyan": (0, 195, 215),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "diamond")
SIZES = {"small": 9, "large": 15}  # diameter in pixels
COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}
BACKGROUNDS = ("white", "grey", "striped", "checkered", "dotted", "dark")
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SIDE = 64
CELL = 16
SCALE = 3


@dataclass(frozen=True)
class Group:
    """Equal shapes. None stands for an attribute that a description does not mention."""

    shape: str
    count: int | None
    size: str | None
    colour: str | None

    def text(self) -> str:
        """Return ``two large red circles``, ``an orange star`` or, without count, ``red stars``."""
        noun = self.shape if self.count == 1 else plural(self.shape)
        words = [word for word in (self.size, self.colour, noun) if word]
        if self.count == 1:
            words.insert(0, "an" if words[0][0] in "aeiou" else "a")
        elif self.count is not None:
            words.insert(0, COUNTS[self.count])
        return " ".join(words)


@dataclass(frozen=True)
class Scene:
    """One or two groups; ``relation`` says where the first is seen from the second."""

    groups: tuple[Group, ...]
    relation: str | None
    background: str | None

    def text(self) -> str:
        """Return the description of what is not None."""
        between = f" {self.relation} " if self.relation else " and "
        text = between.join(group.text() for group in self.groups)
        return f"{text} on a {self.background} background" if self.background else text

    def canonical(self) -> "Scene":
        """Return the same scene with its groups in one fixed order, to compare attributes."""
        if len(self.groups) == 2 and self.groups[0].shape > self.groups[1].shape:
            return self.swapped()
        return self

    def swapped(self) -> "Scene":
        """Return the same scene told from its other group."""
        first, second = self.groups
        relation = OPPOSITE[self.relation] if self.relation else None
        return replace(self, groups=(second, first), relation=relation)

    def group(self, shape: str) -> Group | None:
        """Return the group of that shape, if there is one."""
        return next((group for group in self.groups if group.shape == shape), None)

    def with_group(self, shape: str, change: Callable[[Group], Group], default: Group) -> "Scene":
        """Return the scene with one group changed, or with ``default`` where it is unmentioned."""
        if self.group(shape) is None:
            if len(self.groups) == 2:
                return self
            return replace(self, groups=(*self.groups, default), relation=None)
        groups = tuple(change(group) if group.shape == shape else group for group in self.groups)
        return replace(self, groups=groups)


@dataclass(frozen=True)
class Edit:
    """A relative caption, its semantic aspects (CIRCO's names), and what it does to a scene."""

    text: str
    aspects: tuple[str, ...]
    apply: Callable[[Scene], Scene]


def plural(shape: str) -> str:
    """Return the plural of a shape's name."""
    return shape + "es" if shape.endswith("s") else shape + "s"


def held_out(scene: Scene) -> bool:
    """Whether a full scene has a combination of attributes that training never shows.

    A fixed 15 % of all (count, size, colour, shape) combinations of a group are held out.
    """
    return any(_held_out_group(group) for group in scene.groups)


def _held_out_group(group: Group) -> bool:
    key = f"{group.count} {group.size} {group.colour} {group.shape}"
    return hashlib.sha256(key.encode()).digest()[0] < 0.15 * 256


def random_scene(rng: random.Random, groups: int | None = None) -> Scene:
    """Return a full scene; two groups differ in shape and in colour."""
    number = groups or rng.choice((1, 2, 2))
    shapes = rng.sample(SHAPES, number)
    colours = rng.sample(list(COLOURS), number)
    made = tuple(
        Group(shape, rng.choice(list(COUNTS)), rng.choice(list(SIZES)), colour)
        for shape, colour in zip(shapes, colours, strict=True)
    )
    relation = rng.choice(RELATIONS) if number == 2 else None
    return Scene(made, relation, rng.choice(BACKGROUNDS)).canonical()


def training_scene(rng: random.Random, groups: int | None = None) -> Scene:
    """Return a random scene that is not held out."""
    while held_out(scene := random_scene(rng, groups)):
        pass
    return scene


def mention(scene: Scene, rng: random.Random) -> Scene:
    """Return a description's view of ``scene``: some attributes left out, groups in any order."""
    if len(scene.groups) == 2 and rng.random() < 0.5:
        scene = scene.swapped()
    groups = scene.groups
    if len(groups) == 2 and rng.random() < 0.15:
        groups = (rng.choice(groups),)
    said = tuple(
        replace(
            group,
            size=group.size if rng.random() < 0.6 else None,
            colour=group.colour if rng.random() < 0.93 else None,
        )
        for group in groups
    )
    keep_relation = len(said) == 2 and rng.random() < 0.75
    return Scene(
        said,
        scene.relation if keep_relation else None,
        scene.background if rng.random() < 0.6 else None,
    )


_GROUP = re.compile(
    rf"(?:(?P<count>an?|{'|'.join(COUNTS.values())}) )?(?:(?P<size>{'|'.join(SIZES)}) )?"
    rf"(?:(?P<colour>{'|'.join(COLOURS)}) )?(?P<shape>{'|'.join(SHAPES)})(?:e?s)?"
)


def parse(text: str) -> Scene | None:
    """Return what a description says, or None if it is not in the world's language."""
    text, _, place = text.partition(" on a ")
    background = place.removesuffix(" background") or None
    if background not in (None, *BACKGROUNDS):
        return None
    relation = next((name for name in RELATIONS if f" {name} " in text), None)
    parts = text.split(f" {relation} " if relation else " and ")
    matches = [_GROUP.fullmatch(part) for part in parts]
    if len(parts) > 2:
        return None
    numbers = {"a": 1, "an": 1, None: None} | {word: n for n, word in COUNTS.items()}
    groups = tuple(
        Group(found["shape"], numbers[found["count"]], found["size"], found["colour"])
        for found in matches
        if found
    )
    return Scene(groups, relation, background) if len(groups) == len(parts) else None


def claims(caption: Scene, scene: Scene) -> list[bool]:
    """Return, for each attribute that ``caption`` claims, whether it is true of ``scene``."""
    true = []
    for said in caption.groups:
        shown = scene.group(said.shape)
        true.append(shown is not None)
        for attribute in ("count", "size", "colour"):
            value = getattr(said, attribute)
            if value is not None:
                true.append(shown is not None and getattr(shown, attribute) == value)
    if caption.relation and len(caption.groups) == 2:
        order = (caption.groups[0].shape, caption.groups[1].shape)
        shown_order = tuple(group.shape for group in scene.groups)
        if shown_order == order:
            true.append(caption.relation == scene.relation)
        elif shown_order == order[::-1]:
            true.append(OPPOSITE[caption.relation] == scene.relation)
        else:
            true.append(False)
    if caption.background:
        true.append(caption.background == scene.background)
    return true


# --- pictures -----------------------------------------------------------------------------------


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


# --- edits --------------------------------------------------------------------------------------


def random_edit(scene: Scene, rng: random.Random) -> Edit:
    """Return an edit that changes the full ``scene``; one in four joins two changes."""
    if rng.random() < 0.25:
        return joined_edit(scene, rng)
    return _single(scene, rng, rng.choice(_kinds(scene)))


def joined_edit(scene: Scene, rng: random.Random) -> Edit:
    """Return two different changes joined by "and"."""
    first, second = halves_of_edit(scene, rng)
    aspects = (*first.aspects, *second.aspects, "statement_with_conjunction")
    return Edit(
        f"{first.text} and {second.text}",
        tuple(dict.fromkeys(aspects)),
        lambda described: second.apply(first.apply(described)),
    )


def halves_of_edit(scene: Scene, rng: random.Random) -> tuple[Edit, Edit]:
    """Return two different changes of attributes that do not get in each other's way."""
    kinds = rng.sample([k for k in _kinds(scene) if k in ("colour", "count", "size", "place")], 2)
    first = _single(scene, rng, kinds[0], joined=True)
    return first, _single(scene, rng, kinds[1], joined=True)


def _kinds(scene: Scene) -> list[str]:
    always = ["colour", "count", "size", "shape", "place"]
    if len(scene.groups) == 2:
        return [*always, "remove", "relation", "view"]
    return [*always, "add", "add", "add"]


def _single(scene: Scene, rng: random.Random, kind: str, joined: bool = False) -> Edit:
    subject = rng.choice(scene.groups)
    return _EDITS[kind](scene, subject, rng, joined)


def _change(
    subject: Group, change: Callable[[Group], Group], **known: str | int
) -> Callable[[Scene], Scene]:
    """Return the function that changes the subject's group, or mentions it where it is not."""
    unmentioned = Group(subject.shape, 1 if subject.count == 1 else None, None, None)
    default = replace(unmentioned, **known)  # type: ignore[arg-type]
    return lambda scene: scene.with_group(subject.shape, change, default)


def _the(subject: Group) -> str:
    return f"the {subject.shape}" if subject.count == 1 else f"the {plural(subject.shape)}"


def _colour(scene: Scene, subject: Group, rng: random.Random, joined: bool) -> Edit:
    used = {group.colour for group in scene.groups}
    colour = rng.choice([name for name in COLOURS if name not in used])
    texts = [
        (f"has {colour} {_the(subject)[4:]} instead of {subject.colour}", "compare_change"),
        (f"make {_the(subject)} {colour}", "direct_addressing"),
    ]
    if subject.count == 1:
        article = "an" if colour[0] in "aeiou" else "a"
        texts[0] = (
            f"has {article} {colour} {subject.shape} instead of {subject.colour}",
            "compare_change",
        )
    texts.append((f"has {_the(subject)} in {colour}", "compare_change"))
    text, aspect = rng.choice(texts)
    return Edit(
        text, (aspect,), _change(subject, lambda g: replace(g, colour=colour), colour=colour)
    )


def _count(scene: Scene, subject: Group, rng: random.Random, joined: bool) -> Edit:
    old = subject.count or 1
    count = rng.choice([number for number in COUNTS if number != old])
    noun = subject.shape if count == 1 else plural(subject.shape)
    direction = "more" if count > old else "fewer"
    text, aspects = rng.choice(
        [
            (f"has {COUNTS[count]} {noun}", ("cardinality",)),
            (f"shows {COUNTS[count]} {noun} instead of {COUNTS[old]}", ("cardinality",)),
            (
                f"has {direction} {plural(subject.shape)}, {COUNTS[count]} of them",
                ("cardinality", "comparative_statement"),
            ),
        ]
    )
    return Edit(text, aspects, _change(subject, lambda g: replace(g, count=count), count=count))


def _size(scene: Scene, subject: Group, rng: random.Random, joined: bool) -> Edit:
    size = "small" if subject.size == "large" else "large"
    word = "smaller" if size == "small" else "larger"
    text, aspect = rng.choice(
        [
            (
                f"has {word} {_the(subject)[4:]}"
                if subject.count != 1
                else f"has a {word} {subject.shape}",
                "comparative_statement",
            ),
            (f"make {_the(subject)} {word}", "direct_addressing"),
        ]
    )
    return Edit(text, (aspect,), _change(subject, lambda g: replace(g, size=size), size=size))


def _shape_change(scene: Scene, subject: Group, rng: random.Random, joined: bool) -> Edit:
    used = {group.shape for group in scene.groups}
    shape = rng.choice([name for name in SHAPES if name not in used])
    single = subject.count == 1
    new, old = (shape, subject.shape) if single else (plural(shape), plural(subject.shape))
    article = "a " if single else ""
    text, aspect = rng.choice(
        [
            (f"has {article}{new} instead of {article}{old}", "compare_change"),
            (f"replace {_the(subject)} with {article}{new}", "direct_addressing"),
        ]
    )
    unmentioned = Group(shape, 1 if single else None, None, None)
    return Edit(
        text,
        (aspect,),
        lambda described: described.with_group(
            subject.shape, lambda g: replace(g, shape=shape), unmentioned
        ),
    )


def _place(scene: Scene, subject: Group, rng: random.Random, joined: bool) -> Edit:
    background = rng.choice([name for name in BACKGROUNDS if name != scene.background])
    text, aspects = rng.choice(
        [
            (f"is on a {background} background", ("spatial_relations_background",)),
            (f"has a {background} background", ("spatial_relations_background",)),
            (
                f"change the background to {background}",
                ("spatial_relations_background", "direct_addressing"),
            ),
        ]
    )
    return Edit(text, aspects, lambda described: replace(described, background=background))


def _add(scene: Scene, subject: Group, rng: random.Random, joined: bool) -> Edit:
    used = {group.shape for group in scene.groups}
    colours = [name for name in COLOURS if name != subject.colour]
    new = Group(
        rng.choice([name for name in SHAPES if name not in used]),
        rng.choice(list(COUNTS)),
        rng.choice(list(SIZES)),
        rng.choice(colours),
    )
    relation = rng.choice(RELATIONS)
    verb, aspect = rng.choice(
        [("has", "addition"), ("also shows", "addition"), ("add", "direct_addressing")]
    )

    def apply(described: Scene) -> Scene:
        if len(described.groups) == 2:
            return described
        return replace(described, groups=(new, *described.groups), relation=relation)

    text = f"{verb} {new.text()} {relation} {_the(subject)}"
    return Edit(text, tuple(dict.fromkeys(("addition", aspect))), apply)


def _remove(scene: Scene, subject: Group, rng: random.Random, joined: bool) -> Edit:
    text, aspects = rng.choice(
        [
            (f"has no {plural(subject.shape)}", ("negation",)),
            (f"is without {_the(subject)}", ("negation",)),
            (f"remove {_the(subject)}", ("negation", "direct_addressing")),
        ]
    )

    def apply(described: Scene) -> Scene:
        left = tuple(group for group in described.groups if group.shape != subject.shape)
        if not left or len(left) == len(described.groups):
            return described
        return replace(described, groups=left, relation=None)

    return Edit(text, aspects, apply)


def _relation(scene: Scene, subject: Group, rng: random.Random, joined: bool) -> Edit:
    first, second = scene.groups
    relation = rng.choice([name for name in RELATIONS if name != scene.relation])
    verb = rng.choice(["has", "put"])
    text = f"{verb} {_the(first)} {relation} {_the(second)}"
    aspects = ["spatial_relations_background"] + (["direct_addressing"] if verb == "put" else [])

    def apply(described: Scene) -> Scene:
        if len(described.groups) < 2:
            return described
        forward = described.groups[0].shape == first.shape or (
            described.groups[1].shape == second.shape
        )
        return replace(described, relation=relation if forward else OPPOSITE[relation])

    return Edit(text, tuple(aspects), apply)


def _view(scene: Scene, subject: Group, rng: random.Random, joined: bool) -> Edit:
    sideways = scene.relation in ("left of", "right of")
    text = "is seen in a mirror" if sideways else "is seen upside down"
    turned = ("left of", "right of") if sideways else ("above", "below")

    def apply(described: Scene) -> Scene:
        if described.relation not in turned:
            return described
        return replace(described, relation=OPPOSITE[described.relation])

    return Edit(text, ("viewpoint",), apply)


_EDITS: dict[str, Callable[[Scene, Group, random.Random, bool], Edit]] = {
    "colour": _colour,
    "count": _count,
    "size": _size,
    "shape": _shape_change,
    "place": _place,
    "add": _add,
    "remove": _remove,
    "relation": _relation,
    "view": _view,
}


def vocabulary() -> list[str]:
    """Return every word the world uses, sorted."""
    rng = random.Random(0)
    words = set()
    for _ in range(30_000):
        scene = random_scene(rng)
        words |= {*mention(scene, rng).text().split(), *random_edit(scene, rng).text.split()}
    return sorted({word.rstrip(",") for word in words})
