"""What stages took is kept for the next plan, and harms no run."""

from collections.abc import Callable

from pipeline import timings
from pipeline.run import Run, StageReport, stage

MakeRun = Callable[..., Run]


def report(seconds: float = 2.0, computed: int = 10, **more: object) -> StageReport:
    return StageReport("caption", "x", [], "x", computed=computed, seconds=seconds, unit="images")


def test_the_last_timing_of_the_same_settings_is_found(make_run: MakeRun) -> None:
    run = make_run()
    assert timings.last(run, "caption", "images") is None
    run.cache.mkdir(parents=True)
    for seconds in (5.0, 2.0):
        timings.keep(run, report(seconds))
    found = timings.last(run, "caption", "images")
    assert found is not None
    assert (found.computed, found.seconds) == (10, 2.0)
    assert timings.last(run, "embed", "images") is None
    assert timings.last(run, "caption", "texts") is None
    assert timings.last(make_run(captioner__samples=3), "caption", "images") is None
    assert timings.last(make_run(captioner__seed=3), "caption", "images") == found


def test_loading_a_model_is_no_part_of_it_and_nothing_computed_is_not_kept(
    make_run: MakeRun,
) -> None:
    run = make_run()
    run.cache.mkdir(parents=True)
    timings.keep(run, report(computed=0))
    slow = report(5.0)
    slow.steps["load the model"] = 5.0
    timings.keep(run, slow)
    assert not (run.cache / timings.FILE).exists()
    slow.steps["load the model"] = 4.0
    timings.keep(run, slow)
    found = timings.last(run, "caption", "images")
    assert found is not None
    assert found.seconds == 1.0


def test_torn_and_foreign_lines_are_passed_over(make_run: MakeRun) -> None:
    run = make_run()
    run.cache.mkdir(parents=True)
    timings.keep(run, report())
    with (run.cache / timings.FILE).open("ab") as file:
        file.write(b'{"stage": "caption"}\n[]\n\xff\n{"stage": "cap')
    found = timings.last(run, "caption", "images")
    assert found is not None
    assert found.computed == 10


def test_a_cache_that_cannot_be_written_keeps_nothing(make_run: MakeRun) -> None:
    run = make_run()
    run.cache.write_text("a file where a folder should be")
    timings.keep(run, report())
    assert timings.last(run, "caption", "images") is None


def test_a_stage_keeps_its_timing_by_itself(make_run: MakeRun) -> None:
    run = make_run()
    run.cache.mkdir(parents=True)
    with stage("caption", run, [], run.cache / "x", "images") as made:
        made.computed = 3
    found = timings.last(run, "caption", "images")
    assert found is None or found.computed == 3, "none where the clock saw no time pass"
