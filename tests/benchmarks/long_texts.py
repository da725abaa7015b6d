"""What becomes of texts too long for the encoder: ``python -m tests.benchmarks.long_texts``.

The demo's CIRCO queries with their changes told at length: cut, read in parts and averaged, or made
short by the demo's LLM, beside the short texts that they have. Run ``make demo`` first.
"""

import random
import shutil
import tempfile
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path

import click
from tabulate import tabulate

from pipeline import config, datasets
from pipeline.config import Config
from pipeline.datasets.triplets import Triplet
from pipeline.demo import build, differences
from pipeline.demo.world import Scene
from pipeline.models import encoders
from pipeline.run import Run
from pipeline.stages import caption, rewriting, search, writing
from pipeline.stages.everything import run_stages
from tests import documents

METHODS = ("text", "image+text", "seize")


def scenes() -> dict[str, Scene]:
    """Return what each of the demo's CIRCO images shows, by its id."""
    with tempfile.TemporaryDirectory() as folder:
        made = build._circo(Path(folder), random.Random(0), build.Sizes())
        return {str(int(file.stem)): scene for file, scene, _ in made}


def row(run: Run, texts: Mapping[str, str], settings: Config, home: Path) -> dict[str, str]:
    """Return the first metric of each method on queries with other texts, in a cache of its own."""
    dataset = copy(run.dataset)
    dataset.queries = [replace(q, relative_captions=(texts[q.id],)) for q in run.queries]
    made = Run(dataset, settings, home / "cache", home / "submissions")
    for file in (caption.record_file(run).file, *(run.cache / "circo").rglob("*.safetensors")):
        place = made.cache / file.relative_to(run.cache)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    found = {}
    for name in METHODS:
        run_stages(made.with_method(name))
        lists = dataset.predictions(search.read(made.with_method(name)))
        found[f"`{name}`"] = f"{dataset.evaluate(lists)[dataset.headline]:.2f}"
    return found


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("."))
@click.option("--limit", type=int, default=100, show_default=True, help="queries")
@click.option("--write", is_flag=True, help="put the table into docs/, too")
def main(folder: Path, limit: int, write: bool) -> None:
    """Print a table in Markdown: the first metric by what is done with long texts."""
    settings = config.load("demo")
    loaded = datasets.load("circo", "val", folder / "data" / "demo")
    loaded.limit(limit)
    run = Run(loaded, settings, folder / "cache", folder / "submissions")
    run_stages(run.with_method("seize"))
    shown = scenes()
    long = {
        q.id: differences.at_length(shown[q.reference], shown[q.target or ""]) for q in run.queries
    }
    encoder = encoders.load(settings.encoder, settings.runtime)
    cut = len(encoder.too_long(list(long.values())))
    writer = writing.Writer.of(settings, "demo-short")
    given = [Triplet(reference="x", target="y", text=text) for text in long.values()]
    rewritten, report = rewriting.rewrite(Path("long"), given, writer, run.cache, 12)
    short = dict(zip(long, (one.text for one in rewritten), strict=True))
    parted = config.load("demo", {"clip.long_texts": "segments"})
    variants: dict[str, tuple[Mapping[str, str], Config]] = {
        "the queries' own short texts": (
            {q.id: q.relative_captions[0] for q in run.queries},
            settings,
        ),
        "long, cut": (long, settings),
        "long, in parts, averaged": (long, parted),
        "long, made short by the LLM": (short, settings),
    }
    lines = []
    for name, (texts, used) in variants.items():
        words = sum(len(text.split()) for text in texts.values()) / len(texts)
        with tempfile.TemporaryDirectory() as home:
            made = row(run, texts, used, Path(home))
        lines.append({"texts": name, "mean words": f"{words:.1f}"} | made)
    text = (
        tabulate(lines, "keys", "github", disable_numparse=True)
        + f"\n\n{run.name}, {len(run.queries)} queries, {loaded.headline}, percent. {cut} of the "
        f"long texts exceed the encoder's context; {len(report.failed)} could not be made short."
    )
    click.echo(text)
    if write:
        documents.fill("long-texts", text)


if __name__ == "__main__":
    main()
