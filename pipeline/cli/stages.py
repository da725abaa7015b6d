"""The commands of the stages, of one run of all, and of what a run will cost."""

import contextlib
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import (
    Stage,
    json_option,
    log,
    print_metrics,
    print_reports,
    run_options,
    split_arguments,
    vllm_options,
)
from pipeline.printable import echo
from pipeline.stages import checks


@click.command(cls=Stage)
@run_options
@json_option
def caption(run: Any, as_json: bool) -> None:
    """Describe each distinct reference image several times with BLIP-2.

    Several GPUs or machines: accelerate launch -m pipeline caption … shares the images out.

    Example: seize caption --dataset circo --split val --data-root /data --config paper-l14
    """
    checks.check(run, "caption")
    from pipeline.stages.caption import caption as stage

    print_reports([stage(run)], as_json)


@click.command(cls=Stage)
@run_options
@click.option("--serve", "model", metavar="MODEL", help="start `vllm serve MODEL` for this stage")
@vllm_options
@click.option("--retry-failed", is_flag=True, help="try again what failed before")
@json_option
def edit(
    run: Any,
    model: str | None,
    vllm_bin: str | None,
    serve_arguments: tuple[str, ...],
    serve_timeout: float,
    retry_failed: bool,
    as_json: bool,
) -> None:
    """Let the LLM apply the relative caption to every caption.

    The LLM is behind --llm-url, in process (--llm transformers:PATH), or served for this stage by
    vLLM (--serve); the stages after this one are then given --llm MODEL.

    Example: seize edit --dataset circo --split val --llm Qwen/Qwen2.5-7B-Instruct
    --llm-url http://localhost:8000/v1
    """
    checks.check(run if model is None else run.with_llm(model, ""), "edit")
    from pipeline.stages import caption
    from pipeline.stages.edit import edit as stage

    if model is None:
        print_reports([stage(run, retry_failed)], as_json)
        return
    caption.read(run)  # a server takes minutes to start
    with _serving(run, model, vllm_bin, serve_arguments, serve_timeout) as url:
        report = stage(run.with_llm(model, url), retry_failed)
    log.info("The stages after this one find these edits with: --llm %s", model)
    print_reports([report], as_json)


@click.command(cls=Stage)
@run_options
@json_option
def embed(run: Any, as_json: bool) -> None:
    """Compute CLIP features of the gallery's images, and of all texts once they exist.

    Several GPUs or machines: accelerate launch -m pipeline embed … shares images and texts out.

    Example: seize embed --dataset circo --split val --clip ViT-B-32 --pretrained openai
    """
    checks.check(run, "embed")
    from pipeline.stages.embed import embed as stage
    from pipeline.stages.inputs import make_clues

    reports = stage(run)
    print_reports([*reports, *make_clues(run)], as_json)


@click.command(cls=Stage)
@run_options
@json_option
def search(run: Any, as_json: bool) -> None:
    """Rank the gallery for every query; needs features on disk, no model.

    Example: seize search --dataset circo --split val --alpha-pos 0.13 --alpha-neg 2.1
    """
    checks.check(run, "search")
    from pipeline.stages.search import search as stage

    print_reports(stage(run), as_json)


@click.command(cls=Stage)
@run_options
@click.option("--serve", "model", metavar="MODEL", help="start `vllm serve MODEL` for this stage")
@vllm_options
@click.option("--retry-failed", is_flag=True, help="ask again where there was no answer before")
@json_option
def verify(
    run: Any,
    model: str | None,
    vllm_bin: str | None,
    serve_arguments: tuple[str, ...],
    serve_timeout: float,
    retry_failed: bool,
    as_json: bool,
) -> None:
    """Let a vision-language model look at each query's best images, and reorder them.

    Needs the ranking of --method (one, several or all). The result is a method of its own: submit,
    evaluate and compare take it as METHOD+verify. The verifier is behind --verifier-url, in process
    (--verifier transformers:PATH), or served for this stage by vLLM (--serve).

    An image that it accepts (verifier.accept) moves before all others, one that it rejects
    (verifier.reject) behind all others; otherwise the order of the scores stays. With --set
    verifier.fusion=average, images are sorted by a weighted mean of probability and score.

    Example: seize verify --dataset circo --split val --method seize --verifier
    Qwen/Qwen2.5-VL-7B-Instruct --verifier-url http://localhost:8000/v1
    """
    checks.check(run if model is None else run.with_verifier(model, ""), "verify")
    from pipeline.stages.verify import read_rankings
    from pipeline.stages.verify import verify as stage

    serving = None
    if model is not None:
        read_rankings(run)  # a server takes minutes to start
        serving = _serving(run, model, vllm_bin, serve_arguments, serve_timeout)
    with serving or contextlib.nullcontext("") as url:
        if model is not None:
            run = run.with_verifier(model, url)
            log.info("The commands after this one find these verdicts with: --verifier %s", model)
        reports = stage(run, retry_failed)
    print_reports(reports, as_json)


def _serving(
    run: Any, model: str, binary: str | None, arguments: tuple[str, ...], timeout: float
) -> contextlib.AbstractContextManager[str]:
    """Return what serves ``model`` once it is entered; raises ConfigError without vllm now."""
    from pipeline.models.serving.vllm import find, serve

    log_file = run.cache / "vllm.log"
    return serve(model, log_file, find(binary), split_arguments(arguments), timeout=timeout)


@click.command(cls=Stage)
@run_options
@json_option
@click.argument("predictions", nargs=-1, type=click.Path(path_type=Path))
def evaluate(run: Any, predictions: tuple[Path, ...], as_json: bool) -> None:
    """Print validation metrics in percent: of the ranking, or of submission-shaped PREDICTIONS.

    Example: seize evaluate --dataset circo --split val predictions.json --json
    """
    checks.check(run, "evaluate")
    from pipeline.stages import evaluate as stage

    files = predictions
    metrics = stage.evaluate_files(run.dataset, files) if files else stage.evaluate(run)
    print_metrics({run.name: metrics}, as_json)
    if not as_json and not files:
        said = ", ".join(f"{field} {value!r}" for field, value in run.protocol.items())
        echo(f"Protocol: {said}")


@click.command(cls=Stage)
@run_options
@json_option
def submit(run: Any, as_json: bool) -> None:
    """Write the files that the CIRCO and CIRR evaluation servers take.

    Example: seize submit --dataset cirr --split test1 --config paper-l14
    """
    checks.check(run, "submit")
    from pipeline.stages.submit import submit as stage

    print_reports([stage(run)], as_json)


@click.command("run", cls=Stage)
@run_options
@click.option("--serve", "model", metavar="MODEL", help="start `vllm serve MODEL` to edit with")
@vllm_options
@click.option("--profile", is_flag=True, help="show seconds, rates and peak memory by stage")
@json_option
def run_all(
    run: Any,
    model: str | None,
    vllm_bin: str | None,
    serve_arguments: tuple[str, ...],
    serve_timeout: float,
    profile: bool,
    as_json: bool,
) -> None:
    """Run every stage; then print metrics where the ground truth is known, and write submissions.

    --profile shows where the time went; seize plan says before how much there is to do.

    Example: seize run --dataset circo --split val --data-root /data --limit 20
    """
    from dataclasses import asdict, replace

    serving = None
    if model is not None:
        serving = _serving(run, model, vllm_bin, serve_arguments, serve_timeout)
    served = run if model is None else run.with_llm(model, "")
    checks.check(served, *checks.stages_of(run))
    from pipeline import profile as profiling
    from pipeline.stages.everything import run_stages

    reports, metrics = run_stages(replace(run, profile=profile), model, serving)
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


@click.command("plan", cls=Stage)
@run_options
@json_option
def plan_(run: Any, as_json: bool) -> None:
    """Say how much a run is before it is run: captions, prompts, tokens, images, disk.

    What the cache holds already is counted. Loads no model; figures that are estimates or upper
    bounds say so.

    Example: seize plan --dataset circo --split test --data-root /data --config paper-l14
    """
    from pipeline.run import dump
    from pipeline.stages import plan

    lines = plan.plan(run)
    if as_json:
        echo(dump({"run": run.name, "lines": [line.as_json() for line in lines]}))
    else:
        echo(plan.render(run, lines))


COMMANDS = (caption, edit, embed, search, verify, evaluate, submit, run_all, plan_)
