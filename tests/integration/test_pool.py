"""Pools through the whole program: searched, verified, compared, tuned and submitted."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import config
from pipeline.errors import ConfigError, MissingStageError
from pipeline.own import checks
from pipeline.retrieval.pool import Pool, fuse
from pipeline.run import Run
from pipeline.stages import evaluate, search, submit, verify
from pipeline.stages.everything import run_stages
from pipeline.study import compare, tune
from tests.integration.test_cli import seize

MakeRun = Callable[..., Run]
NAME = "pool:seize,pdv,image"


def test_a_pool_is_the_fusion_of_its_parts_rankings_and_is_called_by_them(
    make_run: MakeRun,
) -> None:
    run = make_run(search__method=NAME)
    _, metrics = run_stages(run)
    file = search.ranking_file(run).file
    assert file.name.startswith("pool-seize-pdv-image-")
    assert metrics == pytest.approx(evaluate.evaluate(run))
    parts = [search.read(make_run(search__method=name)) for name in ("seize", "pdv", "image")]
    for found, *own in zip(search.read(run), *parts, strict=True):
        lists = [dict(zip(r.images, r.scores, strict=True)) for r in own]
        expected = fuse(lists, Pool(), [1, 1, 1])
        assert list(found.images) == list(expected)[:50]
        assert list(found.scores) == pytest.approx(list(expected.values())[:50])
    # It is its parts and its rule: what changes one of them makes another file, and nothing else.
    same = make_run(search__method=NAME, search__ldre__drops=2)
    assert search.ranking_file(same).file == file
    for other in (
        {"search__pdv__blend": 0.9},
        {"search__pool__k": 10},
        {"search__pool__depth": 20},
        {"search__pool__rule": "min-max"},
        {"search__pool__weights": {"pdv": 2.0}},
    ):
        changed = make_run(search__method=NAME, **other)
        assert search.ranking_file(changed).file != file
        with pytest.raises(MissingStageError, match="Run: seize search "):
            search.read(changed)


def test_a_pool_looks_as_deep_into_its_parts_as_it_is_told(make_run: MakeRun) -> None:
    run_stages(make_run(search__method=NAME))
    for depth, least in ((3, 3), (40, 5)):
        run = make_run(search__method=NAME, search__pool__depth=depth, search__top_k=5)
        search.search(run)
        parts = [search.read(one) for one in search.parts_of(run).values()]
        assert all(len(ranking.images) == depth for part in parts for ranking in part)
        found = search.read(run)
        assert all(least <= len(ranking.images) <= 5 for ranking in found)
        for ranking, *own in zip(found, *parts, strict=True):
            assert set(ranking.images) <= {image for one in own for image in one.images}


def test_cirrs_groups_are_pooled_whole_verified_and_submitted(make_run: MakeRun) -> None:
    run = make_run("cirr", search__method=f"{NAME}+verify")
    _, metrics = run_stages(run)
    assert metrics is not None
    for query, ranking in zip(run.queries, search.read(run), strict=True):
        assert sorted(ranking.subset) == sorted(query.group)
        assert query.reference not in ranking.images
    for kind, file in submit.files(run).items():
        assert "pool-seize-pdv-image-verify" in file.name
        assert run.dataset.read_submission(json.loads(file.read_text()), file)[0] == kind
    assert metrics == pytest.approx(
        evaluate.evaluate_files(run.dataset, [*submit.files(run).values()])
    )


@pytest.mark.parametrize("rule", ["rrf", "min-max"])
@pytest.mark.parametrize("fusion", ["average", "confidence"])
def test_stopping_early_on_a_pool_changes_none_of_the_settled_places(
    make_run: MakeRun, rule: str, fusion: str
) -> None:
    options = {"search__pool__rule": rule, "verifier__fusion": fusion, "verifier__settled": 3}
    early = make_run(search__method=f"{NAME}+verify", **options)
    run_stages(early)
    whole = make_run(search__method=f"{NAME}+verify", verifier__early_stop=False, **options)
    verify.verify(whole)
    assert verify.cost_of(early).calls + verify.cost_of(early).saved == (
        verify.cost_of(whole).calls + verify.cost_of(whole).cached
    )
    if fusion == "average":  # of the first queries one at least is settled before the end
        assert verify.cost_of(early).saved > 0
    for short, full in zip(search.read(early), search.read(whole), strict=True):
        assert short.images[:3] == full.images[:3]


def test_pools_stand_beside_methods_in_lists_tables_and_tuning(
    make_run: MakeRun, tmp_path: Path
) -> None:
    both = f"seize,{NAME},,image,pool:seize,lincir"
    run = make_run(search__method=both)
    given = [*run.command.split(), "--cache", str(run.cache), "--workers", "0"]
    for stage in ("caption", "edit", "embed", "search"):
        assert seize(stage, *given, "--method", both).exit_code == 0
    table = seize("compare", *given, "--method", both, "--json")
    assert table.exit_code == 0, table.output
    told = json.loads(table.stdout)
    assert list(told["conditions"]) == ["seize", NAME, "image", "pool:seize,lincir"]
    assert told["conditions"][NAME]["training"] == "training-free"
    assert told["conditions"]["pool:seize,lincir"]["training"] == "trained"
    assert compare.rows_of_run(run)[1].name == NAME

    one = run.with_method(NAME)
    grid = {"k": [1.0, 60.0], "image": [0.0, 1.0]}
    tuned = tune.tune(one, grid, tmp_path / "out")
    for cell in tuned.table.to_dict(orient="records"):
        weights = {"image": cell["image"]}
        own = make_run(
            search__method=NAME, search__pool__k=cell["k"], search__pool__weights=weights
        )
        search.search(own)
        expected = evaluate.evaluate(own)
        assert {metric: cell[metric] for metric in expected} == pytest.approx(expected)
    assert tuned.picture is not None
    assert tuned.csv.name.startswith("tune-circo-val-pool-seize-pdv-image-")
    report = seize(
        "report", *given, "--method", NAME, "--compare", "seize", "--out", str(tmp_path / "r.html")
    )
    assert report.exit_code == 0, report.output
    assert NAME in (tmp_path / "r.html").read_text()


def test_a_pool_with_a_part_that_cannot_be_made_is_refused_before_anything_runs(
    make_run: MakeRun,
) -> None:
    with pytest.raises(ConfigError, match=r"pool:seize,roles needs edits with roles"):
        run_stages(make_run(search__method="pool:seize,roles"))
    with pytest.raises(ConfigError, match=r"search\.pool\.weights: 'text' is no part"):
        run_stages(make_run(search__method=NAME, search__pool__weights={"text": 1.0}))


def test_images_of_ones_own_are_ranked_by_one_method() -> None:
    with pytest.raises(ConfigError, match="take one of its parts: --method seize"):
        checks.method(config.load("demo"), "pool:seize,pdv")


def test_parts_by_other_encoders_are_embedded_ranked_and_verified(make_run: MakeRun) -> None:
    encoder = {
        "encoders__other__model": "local-dir:data/models/clip",
        "encoders__other__precision": "bfloat16",
    }
    name = "pool:image@other,image,pdv@other+verify"
    run = make_run(search__method=name, **encoder)
    run_stages(run)
    file = search.ranking_file(run).file
    assert file.name.startswith("pool-image-other-image-pdv-other-verify-")
    one, two, three = search.parts_of(run.unverified).values()
    assert (one.config.encoder.precision, two.config.encoder.precision) == ("bfloat16", "auto")
    assert [r.scores for r in search.read(one)] != [r.scores for r in search.read(two)]
    assert len(list((run.cache / "circo" / "images").glob("*.safetensors"))) == 2
    assert search.read(three)
