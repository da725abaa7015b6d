"""The crash campaign, small: what is killed, starved, doubled or damaged ends as it would have."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.campaigns import crash, growing
from tests.campaigns.crash import Tally, World

STAGES = ("caption", "embed", "index")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data, and what these stages leave undisturbed."""
    return crash.prepare(tmp_path_factory.mktemp("crash"), STAGES)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_was_killed_while_it_wrote_ends_as_if_it_had_not_been(
    world: World, work: Path, name: str
) -> None:
    tally, rng = Tally(name), random.Random(name)
    stage = world.stage(name)
    for _ in range(20):
        if crash.kill(world, stage, work, rng, tally, by_change=True):
            break
        # On a busy machine fewer changes are seen before the end: kill it at an earlier one.
        stage = replace(stage, changes=max(stage.changes // 2, 1))
    else:
        pytest.fail("the stage always ended before it could be killed")
    assert tally.at_work == 1
    assert tally.wrong == []


@pytest.mark.parametrize("name", ["caption", "embed"])
def test_a_full_disk_is_told_in_one_line_and_costs_nothing(
    world: World, work: Path, name: str
) -> None:
    try:
        tally = crash.full_disk(world, work, world.stage(name), random.Random(name))
    except OSError as error:
        pytest.skip(str(error))
    assert tally.at_work == 1
    assert tally.wrong == []


@pytest.mark.parametrize("name", ["caption", "embed"])
def test_a_cache_that_may_only_be_read_serves_what_it_has(
    world: World, work: Path, name: str
) -> None:
    try:
        tally = crash.read_only(world, work, world.stage(name))
    except OSError as error:
        pytest.skip(str(error))
    assert tally.at_work == 1  # only where something had to be computed
    assert tally.wrong == []


def test_two_runs_at_once_share_the_work(world: World, work: Path) -> None:
    assert crash.twice(world, work, world.stage("embed")).wrong == []


def test_files_from_the_future_change_nothing(world: World, work: Path) -> None:
    assert crash.clock(world, work, world.stage("index"), random.Random(0)).wrong == []


def test_flipped_bits_are_named_and_mended(world: World, work: Path) -> None:
    tallies = list(crash.flips(world, work, 20, random.Random(0)))
    # Captions, features of images; a folder's list, metadata, features and remembered settings.
    assert len(tallies) == 6
    for tally in tallies:
        assert tally.wrong == []
        assert tally.at_work > tally.attacked / 2  # some bits harm nothing


def test_a_folder_that_grows_and_shrinks_under_kills_is_what_a_fresh_index_is(
    world: World, work: Path
) -> None:
    for tally in growing.rounds(world, work, 20, random.Random(3)):
        assert tally.wrong == []
        if tally.at_work and tally.runs >= 4:
            return
    pytest.fail("no index was killed while it wrote")
