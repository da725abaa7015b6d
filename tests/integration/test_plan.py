"""What a plan says before a run is what the run then does; a profile says where the time went."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner, Result

from pipeline import timings
from pipeline.cli import main
from pipeline.run import Run
from pipeline.stages.everything import run_stages
from pipeline.stages.plan import Cost, Line, costs, plan
from tests.conftest import PROJECT

MakeRun = Callable[..., Run]


def seize(run: Run, command: str, *options: str) -> Result:
    folders = ["--cache", str(run.cache), "--submissions", str(run.submissions)]
    given = [*run.command.split(), *folders, "--workers", "0", *options]
    result = CliRunner().invoke(main, [command, *given])
    assert result.exit_code == 0, result.output
    return result


def by_quantity(run: Run) -> dict[str, Line]:
    return {line.quantity: line for line in plan(run)}


def test_a_plan_is_what_the_run_then_does(make_run: MakeRun) -> None:
    trial, run = make_run(), make_run()
    trial.dataset.limit(4)
    before = by_quantity(run)
    assert all(line.cached == 0 for line in before.values())
    assert before["captions"].total == 15 * len(run.references)
    assert before["distinct prompts"].certainty == "at most"
    assert before["images"].total == len(run.dataset.images)
    run_stages(trial)
    half = by_quantity(run)
    assert half["reference images"].cached == len(trial.references)
    assert 0 < half["distinct prompts"].cached < half["distinct prompts"].total
    assert half["distinct prompts"].total <= before["distinct prompts"].total
    assert half["images"].todo == 0
    assert half["texts"].cached == 0
    caption, edit, images, texts, search, _ = run_stages(run)[0]
    assert caption.computed == half["reference images"].todo
    assert edit.computed <= half["distinct prompts"].todo
    assert texts.computed <= before["texts"].total
    after = by_quantity(run)
    assert after["distinct prompts"].certainty == after["texts"].certainty == "exact"
    assert after["distinct prompts"].total == edit.cached + edit.computed
    assert after["texts"].total == texts.cached + texts.computed
    assert after["queries"].total == search.computed
    done = [line for line in after.values() if line.stage != "search"]
    assert all(line.todo == 0 for line in done)
    for report, line in ((images, "image"), (texts, "text")):
        size, expected = Path(report.writes).stat().st_size, after[f"bytes of {line} features"]
        assert expected.total < size < 1.5 * expected.total  # names come on top


def test_a_plan_counts_pseudo_words_and_prompts_with_them(make_run: MakeRun) -> None:
    run = make_run("fashioniq", search__method="lincir")
    images = {query.reference for query in run.queries}
    for done in (False, True):
        lines = by_quantity(run)
        words, prompts = (
            lines[f"{what} pseudo-words of lincir"] for what in ("images as", "prompts with")
        )
        assert (words.total, prompts.total) == (len(images), 2 * len(run.queries)), "either order"
        assert (words.todo, prompts.todo) == ((0, 0) if done else (words.total, prompts.total))
        run_stages(run)
    assert not any("pseudo-words" in name for name in by_quantity(make_run("fashioniq")))


def test_tokens_are_estimated_from_the_rendered_prompt(make_run: MakeRun) -> None:
    short, long = (by_quantity(make_run(llm__prompt=name)) for name in ("demo", "seize"))
    assert short["distinct prompts"] == long["distinct prompts"]
    assert long["prompt tokens"].total > 3 * short["prompt tokens"].total
    assert long["prompt tokens"].certainty == "estimate"


def test_the_command_prints_the_plan_and_as_json(make_run: MakeRun) -> None:
    run = make_run()
    content = json.loads(seize(run, "plan", "--json").stdout)
    lines = plan(run)
    assert content["lines"] == [line.as_json() for line in lines]
    assert content["costs"] == [cost.as_json() for cost in costs(run, lines)]
    shown = seize(run, "plan").stdout
    assert "distinct prompts" in shown
    assert "at most" in shown
    assert "Estimates take 4 characters for a token" in shown
    assert not run.cache.exists()  # planning leaves nothing behind


def by_item(run: Run, on: str | None = None) -> dict[str, Cost]:
    return {f"{cost.stage} {cost.unit}": cost for cost in costs(run, plan(run), on)}


def test_every_time_says_what_it_is_and_a_run_of_ones_own_goes_before_estimates(
    make_run: MakeRun,
) -> None:
    trial, run = make_run(), make_run()
    trial.dataset.limit(4)
    before = by_item(run)
    assert before.keys() == {
        *("caption images", "edit captions", "embed images", "embed texts", "search queries")
    }
    for cost in before.values():
        assert cost.source.startswith("estimate: ")
        assert "% of" in cost.source
        assert cost.fastest is not None
        assert cost.slowest is not None
        assert 0 < cost.fastest < cost.slowest
    assert before["caption images"].memory is not None
    run_stages(trial)
    after = by_item(run)
    for name in ("caption images", "edit captions", "search queries"):
        cost, kept = after[name], timings.last(run, *name.split())
        assert kept is not None
        assert cost.source.startswith(f"your last run: {kept.computed}")
        assert cost.fastest is not None
        assert cost.slowest is not None
        seconds = cost.todo * kept.seconds / kept.computed
        assert cost.fastest <= seconds <= cost.slowest
    assert after["embed images"].source == "nothing to do"
    other = make_run(captioner__samples=2)
    assert by_item(other)["caption images"].source.startswith("estimate: ")
    assert by_item(run, "h100")["caption images"].source.endswith("NVIDIA H100 SXM")
    shown = seize(run, "plan").stdout
    assert "your last run: " in shown
    assert "In all " in shown
    refused = CliRunner().invoke(main, ["plan", *run.command.split(), "--on", "h10"])
    assert refused.exit_code == 2
    assert "Did you mean 'h100'" in refused.stderr


def test_a_server_is_timed_by_its_runs_alone_or_by_a_device_that_is_named(
    make_run: MakeRun,
) -> None:
    run = make_run(llm__model="Qwen/Qwen2.5-7B-Instruct")
    told = by_item(run)["edit captions"]
    assert (told.fastest, told.memory, told.device) == (None, None, "a server")
    assert "--on" in told.source
    assert (
        "without what is not told: edit captions" in seize(run, "plan", "--llm", told.model).stdout
    )
    on = by_item(run, "a100")["edit captions"]
    assert "7B parameters by its name" in on.source
    assert on.memory is not None
    assert 14e9 < on.memory < 40e9, "float16 weights, and what the prompts in flight hold"
    faster = by_item(run, "h100")["edit captions"]
    assert on.slowest is not None
    assert faster.slowest is not None
    assert faster.slowest < on.slowest


def test_a_plan_needs_no_torch(make_run: MakeRun) -> None:
    run = make_run()
    words = ["plan", *run.command.split(), "--cache", str(run.cache)]
    program = (
        "import sys, atexit; from pipeline.cli import main\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        f"main({words!r}, prog_name='seize')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    assert done.stdout.rstrip().endswith("False")


def test_a_profile_accounts_for_all_of_the_time(make_run: MakeRun) -> None:
    run = make_run()
    rows = json.loads(seize(run, "run", "--profile", "--json").stdout)["profile"]
    stages = [row for row in rows[:-2] if not row["step"]]
    names = [f"{row['stage']} {row['unit']}" for row in stages]
    assert names == [
        "caption images", "edit captions", "embed images", "embed texts", "search queries",
        "submit queries",
    ]  # fmt: skip
    rest, total = rows[-2:]
    assert abs(sum(row["seconds"] for row in [*stages, rest]) - total["seconds"]) < 0.1
    for row in stages:
        assert row["computed"] > 0
        assert row["peak_memory"] > 50 * 2**20
        steps = [each for each in rows if each["step"] and each["stage"] == row["stage"]]
        assert sum(each["seconds"] for each in steps) <= sum(
            0.05 + each["seconds"] for each in stages if each["stage"] == row["stage"]
        )
    again = seize(run, "run", "--profile").stdout
    table = again[again.index("stage ") :]
    assert "wait for decoding" not in table  # everything is cached
    assert f"{len(run.dataset.images)}" in table
    assert "peak MiB" in table
