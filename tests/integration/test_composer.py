"""Composers from end to end: triplets, `seize train composer`, search, a folder of one's own."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline import config
from pipeline.datasets import triplets
from pipeline.demo import composer as demo
from pipeline.errors import ConfigError, ModelError
from pipeline.models.composers import checkpoints
from pipeline.models.composers.base import Given, padded
from pipeline.models.composers.phrases import entities
from pipeline.own.gallery import Gallery
from pipeline.retrieval.scoring import normalise
from pipeline.run import Run
from pipeline.stages import embed, inputs, search
from tests.conftest import PROJECT
from tests.holding import held_after, kill_once
from tests.integration import test_cli

MakeRun = Callable[..., Run]


def seize(*arguments: object) -> test_cli.Result:
    return test_cli.seize(*map(str, arguments))


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Triplets of the demo's world, with a checkpoint of `seize train composer` beside them."""
    root = demo.build_triplets(tmp_path_factory.mktemp("triplets"), count=48)
    done = seize(
        *("train", "composer", "--triplets", root / "triplets.train.jsonl", "--config", "demo"),
        *("--head", "entities", "--steps", 30, "--batch", 24, "--hidden", 32, "--json"),
        *("--cache", root / "cache", "--out", root / "composer.safetensors", "--workers", 0),
    )
    assert json.loads(done.stdout)["steps"] == 30, done.output
    return root


def test_the_checkpoint_tells_how_it_was_made(lessons: Path):
    told = checkpoints.configuration(lessons / "composer.safetensors")
    assert told["head"] == "entities"
    assert told["sizes"] == {"d": 128, "hidden": 32}
    assert told["trained_on"] == "triplets-train"
    assert told["generators"] == ["demo world"]
    assert told["encoder"]["model"].startswith("clip@")
    record = json.loads((lessons / "composer.training" / "training.json").read_text())
    assert record["title"] == "FineCIR's entities"


def test_a_run_ranks_by_the_heads_query(lessons: Path, make_run: MakeRun):
    file = lessons / "composer.safetensors"
    run = make_run(search__method="composer", search__composer__checkpoint=str(file))
    embed.embed(run)
    search.search(run)
    found = inputs.Inputs(run)
    query = run.queries[3]
    row = found.images.row[query.reference]
    image = torch.from_numpy(found.images.take(np.array([row]))).float()
    named = [normalise(found.embed(entities(*query.relative_captions)))]
    given = Given(
        normalise(image), normalise(found.embed(query.relative_captions)), padded(named, 128)
    )
    with torch.no_grad():
        composed = checkpoints.load(file)(given)[0]
    ranked = search.read(run)[3]
    rows = np.array([found.images.row[name] for name in ranked.images])
    scores = normalise(torch.from_numpy(found.images.take(rows)).float()) @ composed
    torch.testing.assert_close(torch.tensor(ranked.scores), scores, atol=1e-5, rtol=0)
    assert query.reference not in ranked.images


def test_another_checkpoint_is_another_ranking(lessons: Path, make_run: MakeRun, tmp_path: Path):
    file = lessons / "composer.safetensors"
    run = make_run(search__method="composer", search__composer__checkpoint=str(file))
    steps = sorted((lessons / "composer.training").glob("step-*"))
    other = tmp_path / "other.safetensors"
    other.write_bytes(steps[0].read_bytes() + b"")
    content = bytearray(other.read_bytes())
    content[-1] ^= 1
    other.write_bytes(bytes(content))
    changed = make_run(search__method="composer", search__composer__checkpoint=str(other))
    assert search.ranking_file(run).file != search.ranking_file(changed).file
    plain = make_run(search__method="image+text", search__composer__checkpoint=str(other))
    assert (
        search.ranking_file(plain).file
        == search.ranking_file(make_run(search__method="image+text")).file
    )


def test_without_a_checkpoint_the_method_says_what_it_needs(make_run: MakeRun, tmp_path: Path):
    without = make_run(search__method="composer", search__composer__checkpoint=None)
    with pytest.raises(ConfigError, match=r"--set search.composer.checkpoint=FILE"):
        embed.STAGE.checks[-1](without)
    lost = make_run(search__method="composer", search__composer__checkpoint=str(tmp_path / "no"))
    with pytest.raises(ModelError, match="seize train composer"):
        search.ranking_file(lost)


def test_a_folder_of_ones_own_is_asked_the_same_way(
    lessons: Path, small_world: Path, tmp_path: Path
):
    chosen = {
        "runtime.workers": 0,
        "search.method": "composer",
        "search.composer.checkpoint": str(lessons / "composer.safetensors"),
    }
    folder = small_world / "FashionIQ" / "images"
    gallery = Gallery(folder, config.load("demo", chosen), tmp_path / "cache")
    gallery.index()
    image = sorted(folder.iterdir())[0]
    result = gallery.query(image, "has a red star and is on a dark background")
    assert len(result.paths) == 50
    assert image.name not in result.paths
    assert result.captions == ()
    other = gallery.query(image, "is on a white background")
    assert other.paths != result.paths


def test_malformed_triplets_are_named(tmp_path: Path):
    root = demo.build_triplets(tmp_path / "made", count=4)
    file = root / "triplets.train.jsonl"
    lines = file.read_text().splitlines()
    lines[2] = json.dumps({"reference": "x"})
    file.write_text("\n".join(lines))
    words = ("train", "composer", "--config", "demo", "--out", tmp_path / "c.safetensors")
    done = seize(*words, "--triplets", file)
    assert done.exit_code != 0
    assert "triplets.train.jsonl" in done.output
    assert "text" in done.output
    assert "Traceback" not in done.output
    file.write_text("\n".join(lines[:2]))
    done = seize(*words, "--triplets", file)
    assert "2 triplets are fewer than a batch of 256" in done.output
    done = seize(*words, "--triplets", file, "--head", "combinr")
    assert "Did you mean 'combiner'" in done.output
    assert "torch" not in done.output
    odd = root / "other.jsonl"
    odd.write_text("")
    done = seize(*words, "--triplets", odd)
    assert "triplets.train.jsonl" in done.output
    assert triplets.LISTING in done.output


def test_several_vectors_an_image_are_an_encoder_of_their_own(
    lessons: Path, make_run: MakeRun, tmp_path: Path
):
    out = tmp_path / "vectors.safetensors"
    done = seize(
        *("train", "composer", "--triplets", lessons / "triplets.train.jsonl", "--config", "demo"),
        *("--head", "multi-vector", "--steps", 4, "--batch", 24, "--hidden", 16, "--workers", 0),
        *("--cache", lessons / "cache", "--out", out),
    )
    assert done.exit_code == 0, done.output
    run = make_run(clip__model=f"composer:{out}", search__method="joint")
    run.dataset.limit(2)
    embed.STAGE.run(run)
    search.search(run)
    images = inputs.Inputs(run).images
    assert images.shape[1] == 12 * 32
    blocks = torch.from_numpy(images.take(np.arange(5))).float().view(5, 12, 32)
    torch.testing.assert_close(blocks.norm(dim=2), torch.full((5, 12), 12**-0.5))
    ranked = search.read(run)[0]
    assert -1 <= ranked.scores[-1] <= ranked.scores[0] <= 1 + 1e-5
    assert run.queries[0].reference not in ranked.images
    wrong = make_run(search__method="composer", search__composer__checkpoint=str(out))
    with pytest.raises(ConfigError, match=r"--clip composer:.* --method joint"):
        search.ranking_file(wrong)
    single = make_run(
        clip__model=f"composer:{lessons / 'composer.safetensors'}", search__method="joint"
    )
    with pytest.raises(ModelError, match="makes one query vector"):
        embed.STAGE.run(single)


def test_a_killed_training_goes_on_to_the_same_weights(lessons: Path, tmp_path: Path):
    killed, whole = tmp_path / "killed.safetensors", tmp_path / "whole.safetensors"

    def words(out: Path) -> list[str]:
        given = "--config demo --head two-hop --reverse 0.5 --steps 40 --batch 24 --hidden 32"
        files = {"--triplets": lessons / "triplets.train.jsonl", "--cache": lessons / "cache"}
        found = ["train", "composer", *given.split(), "--every", "3", "--workers", "0"]
        return [*found, *(str(one) for pair in files.items() for one in pair), "--out", str(out)]

    process = subprocess.Popen(
        [*held_after("state", 1), *words(killed)], cwd=PROJECT, stderr=subprocess.DEVNULL
    )
    kill_once((tmp_path / "killed.training" / "state.pt").exists, process)
    assert not killed.exists()
    went_on, at_once = seize(*words(killed), "--json"), seize(*words(whole), "--json")
    assert went_on.exit_code == 0, went_on.output
    assert 0 < json.loads(went_on.stdout)["computed"] < 40
    assert json.loads(at_once.stdout)["computed"] == 40
    one, other = load_file(killed), load_file(whole)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
