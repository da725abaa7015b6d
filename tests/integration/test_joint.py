"""Joint embedding and every lever over any kind of encoder, on the small world."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import config, stages
from pipeline.errors import ConfigError
from pipeline.own.gallery import Gallery
from pipeline.run import Run
from pipeline.stages import embed, inputs, search
from pipeline.stages.everything import run_stages
from pipeline.study import protocol
from tests.checkpoints import clip_of_transformers
from tests.embedder import EMBEDDER

MakeRun = Callable[..., Run]
EMB = {"encoders__emb__model": f"sentence-transformers:{EMBEDDER}"}


def headline(run: Run, name: str) -> float:
    one = run.with_method(name)
    return run.dataset.evaluate(run.dataset.predictions(search.read(one)))[run.dataset.headline]


def test_a_joint_query_beats_image_and_text_alone_in_the_same_space(make_run: MakeRun) -> None:
    run = make_run(search__method="joint@emb,image@emb,text@emb", **EMB)
    for stage in (embed, search):
        stage.STAGE.run(run)
    best, *alone = (headline(run, f"{name}@emb") for name in ("joint", "image", "text"))
    assert best > max(alone) + 20


def test_a_pool_of_two_encoders_runs_from_nothing(make_run: MakeRun) -> None:
    """The joint part is checked, made and searched by its own encoder, not by the pool's first."""
    run = make_run(search__method="pool:text,joint@emb", **EMB)
    reports, metrics = run_stages(run)
    assert metrics
    assert not any(report.failed for report in reports)
    assert headline(run, "pool:text,joint@emb") > headline(run, "text")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An encoder of each kind that runs here."""
    folder = clip_of_transformers(tmp_path_factory.mktemp("clip") / "model")
    return {
        "open_clip": "local-dir:data/models/clip",
        "transformers": f"transformers:{folder}",
        "joint": f"sentence-transformers:{EMBEDDER}",
    }


def test_every_lever_ranks_by_every_kind_of_encoder(
    make_run: MakeRun, kinds: dict[str, str]
) -> None:
    """Edits, made once, are embedded by each; the increment moves the ranking of each."""
    encoders = {f"encoders__{name}__model": model for name, model in kinds.items()}
    levers = ["mean-ensemble", "seize", "seize-rank", "pdv", "sdr", "ldre", "sum"]
    names = [f"{lever}@{name}" for name in kinds for lever in levers] + ["seize+joint@joint"]
    run = make_run(captioner__samples=3, search__method=",".join(names), **encoders)
    for stage in ("caption", "edit", "embed", "search"):
        stages.find(stage).run(run)
    for kind in kinds:
        lists = {
            lever: [r.images for r in search.read(run.with_method(f"{lever}@{kind}"))]
            for lever in levers
        }
        assert all(len(found) == 12 for found in lists.values())
        assert lists["seize"] != lists["mean-ensemble"] != lists["pdv"]
        assert headline(run, f"mean-ensemble@{kind}") > headline(run, f"sum@{kind}") - 1
    assert len(search.read(run.with_method("seize+joint@joint"))) == 12


def test_the_same_weights_rank_alike_by_two_libraries(
    make_run: MakeRun, kinds: dict[str, str]
) -> None:
    settings = {
        "encoders__one__model": kinds["open_clip"],
        "encoders__one__target_pad": None,
        "encoders__two__model": kinds["transformers"],
    }
    run = make_run(search__method="sum@one,sum@two", **settings)
    for stage in (embed, search):
        stage.STAGE.run(run)
    one, two = (search.read(run.with_method(f"sum@{name}")) for name in ("one", "two"))
    assert [r.images[:10] for r in one] == [r.images[:10] for r in two]


def test_the_shared_concept_is_said_only_where_the_protocol_tells(make_run: MakeRun) -> None:
    plain = make_run(search__method="joint@emb", **EMB)
    told = make_run(search__method="joint@emb", dataset__shared_concept=True, **EMB)
    embed.STAGE.run(plain)
    embed.STAGE.run(told)
    files = [search.ranking_file(run).file for run in (plain, told)]
    assert files[0] != files[1]
    (query, *_) = told.queries
    (clue,) = inputs.methods.clues_of("joint@emb").values()
    assert "Find a picture that also {{ shared_concept }}" in clue.header(told)["text"]
    assert [protocol.of_run(run).concept for run in (plain, told)] == ["no", "yes"]
    assert protocol.of_run(told).training == "trained"
    for fields in (
        {"search__joint__prompt": "concept"},
        {"search__joint__prompt": "change", "dataset__shared_concept": True},
    ):
        with pytest.raises(ConfigError, match="shared-concept"):
            embed.STAGE.run(make_run(search__method="joint@emb", **fields, **EMB))
    assert query.shared_concept


def test_a_reference_that_cannot_be_read_is_told_and_its_text_stands_alone(
    make_run: MakeRun, small_world: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(small_world, root)
    run = make_run(root=root, search__method="joint@emb", **EMB)
    lost = run.dataset.images[run.queries[0].reference]
    lost.write_bytes(lost.read_bytes()[:100])
    reports = embed.STAGE.run(run)
    assert any("stands alone" in note for report in reports for note in report.notes)
    search.STAGE.run(run)
    assert len(search.read(run)) == len(run.queries)


def test_two_relative_captions_in_both_orders_are_averaged(make_run: MakeRun) -> None:
    run = make_run("fashioniq", search__method="joint@emb", dataset__both_orders=True, **EMB)
    reports, metrics = run_stages(run)
    assert metrics
    assert not any(report.failed for report in reports)


def test_a_folder_of_ones_own_is_queried_jointly(small_world: Path, tmp_path: Path) -> None:
    settings = config.load(
        "demo",
        {
            "clip.model": f"sentence-transformers:{EMBEDDER}",
            "search.method": "joint",
            "runtime.workers": 0,
        },
    )
    images = tmp_path / "images"
    images.mkdir()
    for file in sorted(small_world.glob("CIRCO/*/unlabeled2017/*.jpg"))[:40]:
        shutil.copy(file, images)
    gallery = Gallery(images, settings, tmp_path / "cache")
    gallery.index()
    first = sorted(images.iterdir())[0]
    found = gallery.query(first, "is red instead of blue")
    assert len(found.paths) > 10
    assert found.paths != gallery.query(first, "has one more circle").paths
