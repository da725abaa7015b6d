"""Planned queries through the whole program: the LLM is a stub that holds to the JSON schema."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.errors import MissingStageError
from pipeline.retrieval.plans import Planned, joined
from pipeline.run import Run
from pipeline.stages import decompose, embed, evaluate, search
from pipeline.stages.caption import caption
from pipeline.stages.caption import read as captions_of
from pipeline.stages.everything import run_stages
from tests.conftest import PROJECT
from tests.holding import held_after, kill_once
from tests.integration.test_cli import seize
from tests.stub import Fault, Running, Stub

MakeRun = Callable[..., Run]


def plan_of(asked: str) -> str:
    """What a careful LLM answers: the change by image and text, less what the caption says."""
    captions, _, change = asked.partition("\n")
    first = captions.removeprefix("The reference image: ").split("; ")[0]
    retrievals = [
        {"by": "both", "text": change.removeprefix("Change: "), "wanted": True},
        {"by": "image", "text": "", "wanted": True},
        {"by": "text", "text": first, "wanted": False},
    ]
    return json.dumps({"retrievals": retrievals, "join": "union"})


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """A function that starts a stub."""
    started: list[Running] = []

    def begin(**options: Any) -> Running:
        started.append(Running(Stub(answer=plan_of, **options)))
        return started[-1]

    yield begin
    for server in started:
        server.stop()


def at(server: Running, **more: Any) -> dict[str, Any]:
    return {
        "search__method": "planned",
        "search__decompose__prompt": "atomic",
        "search__planned__removed": 3,
        "llm__model": "echo",
        "llm__url": server.url,
        "captioner__samples": 3,
        "runtime__retries": 0,
        **more,
    }


def test_a_planned_query_is_set_logic_on_its_retrievals(make_run: MakeRun, serve: Any) -> None:
    server = serve()
    run = make_run(**at(server))
    reports, metrics = run_stages(run)
    assert [r.stage for r in reports] == [
        "caption",
        "decompose",
        "embed",
        "embed",
        "search",
        "submit",
    ]
    assert metrics == pytest.approx(evaluate.evaluate(run))
    asked = server.stub.seen
    assert len(asked) == len({json.dumps(one["messages"]) for one in asked})
    assert all(one["response_format"]["type"] == "json_schema" for one in asked)
    plans = decompose.read(run)
    assert all(len(plan.retrievals) == 3 for plan in plans.values())
    for ranking in search.read(run):
        assert len(ranking.images) == 50
        # What is unwanted, if it was found at all, stands behind all else.
        assert sum(score < -1 for score in ranking.scores) <= 3
        assert list(ranking.scores) == sorted(ranking.scores, reverse=True)
    before = len(asked)
    assert decompose.decompose(run)[0].computed == 0
    assert len(server.stub.seen) == before, "what was asked is never asked again"
    changed = make_run(**at(server, search__planned__removed=0))
    assert search.ranking_file(changed).file != search.ranking_file(run).file


def test_faults_are_counted_fall_back_and_are_tried_again(make_run: MakeRun, serve: Any) -> None:
    wrong = {"times": 2}

    def plan(text: str, tries: int) -> Fault | None:
        wrong["times"] -= 1
        return Fault(400) if wrong["times"] >= 0 else None

    server = serve(plan=plan)
    run = make_run(**at(server, runtime__concurrency=1))
    caption(run)
    (report,) = decompose.decompose(run)
    assert len([item for item in report.failed if item.startswith("query ")]) >= 2
    fallen = [plan for plan in decompose.read(run).values() if len(plan.retrievals) == 1]
    assert len(fallen) >= 2
    assert {atom.by for plan in fallen for atom in plan.retrievals} == {"both"}
    (again,) = decompose.decompose(run, retry_failed=True)
    assert (again.computed, again.failed) == (2, {})
    assert all(len(plan.retrievals) == 3 for plan in decompose.read(run).values())
    embed.STAGE.run(run)
    search.search(run)
    assert evaluate.evaluate(run)


def test_kill_9_loses_at_most_the_plan_in_flight(make_run: MakeRun, serve: Any) -> None:
    first, second = serve(), serve()
    run = make_run(**at(first, runtime__concurrency=1))
    caption(run)
    records = decompose.record_file(run)
    command = [
        *(*held_after("line", 4), "decompose", *run.command.split()),
        *("--cache", str(run.cache), "--submissions", str(run.submissions), "--method", "planned"),
        *("--llm", "echo", "--llm-url", first.url, "--captions", "3", "--concurrency", "1"),
        *("--set", "search.decompose.prompt=atomic"),
    ]
    kill_once(lambda: len(records.read()) == 3, subprocess.Popen(command, cwd=PROJECT))
    kept = 3
    with pytest.raises(MissingStageError, match="of 12 queries have no plan"):
        decompose.read(run)
    (report,) = decompose.decompose(make_run(**at(second)))
    questions = set(decompose.questions(run, captions_of(run)).values())
    assert (report.cached, report.computed) == (kept, len(questions) - kept)
    assert len(second.stub.seen) == report.computed > 0, "what was kept is not asked again"
    plans = decompose.read(run)
    assert plans.keys() == {query.id for query in run.queries}
    assert all(len(plan.retrievals) == 3 for plan in plans.values())


def test_what_is_missing_is_named(make_run: MakeRun, serve: Any) -> None:
    server = serve()
    run = make_run(**at(server))
    caption(run)
    with pytest.raises(MissingStageError, match=r"12 of 12 queries have no plan.*seize decompose"):
        decompose.read(run)
    given = [*make_run().command.split(), "--cache", str(run.cache), "--workers", "0"]
    refused = seize("search", *given, "--method", "planned")
    assert refused.exit_code != 0
    assert "--set search.decompose.prompt=atomic" in refused.output
    left_out = seize("plan", *given, "--method", "all")
    assert left_out.exit_code == 0, left_out.output
    assert "decompose" not in left_out.output


def test_roles_are_plans_without_a_further_call_and_cirrs_groups_are_ranked(
    make_run: MakeRun,
) -> None:
    run = make_run(
        "cirr", search__method="planned-roles", llm__prompt="demo-roles", captioner__samples=3
    )
    reports, metrics = run_stages(run)
    assert "decompose" not in [report.stage for report in reports]
    assert metrics is not None
    for query, ranking in zip(run.queries, search.read(run), strict=True):
        assert sorted(ranking.subset) == sorted(query.group)
        assert query.reference not in ranking.images


def test_a_plan_of_one_image_is_the_method_image() -> None:
    scores = {"a": 0.5, "b": 0.25}
    assert list(joined([scores], [True], "intersection", Planned())) == ["a", "b"]
