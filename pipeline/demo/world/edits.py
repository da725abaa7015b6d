"""Edits: relative captions, with what they do to a scene."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.demo.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    SIZES,
    Group,
    Scene,
    mention,
    plural,
    random_scene,
)


@dataclass(frozen=True)
class Edit:
    """A relative caption, its semantic aspects (CIRCO's names), and what it does to a scene."""

    text: str
    aspects: tuple[str, ...]
    apply: Callable[[Scene], Scene]


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
