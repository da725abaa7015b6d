"""The commands that read and write files of others: submissions, features, texts, weights of φ."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.cli.numbers import Finite
from pipeline.cli.options import Stage, cache_option, data_root_option, json_option, run_options
from pipeline.cli.registered import complete_dataset, dataset_option
from pipeline.printable import echo

SHOWN = 20
"""Errors of a file that are printed; the rest is counted."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dataset", required=True, help="circo or cirr", shell_complete=complete_dataset)
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
        for reason in found.errors[:SHOWN]:
            echo(f"Error: {reason}")
        if (more := len(found.errors) - SHOWN) > 0:
            echo(f"Error: and {more:,} more, which --json has all")
        if not found.errors:
            echo(f"{file} is a valid submission for {dataset} {split}.")
    click.get_current_context().exit(1 if found.errors else 0)


def _file(text: str, exists: bool = True) -> Callable[..., Any]:
    flag, help_text = text.split(": ")
    kind = click.Path(path_type=Path, exists=exists, dir_okay=False)
    return click.option(flag, type=kind, required=True, help=help_text)


@click.command()
@_file("--composed: features of the edited captions, (queries, d)")
@_file("--content: features of the captions, (queries, d)")
@_file("--gallery: features of the images, (images, d)")
@click.option(
    "--alpha-pos", type=Finite(), required=True, help="α⁺, weight of a positive increment"
)
@click.option(
    "--alpha-neg", type=Finite(), required=True, help="α⁻, weight of a negative increment"
)
@click.option("--top-k", type=click.IntRange(1, 1_000_000), default=50, show_default=True)
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
    from pipeline.retrieval.files import rank_files

    queries, images = rank_files(
        composed, content, gallery, alpha_pos, alpha_neg, top_k, exclude, out, device
    )
    if as_json:
        from pipeline.run import dump

        echo(dump({"queries": queries, "images": images, "out": str(out)}))
    else:
        echo(f"Ranked {images:,} images for {queries:,} queries -> {out}")


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@dataset_option()
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

    from pipeline import datasets
    from pipeline.models.imported import KIND_NAME
    from pipeline.run import dump
    from pipeline.stages import released

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
            f"{KIND_NAME}:{found.name}"
        )


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="phi.safetensors")
@click.option("--half", is_flag=True, help="write float16: half the size")
@json_option
def convert(file: Path, out: Path, half: bool, as_json: bool) -> None:
    """Write the tensors of a released φ as safetensors; no code that FILE holds is run.

    FILE is LinCIR's, SEARLE's or Pic2Word's checkpoint, which load as they are too, or FTI4CIR's
    pickled module, of which the tensors alone are read.

    Example: seize convert model_60.pth --out fti4cir.safetensors; then: seize run --method fti4cir
    --set search.fti4cir.phi=fti4cir.safetensors …
    """
    from pipeline.models.inversion import checkpoints
    from pipeline.run import dump

    found = checkpoints.convert(file, out, half)
    if as_json:
        echo(dump(found | {"out": str(out)}))
    else:
        widths = f"for features of {found['d']} and text tokens of {found['t']}"
        echo(f"{found['method']}, {found['parameters']:,} parameters, {widths} -> {out}")


@click.command(cls=Stage)
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
    from pipeline.run import dump
    from pipeline.stages.export import export as written

    files = [str(file) for file in written(run, out)]
    echo(dump(files) if as_json else "\n".join(files))


COMMANDS = (check, rank, import_, export, convert)
