"""The right modification texts of the demo's world: what differs between two descriptions.

Short ones are in the words of ``world.random_edit``, so that whoever understands an edit
understands them; long ones tell every attribute, kept or changed, as fine-grained texts do.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

from pipeline.demo import world
from pipeline.demo.world import BACKGROUNDS, COLOURS, COUNTS, OPPOSITE, Group, Scene, plural

MOST = 2
"""Changes that a short text tells, joined by "and", as a person's would."""


def difference(before: Scene, after: Scene) -> str:
    """Return what turns ``before`` into ``after``, as far as both speak of it; "" for nothing."""
    return " and ".join(list(_changes(before, after))[:MOST])


def _changes(before: Scene, after: Scene) -> Iterator[str]:
    gone = [group for group in before.groups if after.group(group.shape) is None]
    new = [group for group in after.groups if before.group(group.shape) is None]
    for old, other in zip(gone, new, strict=False):
        yield f"replace {_the(old)} with {other.text()}"
    for group in gone[len(new) :]:
        yield f"remove {_the(group)}"
    for group in new[len(gone) :]:
        yield _added(group, after)
    for group in after.groups:
        old_one = before.group(group.shape)
        if old_one is not None:
            yield from _attributes(old_one, group)
    if not (gone or new):
        first, second = _relation(before), _relation(after)
        if first and second and first != second:
            yield f"put {second}"
    if before.background and after.background and before.background != after.background:
        yield f"has a {after.background} background"


def _attributes(old: Group, new: Group) -> Iterator[str]:
    if old.colour and new.colour and old.colour != new.colour:
        yield f"make {_the(new)} {new.colour}"
    if old.count and new.count and old.count != new.count:
        yield f"has {COUNTS[new.count]} {new.shape if new.count == 1 else plural(new.shape)}"
    if old.size and new.size and old.size != new.size:
        yield f"make {_the(new)} {'smaller' if new.size == 'small' else 'larger'}"


def _added(group: Group, after: Scene) -> str:
    other = next((one for one in after.groups if one.shape != group.shape), None)
    if other is None or not after.relation:
        return f"add {group.text()}"
    relation = after.relation if after.groups[0] == group else OPPOSITE[after.relation]
    return f"add {group.text()} {relation} {_the(other)}"


def _relation(scene: Scene) -> str | None:
    if not scene.relation or len(scene.groups) < 2:
        return None
    told = scene.canonical()
    return f"{_the(told.groups[0])} {told.relation} {_the(told.groups[1])}"


def _the(group: Group) -> str:
    return f"the {group.shape if group.count == 1 else plural(group.shape)}"


def at_length(before: Scene, after: Scene) -> str:
    """Return a long text that tells, attribute by attribute, what stays and what changes."""
    told: list[str] = []
    for group in after.groups:
        old = before.group(group.shape)
        if old is None:
            told.append(f"{group.text()} can be seen now")
        else:
            told += _told(old, group)
    gone = [group for group in before.groups if after.group(group.shape) is None]
    told += [f"{group.text()} can be seen no more" for group in gone]
    relation, was = _relation(after), _relation(before)
    if relation:
        told.append(f"{_status(was, relation)} {relation}")
    if after.background:
        told.append(
            f"{_status(before.background, after.background)} a {after.background} background"
        )
    return ". ".join(told)


def _told(old: Group, new: Group) -> Iterator[str]:
    for name in ("count", "size", "colour"):
        value, was = getattr(new, name), getattr(old, name)
        if value is None:
            continue
        said, before = (COUNTS.get(one, one) for one in (value, was))
        if was is None:
            yield f"{_the(new)} can be {said}"
        elif was == value:
            yield f"{_the(new)} stay {said} as before"
        else:
            yield f"{_the(new)} become {said} now instead of {before}"


def _status(was: str | None, now: str) -> str:
    if was is None:
        return "there is"
    return "there stay" if was == now else "there is now"


def vocabulary() -> list[str]:
    """Return every word of the texts here, sorted."""
    rng = random.Random(0)
    words: set[str] = set()
    for _ in range(5_000):
        before, after = (world.mention(world.random_scene(rng), rng) for _ in range(2))
        for text in (difference(before, after), at_length(before, after)):
            words |= set(text.replace(",", " ").replace(".", " ").split())
    return sorted(words)


def filled(said: Scene, rng: random.Random) -> Scene:
    """Return a full scene that a description may be of."""
    groups = tuple(
        replace(
            group,
            count=group.count or rng.choice(list(COUNTS)),
            size=group.size or rng.choice(list(world.SIZES)),
            colour=group.colour or rng.choice(list(COLOURS)),
        )
        for group in said.groups
    )
    relation = said.relation
    if len(groups) == 2 and relation is None:
        relation = rng.choice(world.RELATIONS)
    return Scene(groups, relation, said.background or rng.choice(BACKGROUNDS))
