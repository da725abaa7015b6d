"""The right structured answers of the demo's world: what an edit desires, preserves and forbids."""

from dataclasses import fields, replace

from pipeline.demo.world import Group, Scene


def roles(before: Scene, after: Scene) -> dict[str, list[str]]:
    """Return short descriptions of what ``after`` has anew, has kept, and has no longer.

    Both are descriptions: an attribute that is None is not spoken of.
    """
    desired, preserve, forbidden = [], [], []
    for group in after.groups:
        old = before.group(group.shape)
        if old is None:
            desired.append(group.text())
            continue
        changed = {f.name for f in fields(group) if getattr(group, f.name) != getattr(old, f.name)}
        kept = {f.name for f in fields(group)} - changed
        if changed:
            desired.append(_only(group, changed).text())
            if any(getattr(old, name) is not None for name in changed):
                forbidden.append(_only(old, changed).text())
        if any(getattr(group, name) is not None for name in kept - {"shape"}):
            preserve.append(_only(group, kept).text())
    forbidden += [group.text() for group in before.groups if after.group(group.shape) is None]
    if after.relation and len(after.groups) == 2:
        same = _relation(after) == _relation(before)
        (preserve if same else desired).append(_relation(after))
        if not same and before.relation:
            forbidden.append(_relation(before))
    if after.background:
        same = after.background == before.background
        (preserve if same else desired).append(_place(after))
        if not same and before.background:
            forbidden.append(_place(before))
    return {"desired": desired, "preserve": preserve, "forbidden": forbidden}


def _only(group: Group, names: set[str]) -> Group:
    """Return the group with only these attributes spoken of; its shape always is."""
    return replace(
        group,
        count=group.count if "count" in names else None,
        size=group.size if "size" in names else None,
        colour=group.colour if "colour" in names else None,
    )


def _bare(scene: Scene) -> tuple[Group, ...]:
    return tuple(_only(group, set()) for group in scene.groups)


def _relation(scene: Scene) -> str:
    """Return where the groups are, told from the one whose shape comes first in the alphabet."""
    return Scene(_bare(scene), scene.relation, None).canonical().text()


def _place(scene: Scene) -> str:
    return Scene(_bare(scene)[:1], None, scene.background).text()
