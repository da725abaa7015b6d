"""The verify stage: its verifier in process and behind a server, its cache and its early stop."""

import base64
import io
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline import datasets
from pipeline.errors import ConfigError, MissingStageError, ModelError
from pipeline.records import Ranking
from pipeline.run import Run
from pipeline.stages import search, submit, verify
from pipeline.stages.caption import caption
from pipeline.stages.edit import edit
from pipeline.stages.embed import embed
from pipeline.stages.evaluate import evaluate
from pipeline.study import compare, tune
from tests.conftest import PROJECT
from tests.holding import SEIZE, held_after, kill_once
from tests.stub import Fault, Running, Stub, Thinking

Make = Callable[..., Run]
SLOW = {"captioner__samples": 3, "verifier__candidates": 8}


@pytest.fixture(scope="module")
def searched(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which SEIZE has ranked every benchmark of the small world."""
    from pipeline import config

    cache = tmp_path_factory.mktemp("searched") / "cache"
    for name in ("circo", "cirr"):
        settings = config.load("demo", {"runtime.workers": 0, "captioner.samples": 3})
        run = Run(datasets.load(name, "val", small_world), settings, cache, cache / "submissions")
        for stage in (caption, edit, embed, search.search):
            stage(run)
    return cache


@pytest.fixture
def make(make_run: Make, searched: Path, tmp_path: Path) -> Make:
    """A function that makes a verified run on a copy of that cache."""
    import shutil

    shutil.copytree(searched, tmp_path / "cache", dirs_exist_ok=True)

    def made(dataset: str = "circo", **overrides: Any) -> Run:
        return make_run(dataset, **{**SLOW, "search__method": "seize+verify", **overrides})

    return made


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """A function that starts a stub server."""
    started: list[Running] = []

    def begin(**options: Any) -> Running:
        started.append(Running(Stub(**options)))
        return started[-1]

    yield begin
    for server in started:
        server.stop()


def at(server: Running) -> dict[str, Any]:
    return {
        "verifier__model": "echo",
        "verifier__url": server.url,
        "verifier__prompt": "caption",
        "runtime__retries": 1,
    }


def shown(asked: dict[str, Any]) -> Image.Image:
    """The last image of a request."""
    parts = [p for p in asked["messages"][-1]["content"] if p["type"] == "image_url"]
    encoded = parts[-1]["image_url"]["url"].partition(",")[2]
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def brightness(asked: dict[str, Any]) -> float:
    """A stand-in for a verifier's opinion that depends on the candidate's picture alone."""
    return 0.01 + 0.98 * (shown(asked).convert("L").resize((1, 1)).getpixel((0, 0)) > 128)


def order(rankings: list[Ranking]) -> list[tuple[str, ...]]:
    return [ranking.images for ranking in rankings]


def test_the_shipped_verifier_reorders_and_every_later_stage_takes_it(make: Make) -> None:
    run = make(verifier__fusion="confidence")
    (report,) = verify.verify(run)
    before, after = search.read(run.unverified), search.read(run)
    config = run.config.verifier
    moved = 0
    for old, new in zip(before, after, strict=True):
        assert sorted(old.images) == sorted(new.images)
        known = dict(zip(new.images, new.probabilities, strict=True))
        groups = [
            1 if p is None or config.reject <= p < config.accept else 0 if p >= config.accept else 2
            for p in new.probabilities
        ]
        assert groups == sorted(groups)
        assert dict(zip(old.images, old.scores, strict=True)) == dict(
            zip(new.images, new.scores, strict=True)
        )
        assert sum(p is not None for p in known.values()) <= config.candidates
        moved += old.images != new.images
    assert moved
    assert report.computed == report.cost["calls"] > 0
    assert not report.failed
    assert 0 <= evaluate(run)["mAP@5"] <= 100
    submit.submit(run)
    assert json.loads(submit.files(run)["recall"].read_text())
    both = run.with_method("seize,seize+verify")
    rows = compare.rows_of_run(both)
    assert [row.name for row in rows] == ["seize", "seize+verify"]
    assert submit.files(run) != submit.files(run.unverified)


def test_a_second_run_asks_nothing_and_other_methods_share_the_answers(make: Make) -> None:
    run = make()
    (first,) = verify.verify(run)
    rankings = order(search.read(run))
    (second,) = verify.verify(run)
    assert second.computed == 0
    assert second.cached == first.computed
    assert order(search.read(run)) == rankings
    other = make(search__method="mean-ensemble")
    search.search(other)
    (third,) = verify.verify(other)  # the name without +verify means the same
    assert third.cached > 0
    assert order(search.read(make(search__method="mean-ensemble+verify")))


def test_the_early_stop_saves_calls_and_keeps_the_first_places(make: Make, serve: Any) -> None:
    server = serve(yes=brightness)
    everything = make(verifier__early_stop=False, **at(server))
    (exhaustive,) = verify.verify(everything)
    assert exhaustive.cost["saved"] == 0
    asked = len(server.stub.seen)
    fresh = serve(yes=brightness)
    run = make(verifier__settled=2, **at(fresh))
    verify.record_file(run).file.unlink()
    (report,) = verify.verify(run)
    assert len(fresh.stub.seen) == report.computed < asked
    assert report.computed + report.cost["saved"] == exhaustive.computed
    for stopped, full in zip(search.read(run), search.read(everything), strict=True):
        assert stopped.images[:2] == full.images[:2]


def test_cirr_groups_are_verified_too(make: Make) -> None:
    run = make("cirr")
    verify.verify(run)
    for old, new in zip(search.read(run.unverified), search.read(run), strict=True):
        assert sorted(old.subset) == sorted(new.subset)
    assert evaluate(run)["recall_subset@3"] > 0


def test_the_reference_image_is_sent_first_where_the_prompt_asks_for_it(
    make: Make, serve: Any
) -> None:
    server = serve()
    run = make(**at(server) | {"verifier__prompt": "change", "verifier__longest_side": 32})
    verify.verify(run)
    for asked in server.stub.seen:
        kinds = [part["type"] for part in asked["messages"][-1]["content"]]
        assert kinds == ["image_url", "image_url", "text"]
        assert max(shown(asked).size) == 32
        assert asked["max_tokens"] == 1
        assert asked["logprobs"]
    said = {query.relative_captions[0] for query in run.queries}
    texts = [asked["messages"][-1]["content"][-1]["text"] for asked in server.stub.seen]
    assert all(any(caption in text for caption in said) for text in texts)


def test_answers_that_are_no_verdict_are_recorded_and_asked_again_on_request(
    make: Make, serve: Any
) -> None:
    server = serve(yes=lambda asked: 0.9 if brightness(asked) > 0.5 else None)
    (report,) = verify.verify(make(**at(server)))
    reasons = set(report.failed.values())
    assert reasons == {"the answer began with 'Sure', neither yes nor no"}
    assert len(report.failed) < report.computed
    run = make(**at(server))
    server.stub.yes = brightness
    (again,) = verify.verify(run)
    assert again.computed == 0
    (retried,) = verify.verify(run, retry_failed=True)
    assert retried.computed > 0
    assert not retried.failed


def test_a_model_that_never_says_yes_or_no_is_one_error_and_no_verdicts(
    make: Make, serve: Any
) -> None:
    run = make(**at(serve(yes=lambda asked: None)))
    with pytest.raises(
        ModelError, match=r"None of the first 20 answers of echo .* began with 'Sure'"
    ):
        verify.verify(run)
    assert not verify.record_file(run).file.exists() or not verify.record_file(run).read()


@pytest.mark.parametrize("how", ["none", "refused"])
def test_missing_log_probabilities_are_one_error_at_the_first_call(
    make: Make, serve: Any, how: str
) -> None:
    refuses = {
        name: "logprobs are not supported with this model" for name in ("logprobs", "top_logprobs")
    }
    options = {"log_probabilities": False} if how == "none" else {"refuses": refuses}
    server = serve(**options)
    run = make(**at(server), runtime__concurrency=1)
    with pytest.raises(ModelError, match=r"echo gives no log-probabilities .* vLLM"):
        verify.verify(run)
    assert len(server.stub.seen) < 12  # of about a hundred: a few more were under way
    assert not verify.record_file(run).file.exists() or not verify.record_file(run).read()


THINKERS = {
    "switched off": Thinking(obeys=True),
    "marks": Thinking(),
    "closing mark": Thinking(shown="closing mark"),
    "field": Thinking(shown="field"),
}


@pytest.mark.parametrize("thinking", THINKERS.values(), ids=THINKERS)
def test_a_verifier_that_thinks_is_read_behind_its_thought(
    make: Make, serve: Any, thinking: Thinking
) -> None:
    plain = make(**at(serve(yes=brightness)))
    verify.verify(plain)
    expected = order(search.read(plain))
    verify.record_file(plain).file.unlink()
    # What the stub answers to a picture is " Yes" or "No" with these log-probabilities.
    server = serve(yes=brightness, thinking=thinking, answer=lambda text: " Yes")
    run = make(**at(server))
    (report,) = verify.verify(run)
    assert not report.failed
    assert order(search.read(run)) == expected
    assert len(report.notes) == (0 if thinking.obeys else 1)


def test_a_server_of_one_token_alone_gives_its_probability(make: Make, serve: Any) -> None:
    server = serve(yes=lambda asked: 0.8, refuses={"top_logprobs": "top_logprobs is not supported"})
    run = make(**at(server))
    (report,) = verify.verify(run)
    assert "top_logprobs" in " ".join(report.notes)
    found = {r["probability"] for r in verify.record_file(run).read()}
    assert {round(p, 6) for p in found} == {0.8}


def test_what_was_answered_before_the_server_went_is_kept(make: Make, serve: Any) -> None:
    server = serve(plan=lambda text, tries: Fault(status=401) if len(gone) > 20 else gone.append(1))
    gone: list[int] = []
    run = make(**at(server), runtime__concurrency=2)
    with pytest.raises(ModelError, match="key"):
        verify.verify(run)
    kept = len(verify.record_file(run).read())
    assert kept >= 15
    again = serve(yes=brightness)
    (report,) = verify.verify(make(**at(again)))
    assert report.computed == len(again.stub.seen)
    asked = [(r["query"], r["candidate"]) for r in verify.record_file(run).read()]
    assert len(asked) == len(set(asked)) >= kept


def test_an_image_that_cannot_be_read_keeps_its_place(make: Make, tmp_path: Path) -> None:
    run = make()
    victim = search.read(run.unverified)[0].images[0]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    run.dataset.images[victim] = broken
    (report,) = verify.verify(run)
    assert any("broken.jpg" in reason for reason in report.failed.values())
    ranking = search.read(run)[0]
    assert dict(zip(ranking.images, ranking.probabilities, strict=True))[victim] is None


def test_tuning_needs_every_verdict_and_finds_the_rules_limits(make: Make, tmp_path: Path) -> None:
    confidence = {"verifier__fusion": "confidence"}
    run = make(**confidence, verifier__settled=1)
    verify.verify(run)
    grid = tune.grid_of(run.config, {"accept": [0.5, 0.9], "reject": [0.0, 0.3]})
    with pytest.raises(MissingStageError, match="verify --no-early-stop"):
        tune.tune(run, grid, tmp_path)
    verify.verify(make(verifier__early_stop=False))
    average = {"verifier__fusion": "average"}
    weights = tune.grid_of(make(**average).config, {})
    assert list(weights) == ["weight"]
    for fusion, tried, cells in ((confidence, grid, 4), (average, weights, len(weights["weight"]))):
        tuned = tune.tune(make(**fusion), tried, tmp_path)
        assert len(tuned.table) == cells
        assert tuned.csv.exists()
        found = {f"verifier__{name}": value for name, value in tuned.best.items()}
        best = make(**fusion, **found, verifier__early_stop=False)
        verify.verify(best)
        assert evaluate(best)[tuned.metric] == pytest.approx(tuned.value)


@pytest.mark.parametrize("dataset", ["circo", "cirr"])
def test_an_average_sorts_by_score_and_probability_in_lists_and_groups(
    make: Make, dataset: str
) -> None:
    none = make(dataset, verifier__fusion="average", verifier__weight=0)
    verify.verify(none)
    assert search.read(none.unverified)
    for old, new in zip(search.read(none.unverified), search.read(none), strict=True):
        assert (old.images, old.subset) == (new.images, new.subset)
    all_ = make(dataset, verifier__fusion="average", verifier__weight=1, verifier__early_stop=False)
    verify.verify(all_)
    for old, new in zip(search.read(all_.unverified), search.read(all_), strict=True):
        given = [0.5 if p is None else p for p in new.probabilities]
        assert given == sorted(given, reverse=True)
        assert dict(zip(old.subset, old.subset_scores, strict=True)) == dict(
            zip(new.subset, new.subset_scores, strict=True)
        )


def test_search_sends_a_verified_method_to_its_stage(make: Make) -> None:
    with pytest.raises(ConfigError, match="verify stage"):
        search.search(make())
    with pytest.raises(MissingStageError, match="seize verify"):
        search.read(make())
    with pytest.raises(ConfigError, match="reject"):
        make(verifier__accept=0.2, verifier__reject=0.5)


def test_killed_verifying_resumes_without_asking_twice(
    make: Make, serve: Any, small_world: Path, tmp_path: Path
) -> None:
    server = serve(yes=brightness)
    run = make(**at(server))
    command = ["verify", "--config", "demo", "--dataset", "circo"]
    command += ["--data-root", str(small_world), "--cache", str(tmp_path / "cache")]
    command += ["--captions", "3", "--candidates", "8", "--verifier", "echo"]
    command += ["--verifier-url", server.url, "--question", "caption", "--concurrency", "2"]
    process = subprocess.Popen(
        [*held_after("line", 11), *command], cwd=PROJECT, stderr=subprocess.DEVNULL
    )
    file = verify.record_file(run).file
    kill_once(lambda: len(verify.record_file(run).read()) == 10, process)
    subprocess.run([*SEIZE, *command], cwd=PROJECT, check=True, stderr=subprocess.DEVNULL)
    records = verify.record_file(run).read()
    asked = [(r["query"], r["candidate"], r["edited_caption"]) for r in records]
    assert len(asked) == len(set(asked))
    undisturbed = serve(yes=brightness)
    rankings = order(search.read(run))
    file.unlink()
    verify.verify(make(**at(undisturbed)))
    assert order(search.read(run)) == rankings
