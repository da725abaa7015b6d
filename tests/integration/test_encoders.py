"""Several encoders in one run, each with its own gallery and texts."""

from collections.abc import Callable

import pytest

from pipeline.errors import ConfigError
from pipeline.run import Run
from pipeline.stages import embed, plan, search, verify
from pipeline.stages.everything import run_stages

MakeRun = Callable[..., Run]
OTHER = {
    "encoders__other__model": "local-dir:data/models/clip",
    "encoders__other__precision": "bfloat16",
}
"""A second encoder, which computes otherwise."""


@pytest.fixture
def two(make_run: MakeRun) -> Run:
    """A run with two encoders."""
    return make_run(captioner__samples=2, search__method="seize,image@other,seize@other", **OTHER)


def test_each_encoder_has_its_gallery_texts_and_rankings(two: Run) -> None:
    run_stages(two.with_method("seize"))
    reports = embed.embed(two)
    assert [report.computed for report in reports] == [0, 0, 150, reports[3].computed]
    assert reports[3].computed == reports[1].cached
    ranked = search.search(two)
    assert [report.computed for report in ranked] == [12, 12, 12]
    own, other = (search.read(two.with_method(name)) for name in ("seize", "seize@other"))
    assert [r.scores for r in own] != [r.scores for r in other]
    assert all(report.computed == 0 for report in embed.embed(two))


def test_the_same_encoder_by_another_name_is_the_same_ranking(two: Run) -> None:
    one, same = (search.ranking_file(two.with_method(name)) for name in ("seize", "seize@clip"))
    assert one.file == same.file
    both = two.with_method("image@other")
    alone = two.with_method("image")
    alone = Run(
        alone.dataset,
        alone.config.model_copy(update={"clip": two.config.encoders["other"]}),
        alone.cache,
        alone.submissions,
    )
    assert search.ranking_file(both).file == search.ranking_file(alone).file


def test_a_ranking_by_a_named_encoder_is_verified(make_run: MakeRun) -> None:
    run = make_run(
        captioner__samples=2, search__method="seize@other+verify", verifier__candidates=2, **OTHER
    )
    run_stages(run)
    assert len(search.read(run)) == 12
    assert verify.cost_of(run).calls > 0


def test_a_plan_counts_every_encoders_images(two: Run) -> None:
    lines = plan.plan(two)
    images = [line for line in lines if (line.stage, line.quantity) == ("embed", "images")]
    assert [line.total for line in images] == [150, 150]


def test_an_unknown_encoder_is_refused_before_anything_is_done(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="no encoder 'nowhere'"):
        run_stages(make_run(search__method="image@nowhere"))
