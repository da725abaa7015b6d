"""The rendered world: deterministic, with ground truth that follows from its attributes."""

import json
import random
from pathlib import Path

import pytest

from pipeline.demo import world
from pipeline.demo.build import build
from pipeline.demo.train import edit_example
from pipeline.demo.training import variants
from pipeline.demo.world import Scene
from tests.conftest import SIZES


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_same_seed_gives_the_same_files(small_world: Path, tmp_path: Path) -> None:
    again = contents(build(tmp_path / "demo", sizes=SIZES))
    assert again == contents(small_world)
    assert contents(build(tmp_path / "other", seed=1, sizes=SIZES)) != again


def test_there_are_tens_of_thousands_of_scenes() -> None:
    rng = random.Random(0)
    texts = {world.random_scene(rng).text() for _ in range(40_000)}
    assert len(texts) > 20_000


def test_training_never_sees_what_is_held_out() -> None:
    rng = random.Random(0)
    assert not any(world.held_out(scene) for scene in variants(rng, 400))
    for _ in range(300):
        for scene in edit_example(rng)[::2]:
            assert world.parse(scene.text()) == scene
            complete = [g for g in scene.groups if None not in (g.count, g.size, g.colour)]
            wrong = [g for g in complete if world.held_out(Scene((g,), None, None))]
            # A deliberately wrong caption may name anything; the scene shown never does.
            assert len(wrong) <= 1
    shares = [world.held_out(world.random_scene(rng)) for _ in range(3000)]
    assert 0.15 < sum(shares) / len(shares) < 0.4


def test_every_colour_and_shape_is_trained() -> None:
    rng = random.Random(0)
    groups = [group for _ in range(500) for group in world.training_scene(rng).groups]
    assert {group.colour for group in groups} == set(world.COLOURS)
    assert {group.shape for group in groups} == set(world.SHAPES)


def test_descriptions_say_true_things_and_parse_back() -> None:
    rng = random.Random(0)
    for _ in range(500):
        scene = world.random_scene(rng)
        said = world.mention(scene, rng)
        assert world.parse(said.text()) == said
        for group in said.groups:
            shown = scene.group(group.shape)
            assert shown is not None
            assert group.count == shown.count
            assert group.size in (None, shown.size)
            assert group.colour in (None, shown.colour)


def test_an_edit_changes_the_scene_and_carries_over_to_descriptions() -> None:
    rng = random.Random(0)
    seen: set[str] = set()
    for _ in range(1500):
        scene = world.random_scene(rng)
        edit = world.random_edit(scene, rng)
        seen |= set(edit.aspects)
        target = edit.apply(scene).canonical()
        assert target != scene
        full = world.parse(edit.apply(world.parse(scene.text()) or scene).text())
        assert full is not None
        assert full.canonical() == target
    assert seen == {
        "cardinality", "addition", "negation", "direct_addressing", "compare_change",
        "comparative_statement", "statement_with_conjunction", "spatial_relations_background",
        "viewpoint",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["a red star", "two small blue circles left of an orange heart"])
def test_an_edit_that_names_what_a_caption_left_out_adds_it(name: str) -> None:
    scene = world.parse(name)
    assert scene is not None
    rng = random.Random(3)
    while (
        "background" not in (edit := world.random_edit(world.random_scene(rng), rng)).text
        or " and " in edit.text
    ):
        pass
    assert edit.apply(scene).text().endswith("background")


def test_ground_truths_are_all_images_that_fit_and_never_the_reference(small_world: Path) -> None:
    entries = json.loads((small_world / "CIRCO/annotations/val.json").read_text())
    for entry in entries:
        assert entry["target_img_id"] == entry["gt_img_ids"][0]
        assert entry["reference_img_id"] not in entry["gt_img_ids"]
    assert sum(len(entry["gt_img_ids"]) for entry in entries) / len(entries) >= 2
    for entry in json.loads((small_world / "CIRCO/annotations/test.json").read_text()):
        assert not {"target_img_id", "gt_img_ids", "semantic_aspects"} & set(entry)


def test_rendering_shows_what_the_scene_says() -> None:
    rng = random.Random(0)
    for _ in range(50):
        scene = world.random_scene(rng)
        image = world.render(scene, 0)
        assert image.size == (64, 64)
        for group in scene.groups:
            colour = world.COLOURS[group.colour or ""]
            near = sum(
                sum(abs(a - b) for a, b in zip(pixel, colour, strict=True)) < 60
                for pixel in image.get_flattened_data()
            )
            smallest = 15 if group.size == "small" else 50
            assert near >= smallest * (group.count or 1) * 0.8
