"""Scenes, and the descriptions that say some of what they show."""

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

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
