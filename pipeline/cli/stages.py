"""The commands of the stages, of one run of all, and of what a run will cost."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline import stages
from pipeline.cli.options import Stage, json_option, log, on_option, run_options
from pipeline.cli.printing import print_metrics, print_reports
from pipeline.cli.serving import serve_option, serving, vllm_options, writing_with
from pipeline.errors import ConfigError
from pipeline.printable import echo
from pipeline.stages import base, checks

Options = list[Callable[[Any], Any]]


def find(name: str) -> click.Command | None:
    """Return the command of the stage of that name, None where there is none.

    One that cannot be imported, of another package, has a command that says so.
    """
    if name not in names():
        return None
    try:
        stage = stages.find(name)
    except ConfigError as error:
        return _broken(name, error)
    return SPECIAL.get(name, _command)(stage)


def names() -> list[str]:
    """Return the names of all stages, without importing those of other packages."""
    return [*stages.house(), *stages.brought()]


def _command(stage: base.Stage) -> click.Command:
    """Return a stage's command; it has the options that the stage's record asks for."""

    def run_stage(
        run: Any,
        as_json: bool,
        model: str | None = None,
        retry_failed: bool = False,
        **options: Any,
    ) -> None:
        checks.check(run if model is None else stage.with_model(run, model, ""), [stage])
        served = None
        if model is not None:
            stage.ready(run)
            served = serving(run.cache, model, **options)
        with served() if served else contextlib.nullcontext("") as url:
            if model is not None:
                run = stage.with_model(run, model, url)
                found = f"--{stage.serves} {model}"
                log.info("The commands after this one find what it makes with: %s", found)
            retrying = {"retry_failed": retry_failed} if stage.retries else {}
            reports = stage.run(run, **retrying)
        print_reports(reports, as_json)

    options: Options = [run_options]
    if stage.serves:
        options += [serve_option("for this stage"), vllm_options]
    if stage.retries:
        options.append(click.option("--retry-failed", is_flag=True, help=stage.retries))
    return _built(stage, run_stage, [*options, json_option])


def _built(stage: base.Stage, function: Callable[..., None], options: Options) -> click.Command:
    """Return the command ``function`` of a stage, with its ``options`` in their order."""
    for option in reversed(options):
        function = option(function)
    return click.command(stage.name, cls=Stage, help=stage.help)(function)


def _evaluate(stage: base.Stage) -> click.Command:
    """Return the command of the evaluate stage, which takes files of predictions too."""

    def run_stage(run: Any, predictions: tuple[Path, ...], as_json: bool) -> None:
        checks.check(run, [stage])
        from pipeline.stages import evaluate

        files = predictions
        metrics = evaluate.evaluate_files(run.dataset, files) if files else evaluate.evaluate(run)
        print_metrics({run.name: metrics}, as_json)
        if not as_json and not files:
            said = ", ".join(f"{field} {value!r}" for field, value in run.protocol.items())
            echo(f"Protocol: {said}")

    argument = click.argument("predictions", nargs=-1, type=click.Path(path_type=Path))
    return _built(stage, run_stage, [run_options, json_option, argument])


SPECIAL: dict[str, Callable[[base.Stage], click.Command]] = {"evaluate": _evaluate}
"""What makes the commands of stages whose options no record can tell."""


def _broken(name: str, error: ConfigError) -> click.Command:
    @click.command(name, help=str(error), context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1)
    def tell(arguments: tuple[str, ...]) -> None:
        raise error

    return tell


@click.command("run", cls=Stage)
@run_options
@serve_option("to edit with")
@vllm_options
@click.option("--profile", is_flag=True, help="show seconds, rates and peak memory by stage")
@click.option(
    "--variants",
    is_flag=True,
    help="make what `seize compare --variants` shows: with and without the shared concept",
)
@json_option
def run_all(
    run: Any,
    model: str | None,
    profile: bool,
    variants: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run every stage; then print metrics where the ground truth is known, and write submissions.

    --profile shows where the time went; seize plan says before how much there is to do.

    Example: seize run --dataset circo --split val --data-root /data --limit 20
    """
    from dataclasses import asdict, replace

    served = None if model is None else serving(run.cache, model, **options)
    checks.check(run if model is None else run.with_llm(model, ""), stages.wanted(run))
    from pipeline import profile as profiling
    from pipeline.stages.everything import run_stages

    reports, metrics = run_stages(replace(run, profile=profile), model, served)
    if variants:
        from pipeline.study import variants as both

        for one in both.of(run)[1:]:
            reports += run_stages(replace(one, profile=profile), model, served)[0]
    rows = profiling.rows(reports) if profile else []
    if as_json:
        from pipeline.run import dump

        shown = {"stages": [r.as_json() for r in reports], "metrics": metrics}
        echo(dump(shown | ({"profile": [asdict(row) for row in rows]} if profile else {})))
        return
    if metrics:
        print_metrics({run.name: metrics}, False)
    if rows:
        echo(profiling.render(rows))


def _as_written(overrides: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    return writing_with(None, overrides) if values["synthesizes"] else overrides


@click.command("plan", cls=Stage)
@functools.partial(run_options, adapt=_as_written)
@click.option(
    "--synthesize",
    "synthesizes",
    is_flag=True,
    help="of `seize synthesize` on the benchmark's images instead; --limit is that command's",
)
@on_option
@json_option
def plan_(run: Any, synthesizes: bool, on: str | None, as_json: bool) -> None:
    """Say how much a run is before it is run: calls, tokens, time, memory, disk.

    What the cache holds already is counted. Times are those of your last run with these settings,
    else estimates, and say which. Loads no model. Of a folder: seize synthesize FOLDER --plan.

    Example: seize plan --dataset circo --split test --data-root /data --config paper-l14 --on a100
    """
    from pipeline.stages import plan

    if synthesizes:
        from pipeline.stages import planning, synthesize

        limit = click.get_current_context().params["limit"]
        lines = planning.plan(synthesize.of_dataset(run), limit)
    else:
        lines = plan.plan(run)
    echo(plan.told(run, lines, on, as_json))


COMMANDS = (run_all, plan_)
