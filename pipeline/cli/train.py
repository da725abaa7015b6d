"""The commands that train what inversion needs."""

import functools
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import (
    CLIP,
    FiniteRange,
    json_option,
    log,
    override_options,
    preset_option,
)
from pipeline.errors import InputError
from pipeline.printable import echo

NAME = "train"
MOST = 1_000_000_000


@click.group(NAME)
def train() -> None:
    """Train a network φ for textual inversion."""


@train.command()
@click.option(
    "--texts",
    type=click.Path(path_type=Path),
    required=True,
    help="one text a line, or JSON lines with `text` or `captions`, as a caption stage's file",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="the weights: phi.safetensors"
)
@click.option("--steps", type=click.IntRange(1, MOST), default=20_000, show_default=True)
@click.option(
    "--batch",
    type=click.IntRange(1, 1_000_000),
    default=512,
    show_default=True,
    help="texts a step",
)
@click.option(
    "--rate", type=FiniteRange(min=0, min_open=True, max=1_000), default=1e-4, show_default=True
)
@click.option("--weight-decay", type=FiniteRange(min=0, max=1_000), default=0.01, show_default=True)
@click.option("--warmup", type=click.IntRange(0, MOST), default=0, show_default=True, help="steps")
@click.option(
    "--noise-scale",
    type=FiniteRange(min=0, max=1_000_000),
    default=1.0,
    show_default=True,
    help="of the noise on a text's feature; 1 as published, for CLIP's own lengths",
)
@click.option(
    "--dropout", type=FiniteRange(min=0, max=1, max_open=True), default=0.5, show_default=True
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option(
    "--masking",
    type=click.Choice(["auto", "spacy", "words"]),
    default="auto",
    show_default=True,
    help="keywords by spaCy's en_core_web_sm, or all but function words; auto: by what is there",
)
@click.option(
    "--every",
    type=click.IntRange(1, MOST),
    default=1000,
    show_default=True,
    help="steps between checkpoints",
)
@click.option("--half", is_flag=True, help="write float16: half the size")
@preset_option
@functools.partial(override_options, chosen_options=CLIP)
@json_option
def lincir(
    texts: Path,
    out: Path,
    half: bool,
    preset: str,
    overrides: dict[str, Any],
    as_json: bool,
    **chosen: Any,
) -> None:
    """Train LinCIR's φ for the encoder from texts alone; a stopped training resumes.

    Checkpoints by step, the curve of the loss and training.json are beside --out, in a folder of
    its name that ends in .training. A text's feature is to be found again from the text in which
    the pseudo-word stands for its keywords. Validate several checkpoints: large encoders overfit.

    Example: seize train lincir --texts captions.txt --config paper-l14 --out phi.safetensors
    """
    if not texts.is_file():
        raise InputError(f"--texts {texts} is no file.")
    from pipeline import config

    settings = config.load(preset, overrides)
    from dataclasses import asdict

    from pipeline.models.inversion import corpus, towers, training
    from pipeline.models.training import loop
    from pipeline.run import dump
    from pipeline.stages import embeddings

    found = corpus.read(texts)
    log.info(
        "[train lincir] %s texts of %s (%s)",
        f"{len(found.texts):,}",
        texts,
        corpus.said(found.left_out),
    )
    wanted = training.Settings(**chosen)
    loop.check(wanted, len(found.texts), out, "texts")
    clip = towers.load(settings.clip, settings.runtime)
    identity = embeddings.identity(settings)
    done = training.train(clip.model, clip.tokenizer, identity, found, out, wanted, half)
    if as_json:
        left_out = dict(found.left_out)
        echo(dump(asdict(done) | {"file": str(done.file), "left_out": left_out}))
    else:
        loss = "" if done.loss is None else f", loss {done.loss:.5f}"
        echo(f"{done.file}: {done.steps:,} steps, {done.computed:,} of them now{loss}")


COMMANDS = (train,)
