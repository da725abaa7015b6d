"""What the demo's networks φ are trained from is of its world, and of no benchmark in it."""

import json
from dataclasses import replace
from pathlib import Path

from PIL import Image

from pipeline.demo import lessons, world


def shows_what_is_held_out(scene: world.Scene) -> bool:
    """Whether a description tells a whole combination that is; one in parts tells none."""
    groups = scene.groups
    whole = [group for group in groups if None not in (group.count, group.size, group.colour)]
    return any(world.held_out(replace(scene, groups=(group,))) for group in whole)


def test_lessons_are_scenes_that_are_not_held_out(tmp_path: Path) -> None:
    lessons.write(tmp_path, 8, 40)
    records = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [record["image"] for record in records] == [f"{number:05}.png" for number in range(8)]
    for record in records:
        with Image.open(tmp_path / "images" / record["image"]) as picture:
            assert picture.size == (64, 64)
        (caption,) = record["captions"]
        scene = world.parse(caption)
        assert scene is not None
        assert not shows_what_is_held_out(scene)
    texts = (tmp_path / "texts.txt").read_text().splitlines()
    assert len(texts) == 40
    told = [scene for text in texts if (scene := world.parse(text)) is not None]
    assert told
    assert not any(map(shows_what_is_held_out, told))
    lessons.write(tmp_path / "again", 8, 40)
    again = tmp_path / "again" / "texts.txt"
    assert again.read_text().splitlines() == texts
