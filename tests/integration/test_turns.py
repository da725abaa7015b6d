"""Sessions played on the demo's world in MT-FashionIQ's layout, with the demo's models."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import config
from pipeline.demo import layouts
from pipeline.errors import ConfigError, InputError
from pipeline.own.gallery import Gallery
from pipeline.retrieval.scoring import normalise
from pipeline.run import Run
from pipeline.stages import embed, search
from pipeline.stages.everything import run_stages
from pipeline.stages.inputs import Inputs
from pipeline.study import turns
from tests.integration.test_cli import seize

MakeRun = Callable[..., Run]


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.write("mtfashioniq", tmp_path_factory.mktemp("sessions"), queries=3)


def test_the_given_state_is_the_ordinary_ranking(make_run: MakeRun, sessions: Path):
    run = make_run("mtfashioniq", root=sessions, search__method="image+text")
    run_stages(run)
    assert [r.images for r in turns.play(run, "given")] == [r.images for r in search.read(run)]


def test_the_image_and_the_query_are_handed_on(make_run: MakeRun, sessions: Path):
    run = make_run("mtfashioniq", root=sessions, search__method="image+text")
    by_image, by_query = turns.play(run, "image"), turns.play(run, "query")
    first, second = run.queries[:2]
    assert (first.session, first.turn, second.turn) == (second.session, 1, 2)
    assert by_image[0].images == by_query[0].images
    retrieved = by_image[0].images[0]
    assert retrieved not in by_image[1].images  # it is the reference now
    inputs = Inputs(run)

    def feature(name: str) -> torch.Tensor:
        row = np.array([inputs.images.row[name]])
        return normalise(torch.from_numpy(inputs.images.take(row)).float())

    def text(number: int) -> torch.Tensor:
        said = run.relative_captions(run.queries[number])
        return normalise(inputs.embed(said))

    began = {"image": feature(retrieved), "query": normalise(feature(first.reference) + text(0))}
    for state, rankings in (("image", by_image), ("query", by_query)):
        query = normalise(began[state] + text(1))
        expected = [float((feature(n) @ query.T).item()) for n in rankings[1].images[:5]]
        np.testing.assert_allclose(rankings[1].scores[:5], expected, atol=1e-5)


def test_a_clue_that_a_model_makes_is_made_of_the_vector_that_is_handed_on(
    make_run: MakeRun, sessions: Path
):
    run = make_run("mtfashioniq", root=sessions, search__method="lincir")
    given, by_query = turns.play(run, "given"), turns.play(run, "query")
    later = [place for place, query in enumerate(run.queries) if query.turn > 1]
    assert all(by_query[place].scores != given[place].scores for place in later)
    begin = [place for place, query in enumerate(run.queries) if query.turn == 1]
    assert all(by_query[place] == given[place] for place in begin)


def test_edited_captions_are_edited_again(make_run: MakeRun, sessions: Path):
    run = make_run(
        "mtfashioniq", root=sessions, search__method="mean-ensemble", captioner__samples=2
    )
    played = turns.play(run, "caption")
    assert [ranking.query for ranking in played] == [query.id for query in run.queries]
    again = turns.play(run, "caption")  # the edits are kept: the same, and nothing is asked
    assert again == played
    assert turns.play(run, "given")[0].images == played[0].images
    with pytest.raises(ConfigError, match="reads captions"):
        turns.play(run, "query")


def test_only_benchmarks_with_turns_are_played(make_run: MakeRun):
    run = make_run(search__method="image+text")
    embed.embed(run)
    with pytest.raises(ConfigError, match=r"circo has no turns.*mtfashioniq"):
        turns.play(run, "image")


def test_seize_turns_compares_the_states(sessions: Path, tmp_path: Path):
    words = ["turns", "--dataset", "mtfashioniq", "--split", "val", "--config", "demo"]
    words += ["--data-root", str(sessions), "--cache", str(tmp_path), "--workers", "0"]
    result = seize(*words, "--method", "image+text,text", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["metrics"]
    rows = dict.fromkeys(line["method"] for line in found)
    assert list(rows) == [
        f"{method}, {state}"
        for method in ("image+text", "text")
        for state in ("given", "image", "query")
    ]
    table = seize(*words, "--method", "image+text", "--state", "image")
    assert "recall@5/turn 2" in table.stdout
    refused = seize(*words, "--state", "caption")
    assert refused.exit_code != 0
    assert "None of image+text can begin a turn with caption" in refused.output


def test_a_result_is_gone_on_from_in_a_folder_of_ones_own(small_world: Path, tmp_path: Path):
    folder = small_world / "FashionIQ" / "images"
    preset = config.load("demo", {"runtime.workers": 0, "captioner.samples": 2})
    gallery = Gallery(folder, preset.with_search(method="mean-ensemble"), tmp_path)
    gallery.index()
    first = gallery.query(sorted(folder.iterdir())[0], "is on a dark background")
    by_image = first.turn("has a red star", place=1)
    assert by_image.reference == first.images[1].hash
    assert first.paths[1] not in by_image.paths
    by_caption = first.turn("has a red star", "caption")
    assert by_caption.captions == tuple(dict.fromkeys(e for e in first.edited_captions if e))
    assert any("red star" in (text or "") for text in by_caption.edited_captions)
    with pytest.raises(ConfigError, match="reads captions"):
        first.turn("has a red star", "query")
    with pytest.raises(InputError, match="no image at place 999"):
        first.turn("has a red star", place=999)
    alone = gallery.with_search(method="image+text").query(None, "is on a dark background")
    assert alone.vector is not None
    by_image_and_text = gallery.with_search(method="image+text")
    carried = by_image_and_text.rank([], "has a red star", [], [], vector=alone.vector)
    assert carried.settings.method == "image+text"  # the vector counts as an image does
    with pytest.raises(InputError, match="another encoder"):
        gallery.rank([], "is red", [], [], vector=torch.ones(3))
    plain = first.rerank(method="image+text")
    following = plain.turn("has a red star", "query")
    assert plain.vector is not None
    text = gallery.query(first.contents[0], "has a red star").rerank(method="text").vector
    assert text is not None
    assert following.vector is not None
    torch.testing.assert_close(following.vector, normalise(plain.vector + text))


def test_what_follows_a_text_alone_goes_by_the_method_that_was_asked_for(
    small_world: Path, tmp_path: Path
):
    folder = small_world / "FashionIQ" / "images"
    preset = config.load("demo", {"runtime.workers": 0, "captioner.samples": 2})
    gallery = Gallery(folder, preset.with_search(method="seize", top_k=7), tmp_path)
    gallery.index()
    alone = gallery.query(None, "a red star on a dark background")
    assert alone.settings.method == "text"
    for first in (alone, alone.rerank(top_k=9)):
        following = first.turn("has a blue circle")
        assert following.settings.method == "seize"
        assert len(following.images) == len(first.images)
        assert following == gallery.with_search(top_k=len(first.images)).query(
            folder / first.paths[0], "has a blue circle"
        )
    carried = alone.turn("has a blue circle", "caption")  # the text is the one caption there is
    assert carried.captions == ("a red star on a dark background",)
    assert (carried.settings.method, len(carried.edited_captions)) == ("seize", 1)
    with pytest.raises(ConfigError, match="seize reads captions"):
        alone.turn("has a blue circle", "query")
    by_text = alone.rerank(method="text").turn("has a blue circle", "query")
    assert by_text.settings.method == "text"
    image = gallery.query(folder / alone.paths[0])
    assert (image.settings.method, image.turn("is red").settings.method) == ("image", "seize")
