"""What a notebook does with rankings: frames, and pictures that it shows."""

import doctest
import io
from collections.abc import Callable

import pandas as pd
import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.images.pictures import show
from pipeline.records import Ranking
from pipeline.run import Run
from pipeline.stages import search
from pipeline.stages.evaluate import evaluate
from pipeline.stages.everything import run_stages
from pipeline.study import frames

MakeRun = Callable[..., Run]


def test_the_documented_session_runs(make_run: MakeRun) -> None:
    run = make_run()
    run_stages(run)
    names = {
        "data_root": run.dataset.root.parent,
        "cache": run.cache,
        "submissions": run.submissions,
    }
    done = doctest.testmod(frames, extraglobs=names)
    assert done.attempted > 10
    assert done.failed == 0


@pytest.mark.parametrize("dataset", ["circo", "cirr", "fashioniq"])
def test_frames_hold_the_rankings_and_their_metrics(make_run: MakeRun, dataset: str) -> None:
    run = make_run(dataset)
    run_stages(run)
    rankings = search.read(run)
    found = frames.frame(run, rankings)
    assert len(found) == sum(len(ranking.images) for ranking in rankings)
    for ranking in rankings:
        own = found[found["query"] == ranking.query]
        assert tuple(own["image"]) == ranking.images
        assert tuple(own["score"]) == ranking.scores
        assert own["rank"].tolist() == list(range(1, len(own) + 1))
    of = {query.id: query.relevant for query in run.queries}
    expected = [row.image in of[row.query] for row in found.itertuples()]
    assert found["relevant"].tolist() == expected
    assert any(expected)

    metrics = evaluate(run)
    values = frames.per_query(run, rankings)
    assert values.index.tolist() == [query.id for query in run.queries]
    assert values[run.dataset.headline].notna().all()
    for name, column in values.items():
        if name in run.dataset.averages:  # the mean of its parts, not of the queries
            continue
        assert 100 * column.mean() == pytest.approx(metrics[str(name)])
    table = frames.summary(run, {"own": rankings, "again": rankings}, resamples=100)
    assert table.loc["own"]["value"].to_dict() == pytest.approx(metrics)
    assert (table.loc["again"]["difference"] == 0).all()


def test_a_picture_is_what_a_notebook_shows(make_run: MakeRun) -> None:
    run = make_run()
    run_stages(run)
    ranking = search.read(run)[0]
    shown = show(run, ranking, top=4)
    png = shown._repr_png_()  # IPython asks for this
    assert png is not None
    one, two = Image.open(io.BytesIO(png)), show(run, ranking, top=2)
    assert one.width > two.width
    assert one.height == two.height
    with pytest.raises(InputError, match="Query 0815 is not in circo-val"):
        show(run, Ranking("0815", (), ()))


def test_without_ground_truth_relevance_is_unknown(make_run: MakeRun) -> None:
    run = make_run("circo", "test")
    run_stages(run)
    rankings = search.read(run)
    assert frames.frame(run, rankings)["relevant"].isna().all()
    with pytest.raises(InputError, match="no ground truth"):
        frames.per_query(run, rankings)
    assert pd.isna(frames.frame(run, rankings)["relevant"].iloc[0])
