"""The command line: one command a stage. It parses, calls and prints; the logic is elsewhere."""

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import yaml

from pipeline import __version__, config, processes, prompts
from pipeline.ending import Commands, exit_codes, leave
from pipeline.errors import STOPPED, ConfigError
from pipeline.options import (
    Stage,
    cache_option,
    data_root_option,
    format_option,
    gallery_options,
    json_option,
    override_options,
    preset_option,
    print_metrics,
    print_reports,
    print_result,
    run_options,
    split_arguments,
    vllm_options,
)
from pipeline.printable import Formatter, echo

log = logging.getLogger("seize")

SHARED = ("caption", "embed")
"""The commands whose work several processes share."""


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=exit_codes(),
)
@click.version_option(__version__, prog_name="seize")
@click.option("--debug", is_flag=True, help="show the traceback of an error")
@click.option("--quiet", is_flag=True, help="only warnings and errors on standard error")
def main(debug: bool, quiet: bool) -> None:
    """Training-free composed image retrieval: a reference image and a sentence saying what should
    differ, in; the target images of a gallery, out.

    \b
    The stages, in order; each reads what the one before wrote into the cache:
      seize caption → edit → embed → search → (verify) → evaluate / submit
    `seize run` does them all. Try everything on a small rendered world: seize demo
    Where something does not work: seize doctor
    """
    place = processes.current()
    prefix = "" if place.main else f"[process {place.index}] "
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(f"{prefix}%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    log.setLevel(logging.WARNING if quiet or not place.main else logging.INFO)
    command = click.get_current_context().invoked_subcommand
    if place.count > 1 and command not in SHARED:
        raise ConfigError(
            f"`seize {command}` runs as one process; accelerate launch is for "
            f"{' and '.join(SHARED)}. Run it without."
        )


@main.command(cls=Stage)
@run_options
@json_option
def caption(run: Any, as_json: bool) -> None:
    """Describe each distinct reference image several times with BLIP-2.

    Several GPUs or machines: accelerate launch -m pipeline caption … shares the images out.

    Example: seize caption --dataset circo --split val --data-root /data --config paper-l14
    """
    from pipeline.caption import caption as stage

    print_reports([stage(run)], as_json)


@main.command(cls=Stage)
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
    from pipeline.edit import edit as stage

    if model is None:
        print_reports([stage(run, retry_failed)], as_json)
        return
    with _serving(run, model, vllm_bin, serve_arguments, serve_timeout) as url:
        report = stage(run.with_llm(model, url), retry_failed)
    log.info("The stages after this one find these edits with: --llm %s", model)
    print_reports([report], as_json)


@main.command("serve-llm")
@click.argument("model")
@click.option("--port", type=int, default=8000, show_default=True)
@click.option(
    "--log",
    "log_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("cache/vllm.log"),
    show_default=True,
)
@vllm_options
def serve_llm(
    model: str,
    port: int,
    log_file: Path,
    vllm_bin: str | None,
    serve_arguments: tuple[str, ...],
    serve_timeout: float,
) -> None:
    """Keep `vllm serve MODEL` running for many edit stages; Ctrl-C stops all of it.

    Where the server ends by itself, so does this command, with exit code 5.

    Example: seize serve-llm Qwen/Qwen2.5-7B-Instruct --vllm-bin vllm/bin/vllm
    """
    from pipeline.llms.vllm import start

    arguments = split_arguments(serve_arguments)
    with start(model, log_file, vllm_bin, arguments, port, serve_timeout) as server:
        try:
            echo(f"{model} is served. Use it with: --llm {model} --llm-url {server.url}")
            server.watch()
        except KeyboardInterrupt:
            echo("Stopping the server.", err=True)


@main.command(cls=Stage)
@run_options
@json_option
def embed(run: Any, as_json: bool) -> None:
    """Compute CLIP features of the gallery's images, and of all texts once they exist.

    Several GPUs or machines: accelerate launch -m pipeline embed … shares images and texts out.

    Example: seize embed --dataset circo --split val --clip ViT-B-32 --pretrained openai
    """
    from pipeline.embed import embed as stage

    print_reports(stage(run), as_json)


@main.command(cls=Stage)
@run_options
@json_option
def search(run: Any, as_json: bool) -> None:
    """Rank the gallery for every query; needs features on disk, no model.

    Example: seize search --dataset circo --split val --alpha-pos 0.13 --alpha-neg 2.1
    """
    from pipeline.search import search as stage

    print_reports(stage(run), as_json)


@main.command(cls=Stage)
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
    from pipeline.verify import verify as stage

    serving = None
    if model is not None:
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
    from pipeline.llms.vllm import serve

    log_file = run.cache / "vllm.log"
    return serve(model, log_file, binary, split_arguments(arguments), timeout=timeout)


@main.command(cls=Stage)
@run_options
@json_option
@click.argument("predictions", nargs=-1, type=click.Path(path_type=Path))
def evaluate(run: Any, predictions: tuple[Path, ...], as_json: bool) -> None:
    """Print validation metrics in percent: of the ranking, or of submission-shaped PREDICTIONS.

    Example: seize evaluate --dataset circo --split val predictions.json --json
    """
    from pipeline import evaluate as stage

    files = predictions
    metrics = stage.evaluate_files(run.dataset, files) if files else stage.evaluate(run)
    print_metrics({run.name: metrics}, as_json)
    if not as_json and not files:
        said = ", ".join(f"{field} {value!r}" for field, value in run.protocol.items())
        echo(f"Protocol: {said}")


@main.command(cls=Stage)
@functools.partial(run_options, defaults={"search.method": "all"})
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="NAME=FILE[,FILE]",
    help="another row: a ranking (cache/…/search/*.jsonl) or predictions as in a submission",
)
@click.option("--baseline", help="row that the others are compared with; the first by default")
@click.option("--metric", "metrics", multiple=True, help="metrics to show; the first is compared")
@click.option("--resamples", type=click.IntRange(100), default=2000, show_default=True)
@click.option("--mixed", is_flag=True, help="allow rows made under different protocols")
@click.option("--out", type=click.Path(path_type=Path), help="file for the table")
@format_option
@json_option
def compare(
    run: Any,
    others: tuple[str, ...],
    baseline: str | None,
    metrics: tuple[str, ...],
    resamples: int,
    mixed: bool,
    out: Path | None,
    form: Any,
    as_json: bool,
) -> None:
    """Print one table of validation metrics: a row for each method's ranking (--method all).

    Differences against the baseline come with 95 % intervals of the paired bootstrap.

    Example: seize compare --dataset circo --split val --baseline mean-ensemble --format latex
    """
    from pipeline import compare as table
    from pipeline.cache import write_text
    from pipeline.run import dump

    rows = table.rows_of_run(run)
    for text in others:
        name, equals, files = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not NAME=FILE", param_hint="--with")
        rows.append(table.row_of_files(run.dataset, name, [Path(f) for f in files.split(",")]))
    protocol = table.check_protocols(rows, mixed)
    baseline = baseline or rows[0].name
    found = table.compare(run.dataset, rows, baseline, resamples)
    if as_json:
        lines = found.to_dict(orient="records")
        echo(dump({"baseline": baseline, "protocol": protocol, "table": lines}))
        return
    text = table.render(run.dataset, found, protocol, baseline, metrics, form)
    if out is None:
        echo(text)
    else:
        write_text(out, text + "\n")


@main.command(cls=Stage)
@run_options
@click.option(
    "--grid",
    "grids",
    multiple=True,
    metavar="PARAMETER=VALUES",
    help="values to try: a,b,c or start:stop:step, e.g. negative=0:3:0.25",
)
@click.option("--metric", help="the metric to be best at; the benchmark's first by default")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("outputs"),
    show_default=True,
    help="folder for the CSV and the picture",
)
@json_option
def tune(run: Any, grids: tuple[str, ...], metric: str | None, out: Path, as_json: bool) -> None:
    """Try a grid of the method's weights on val, from features on disk; print the best.

    Parameters: positive and negative (α⁺, α⁻ of seize), rank_positive and rank_negative (of
    seize-rank), drops and temperature (k, τ of ldre); of METHOD+verify accept and reject, or, with
    an average as its fusion, weight.

    Example: seize tune --dataset circo --split val --method seize --grid negative=0:3:0.25
    """
    from pipeline import tune as tuning

    name = run.config.search.method
    grid = tuning.grid_of(run.config, dict(_grid(text) for text in grids))
    tuned = tuning.tune(run, grid, out, metric)
    if as_json:
        from pipeline.run import dump

        files = {"csv": str(tuned.csv), "picture": tuned.picture and str(tuned.picture)}
        found = {"best": tuned.best, "metric": tuned.metric, "value": tuned.value}
        echo(dump(found | {"border": tuned.border, "protocol": run.protocol} | files))
        return
    best = ", ".join(f"{name} {value:g}" for name, value in tuned.best.items())
    cells = len(tuned.table)
    echo(f"{run.name}, {name}: {tuned.metric} {tuned.value:.2f} at {best} ({cells} cells)")
    for parameter, end in tuned.border.items():
        echo(
            f"Warning: {parameter} {tuned.best[parameter]:g} is the {end} value tried; the best "
            f"may lie beyond. Widen with --grid {parameter}=…"
        )
    for file in (tuned.csv, tuned.picture):
        if file is not None:
            echo(f"  {file}")


def _grid(text: str) -> tuple[str, list[float]]:
    name, _, values = text.partition("=")
    try:
        if ":" in values:
            start, stop, step = map(float, values.split(":"))
            count = int((stop - start) / step + 1e-9)
            return name, [round(start + i * step, 10) for i in range(count + 1)]
        return name, [float(value) for value in values.split(",")]
    except (ValueError, ZeroDivisionError):
        raise click.BadParameter(
            f"{text!r} is not PARAMETER=a,b,c or PARAMETER=start:stop:step", param_hint="--grid"
        ) from None


@main.command(cls=Stage)
@run_options
@click.option(
    "--out", type=click.Path(path_type=Path), help="the page; outputs/report-DATASET-SPLIT.html"
)
@click.option("--open", "open_page", is_flag=True, help="show the page in the browser")
@click.option(
    "--compare",
    "other",
    metavar="METHOD|FILE",
    help="another ranking beside it: a method that was searched, or cache/…/search/*.jsonl",
)
@click.option("--mixed", is_flag=True, help="allow rankings made under different protocols")
@click.option(
    "--tuned",
    type=click.Path(path_type=Path, dir_okay=False),
    help="CSV of `seize tune`; the newest one of this run in outputs by default",
)
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="images a query")
@click.option("--queries", type=click.IntRange(1), help="show only so many, evenly spread")
@click.option(
    "--megabytes",
    type=click.FloatRange(min=0, min_open=True),
    default=20,
    show_default=True,
    help="what the file may weigh; thumbnails are as large as that allows",
)
@json_option
def report(
    run: Any, out: Path | None, open_page: bool, other: str | None, as_json: bool, **options: Any
) -> None:
    """Write one HTML file to look at: metrics, tuning, provenance, and every query with its images.

    It needs nothing else and asks nothing of the network, so it can be given away.

    Example: seize report --dataset circo --split val --data-root /data --compare mean-ensemble
    """
    from pipeline import report as page

    out = out or Path("outputs") / f"report-{run.name}.html"
    written = page.report(run, out, page.Options(other=other, **options))
    if as_json:
        from dataclasses import asdict

        from pipeline.run import dump

        echo(dump(asdict(written) | {"file": str(written.file)}))
    else:
        size = written.bytes / page.MEGABYTE
        echo(
            f"{run.name}: {written.queries} queries, {written.images} images, {size:.1f} MB"
            f" -> {written.file}"
        )
    if open_page:
        click.launch(out.resolve().as_uri())


@main.command(cls=Stage)
@run_options
@json_option
def submit(run: Any, as_json: bool) -> None:
    """Write the files that the CIRCO and CIRR evaluation servers take.

    Example: seize submit --dataset cirr --split test1 --config paper-l14
    """
    from pipeline.submit import submit as stage

    print_reports([stage(run)], as_json)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dataset", required=True, help="circo or cirr")
@click.option("--split", required=True, help="the split the file is for")
@data_root_option
@json_option
def check(file: Path, dataset: str, split: str, data_root: Path, as_json: bool) -> None:
    """Say whether FILE is what the evaluation server takes: exit code 0, or 1 with all reasons.

    Example: seize check submissions/mine.json --dataset circo --split test --data-root /data
    """
    from pipeline import datasets

    found = datasets.load(dataset, split, data_root, follow_links=True).check(file)
    if as_json:
        from pipeline.run import dump

        echo(dump({"errors": found.errors, "warnings": found.warnings}))
    else:
        for warning in found.warnings:
            echo(f"Warning: {warning}")
        for reason in found.errors:
            echo(f"Error: {reason}")
        if not found.errors:
            echo(f"{file} is a valid submission for {dataset} {split}.")
    click.get_current_context().exit(1 if found.errors else 0)


def _file(text: str, exists: bool = True) -> Callable[..., Any]:
    flag, help_text = text.split(": ")
    kind = click.Path(path_type=Path, exists=exists, dir_okay=False)
    return click.option(flag, type=kind, required=True, help=help_text)


@main.command()
@_file("--composed: features of the edited captions, (queries, d)")
@_file("--content: features of the captions, (queries, d)")
@_file("--gallery: features of the images, (images, d)")
@click.option("--alpha-pos", type=float, required=True, help="α⁺, weight of a positive increment")
@click.option("--alpha-neg", type=float, required=True, help="α⁻, weight of a negative increment")
@click.option("--top-k", type=click.IntRange(1), default=50, show_default=True)
@click.option(
    "--exclude",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="gallery rows never retrieved: .npy (queries[, m]) or JSON, one entry a query; -1: none",
)
@_file("--out: .npz with indices int64 and scores float32, (queries, top-k)", exists=False)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps")
@json_option
def rank(
    composed: Path,
    content: Path,
    gallery: Path,
    alpha_pos: float,
    alpha_neg: float,
    top_k: int,
    exclude: Path | None,
    out: Path,
    device: str,
    as_json: bool,
) -> None:
    """Rank features made elsewhere by SEIZE's score: no dataset, no model.

    Features are float32 or float16 matrices in .npy or .safetensors files, and are normalised here.

    Example: seize rank --composed a.npy --content b.npy --gallery x.npy --alpha-pos 0.13
    --alpha-neg 2.1 --out ranking.npz
    """
    from pipeline.rank import rank_files

    queries, images = rank_files(
        composed, content, gallery, alpha_pos, alpha_neg, top_k, exclude, out, device
    )
    if as_json:
        from pipeline.run import dump

        echo(dump({"queries": queries, "images": images, "out": str(out)}))
    else:
        echo(f"Ranked {images:,} images for {queries:,} queries -> {out}")


@main.command("table")
@click.option("--dataset", required=True, help="circo, cirr or fashioniq")
@click.option("--backbone", "backbones", multiple=True, help="B/32, L/14 or G/14; all by default")
@click.option(
    "--mine",
    multiple=True,
    metavar="NAME[@BACKBONE]=FILE",
    help="your own row: JSON from `seize evaluate --json`, or of what the server answered",
)
@format_option
@json_option
def table_(
    dataset: str, backbones: tuple[str, ...], mine: tuple[str, ...], form: Any, as_json: bool
) -> None:
    """Show published figures with their sources beside one's own.

    Example: seize table --dataset circo --backbone L/14 --mine "mine@L/14=server.json"
    """
    from pipeline import published
    from pipeline.run import dump

    own = {}
    for text in mine:
        name, equals, file = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not NAME=FILE", param_hint="--mine")
        own[name] = Path(file)
    frame, found = published.table(dataset, backbones, own)
    if as_json:
        lines = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
        echo(dump({"table": lines, "sources": found.sources, "notes": found.notes}))
    else:
        echo(published.render(dataset, frame, found, form))


@main.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--dataset", required=True, help="circo, cirr or fashioniq")
@click.option("--split", required=True, help="the split the files are for")
@data_root_option
@cache_option
@click.option("--name", default="", help="put before the sets' names, to tell two imports apart")
@json_option
def import_(
    files: tuple[Path, ...],
    dataset: str,
    split: str,
    data_root: Path,
    cache: Path,
    name: str,
    as_json: bool,
) -> None:
    """Take the captions and edits that SEIZE and LDRE released (JSON) into the cache.

    Example: seize import test.json --dataset circo --split test --data-root /data; then: seize
    search … --captioner imported:multi_caption_opt --llm imported:multi_gpt-3.5_opt
    """
    from dataclasses import asdict

    from pipeline import datasets, released
    from pipeline.run import dump

    loaded = datasets.load(dataset, split, data_root, follow_links=True)  # opens no image
    sets = released.import_files(loaded, files, cache, name and f"{name}-")
    if as_json:
        echo(dump([asdict(found) for found in sets]))
        return
    for found in sets:
        lacking = f", {len(found.missing)} queries lack it" if found.missing else ""
        option = "--captioner" if found.stage == "caption" else "--llm"
        echo(
            f"{found.texts} texts of {found.queries} queries{lacking}: use {option} "
            f"{released.IMPORTED}{found.name}"
        )


@main.command(cls=Stage)
@run_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="folder for the annotation files with the texts added",
)
@json_option
def export(run: Any, out: Path, as_json: bool) -> None:
    """Write the run's captions and edits in the JSON shape that SEIZE and LDRE released.

    Example: seize export --dataset circo --split val --data-root /data --out exported
    """
    from pipeline import released
    from pipeline.run import dump

    files = [str(file) for file in released.export(run, out)]
    echo(dump(files) if as_json else "\n".join(files))


@main.command("plan", cls=Stage)
@run_options
@json_option
def plan_(run: Any, as_json: bool) -> None:
    """Say how much a run is before it is run: captions, prompts, tokens, images, disk.

    What the cache holds already is counted. Loads no model; figures that are estimates or upper
    bounds say so.

    Example: seize plan --dataset circo --split test --data-root /data --config paper-l14
    """
    from pipeline import plan
    from pipeline.run import dump

    lines = plan.plan(run)
    if as_json:
        echo(dump({"run": run.name, "lines": [line.as_json() for line in lines]}))
    else:
        echo(plan.render(run, lines))


@main.command()
@click.option("--dataset", help="circo, cirr or fashioniq: look at its files too")
@click.option("--split", help="one split of it; all by default")
@data_root_option
@preset_option
@cache_option
@click.option("--load", is_flag=True, help="load every local model too, which takes its memory")
@override_options
@json_option
def doctor(
    dataset: str | None,
    split: str | None,
    data_root: Path,
    preset: str,
    cache: Path,
    load: bool,
    overrides: dict[str, Any],
    as_json: bool,
) -> None:
    """Check everything that a run needs, and say what to do where something is wrong.

    Packages, device, model files, servers, the dataset's annotations and images, cache and free
    disk. Computes nothing and leaves nothing behind. Exit code 0 if a run can start, else 1.

    Example: seize doctor --config laptop --dataset circo --data-root /data
    """
    from pipeline import doctor as checks

    patient = checks.Patient(preset, overrides, dataset, split, data_root, cache, load)
    findings = []
    for finding in checks.examine(patient):
        findings.append(finding)
        if not as_json:
            echo(finding.render())
    usable = checks.usable(findings)
    if as_json:
        from pipeline.run import dump

        echo(dump({"usable": usable, "findings": [each.as_json() for each in findings]}))
    else:
        count = sum(finding.status == "problem" for finding in findings)
        echo("A run can start." if usable else f"Problems: {count}. See -> for what to do.")
    click.get_current_context().exit(0 if usable else 1)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="stay, and index again whenever a file changes")
@gallery_options
@json_option
def index(folder: Path, watch: bool, settings: Any, cache: Path, as_json: bool) -> None:
    """Embed the images of a folder tree, to be searched with `query` and `app`.

    Only new and changed images are embedded; removed ones are dropped, renamed ones and copies cost
    nothing. Hidden files and links that leave the folder are left out.

    Example: seize index photos --config laptop --watch
    """
    from pipeline import folder as folders

    opened = folders.open_folder(folder, settings, cache)
    if watch:
        folders.watch(opened, lambda report: print_reports([report], as_json))
    else:
        print_reports([folders.index(opened)], as_json)


@main.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("relative_caption")
@click.option(
    "--gallery",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    help="the folder to search, after `seize index`",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="write an HTML page")
@click.option("--open", "shown", is_flag=True, help="write the page and open it in the browser")
@gallery_options
@json_option
def query(
    image: Path,
    relative_caption: str,
    folder: Path,
    out: Path | None,
    shown: bool,
    settings: Any,
    cache: Path,
    as_json: bool,
) -> None:
    """Find the images of a folder that look like IMAGE, changed as RELATIVE_CAPTION says.

    Captions and edits are kept, so the same question again calls no model; nor do other weights or
    another method.

    Example: seize query dog.jpg "is on a beach at night" --gallery photos --top-k 10 --open
    """
    from pipeline.gallery import Gallery
    from pipeline.run import dump

    result = Gallery(folder, settings, cache).query(image, relative_caption)
    if out is None and shown:
        out = Path("outputs/query.html")
    if out is not None:
        result.write_page(out)
    if as_json:
        echo(dump(result.as_json() | {"page": out and str(out)}))
    else:
        print_result(result)
        if out is not None:
            echo(f"  {out}")
    if out is not None and shown:
        click.launch(out.resolve().as_uri())


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen at")
@click.option("--port", default=8765, show_default=True, help="0 takes any that is free")
@click.option(
    "--allow-host",
    "names",
    multiple=True,
    metavar="NAME",
    help="a name of this machine that the page may be reached by, besides addresses and localhost",
)
@click.option("--max-upload", default=20, show_default=True, help="MiB of an uploaded image")
@click.option("--max-pixels", default=50, show_default=True, help="megapixels of one")
@click.option("--queries", default=4, show_default=True, help="queries worked on at a time")
@click.option("--waiting", default=100, show_default=True, help="queries that may wait")
@click.option("--open", "shown", is_flag=True, help="open the page in the browser")
@gallery_options
def app(
    folder: Path,
    host: str,
    port: int,
    names: tuple[str, ...],
    max_upload: int,
    max_pixels: int,
    queries: int,
    waiting: int,
    shown: bool,
    settings: Any,
    cache: Path,
) -> None:
    """Serve a page on this machine to search a folder by image and text, turn by turn.

    It is for the people of this machine: with --host 0.0.0.0 everyone on the network can see the
    folder's images and use the models.

    Example: seize app photos --config laptop --open
    """
    import asyncio

    from pipeline import app as page
    from pipeline.gallery import Gallery

    gallery = Gallery(folder, settings, cache)
    limits = page.Limits(max_upload << 20, max_pixels * 1_000_000, queries, waiting)
    made = page.make_app(gallery, limits, frozenset(names))
    count = len(gallery)

    def ready(address: str) -> None:
        echo(f"{folder} ({count:,} images) is served at {address}; Ctrl-C ends it.")
        if shown:
            click.launch(address)

    with contextlib.suppress(KeyboardInterrupt):  # as it starts or ends
        asyncio.run(page.serve(made, host, port, ready))
    echo("Stopped. What was computed is kept.", err=True)
    leave(STOPPED)


@main.command("run", cls=Stage)
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

    from pipeline import profile as profiling
    from pipeline.everything import run_stages

    serving = None
    if model is not None:
        serving = _serving(run, model, vllm_bin, serve_arguments, serve_timeout)
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


@main.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("."),
    show_default=True,
    help="where data/demo, cache, submissions and outputs are made",
)
@override_options
@json_option
def demo(folder: Path, overrides: dict[str, Any], as_json: bool) -> None:
    """Run all stages on a small rendered world with the models of this repository.

    The first run renders the world; a second one reuses the cache.
    """
    from tabulate import tabulate

    from pipeline.demo.run import run_demo

    result = run_demo(folder, config.load("demo", overrides))
    if as_json:
        from pipeline.run import dump

        echo(dump(result))
        return
    print_metrics(result["metrics"], False)
    echo("\nSEIZE, with the best lever without further calls, and verified. In percent, with the")
    echo("difference against SEIZE and its 95 % interval; calls and ms by benchmark):\n")
    echo(tabulate(result["levers"], headers="keys", disable_numparse=True))
    echo("\nSubmission files:")
    for file in result["submissions"]:
        echo(f"  {file}")
    echo(f"Contact sheet:\n  {result['contact_sheet']}")
    echo(f"Next, for instance, a weaker increment:\n  {_program()} {result['next']}")


def _program() -> str:
    """Return how to call this program from here, whether or not its environment is active."""
    return os.path.relpath(Path(sys.executable).parent / "seize")


@main.group("config")
def config_group() -> None:
    """List the presets, or print one in full."""


@config_group.command("list")
@json_option
def config_list(as_json: bool) -> None:
    """List the presets and what each needs."""
    loaded = {name: config.load(name) for name in config.presets()}
    if as_json:
        from pipeline.run import dump

        echo(dump({n: {"description": c.description, "needs": c.needs} for n, c in loaded.items()}))
        return
    for name, preset in loaded.items():
        echo(f"{name}\n    {preset.description}\n    Needs: {preset.needs.strip()}")


@config_group.command("show")
@click.argument("preset")
@override_options
@json_option
def config_show(preset: str, overrides: dict[str, Any], as_json: bool) -> None:
    """Print PRESET (or a YAML file) with every field, as YAML that --config takes."""
    settings = config.load(preset, overrides)
    if as_json:
        from pipeline.run import dump

        echo(dump(settings.model_dump()))
    else:
        text = yaml.safe_dump(settings.model_dump(), sort_keys=False, allow_unicode=True)
        echo(text.rstrip())


@main.group("prompts")
def prompts_group() -> None:
    """List the prompts, or show one as the LLM sees it."""


@prompts_group.command("list")
@json_option
def prompts_list(as_json: bool) -> None:
    """List the prompts of the prompts/ folder: of the edit stage, and of verify/."""
    from pipeline.verifiers import prompts as questions

    loaded: dict[str, Any] = {name: prompts.load(name) for name in prompts.names()}
    loaded |= {f"verify/{name}": questions.load(name) for name in questions.names()}
    if as_json:
        from pipeline.run import dump

        echo(dump({name: prompt.description for name, prompt in loaded.items()}))
        return
    for name, prompt in loaded.items():
        echo(f"{name}\n    {prompt.description}\n    Source: {prompt.source.strip()}")


@prompts_group.command("show")
@click.argument("name")
@click.option("--caption", default="a brown dog lying on a sofa", show_default=True)
@click.option("--relative-caption", default="is running on a beach", show_default=True)
@json_option
def prompts_show(name: str, caption: str, relative_caption: str, as_json: bool) -> None:
    """Render the prompt NAME (or a YAML file) with a sample caption and relative caption.

    A prompt of the verify stage is named verify/NAME; the caption stands for the edited caption.
    """
    from pipeline.verifiers import prompts as questions

    if name.startswith("verify/"):
        prompt = questions.load(name.removeprefix("verify/"))
        images = [{"type": "text", "text": f"({kind} image)"} for kind in prompt.images]
        messages = prompt.messages(images, caption, relative_caption)
        messages[-1]["content"] = "\n".join(part["text"] for part in messages[-1]["content"])
    else:
        messages = prompts.load(name).messages(caption, relative_caption)
    if as_json:
        from pipeline.run import dump

        echo(dump(messages))
        return
    for message in messages:
        echo(f"[{message['role']}]\n{message['content']}\n")


@prompts_group.command("try")
@click.argument("name")
@click.option(
    "--image", type=click.Path(path_type=Path, dir_okay=False), help="the captioner describes it"
)
@click.option("--caption", "text_of_image", help="instead of --image: a caption of yours")
@click.option("--text", "relative_caption", required=True, help="the relative caption")
@click.option("--concept", default="", help="the shared concept, if the prompt uses it")
@preset_option
@override_options
@json_option
def prompts_try(
    name: str,
    image: Path | None,
    text_of_image: str | None,
    relative_caption: str,
    concept: str,
    preset: str,
    overrides: dict[str, Any],
    as_json: bool,
) -> None:
    """Ask the LLM with prompt NAME about one image: show what is asked, and raw and clean answers.

    Example: seize prompts try seize --image dog.jpg --text "is running on a beach" --captions 3
    """
    from pipeline.edit import try_prompt

    if (image is None) == (text_of_image is None):
        raise click.UsageError("Give either --image or --caption.")
    settings = config.load(preset, overrides | {"llm.prompt": name})
    tries = try_prompt(settings, image, text_of_image, relative_caption, concept)
    if as_json:
        from pipeline.run import dump

        echo(dump(tries))
        return
    for one in tries:
        for message in one["messages"]:
            echo(f"[{message['role']}]\n{message['content']}\n")
        echo(f"[raw answer]\n{one['raw']}\n")
        echo(f"[edited caption]\n{one['edited_caption'] or 'none: ' + one['reason']}\n")
        for role in prompts.ROLES if one["roles"] else ():
            echo(f"[{role}]\n" + "\n".join(one["roles"][role]) + "\n")
