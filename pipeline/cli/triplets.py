"""The commands about triplets: files of others read and written, and what a file holds."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import Grouped, cache_option, json_option, preset_option
from pipeline.cli.overrides import CLIP, LLM, override_options
from pipeline.cli.serving import serve_option, serving, vllm_options, writing_with
from pipeline.errors import InputError
from pipeline.printable import echo, one_line

if TYPE_CHECKING:
    from pipeline.datasets.triplets import Triplet

_file = click.Path(path_type=Path)
_out = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="the file"
)


@click.group()
def triplets() -> None:
    """Read and write triplets: reference, text and target, one a line (docs/synthesize.md)."""


@triplets.command("import")
@click.argument("files", nargs=-1, required=True, type=_file)
@click.option("--format", "form", help="cirr, facap, fashioniq, finecir, mtst or transagg")
@click.option("--category", help="the category of all of them, e.g. dress")
@_out
@json_option
def import_(
    files: tuple[Path, ...], form: str | None, category: str | None, out: Path, as_json: bool
) -> None:
    """Turn files of FACap, MTST, FineCIR, TransAgg, FashionIQ or CIRR into triplets.

    The shape is told by the first entry, where --format does not. A malformed entry is named by
    file, line and key.

    Example: seize triplets import dress_train_triplets.json --category dress --out dress.jsonl
    """
    from pipeline.datasets import exchange
    from pipeline.datasets import triplets as records

    found = [one for file in files for one in exchange.read(file, form, category)]
    records.write(out, found)
    _print(out, found, as_json)


@triplets.command("export")
@click.argument("file", type=_file)
@click.option(
    "--format",
    "form",
    type=click.Choice(["fashioniq", "cirr", "transagg", "transagg-list"]),
    required=True,
)
@_out
@json_option
def export(file: Path, form: str, out: Path, as_json: bool) -> None:
    """Write triplets in the shape of FashionIQ's, CIRR's or TransAgg's files.

    Those without a target image have no place there: they are left out, and counted.

    Example: seize triplets export triplets.train.jsonl --format fashioniq --out cap.mine.train.json
    """
    from pipeline.datasets import exchange
    from pipeline.datasets import triplets as records
    from pipeline.run import dump
    from pipeline.store.files import write_json

    found = records.read(file)
    kept = [one for one in found if one.target]
    if not kept:
        raise InputError(f"{file} holds no triplet with a target image.")
    write_json(out, exchange.EXPORTS[form](kept))
    without = len(found) - len(kept)
    if as_json:
        echo(dump({"file": str(out), "triplets": len(kept), "without_target": without}))
    else:
        left = f"; {without:,} without a target image were left out" if without else ""
        echo(f"{len(kept):,} triplets -> {out}{left}")


@triplets.command(cls=Grouped)
@click.argument("file", type=_file)
@click.option("--limit", type=click.IntRange(0, 1_000_000), default=3, help="triplets to print")
@click.option("--context", is_flag=True, help="load the encoder, and count the texts it would cut")
@preset_option
@functools.partial(override_options, chosen_options=CLIP)
@json_option
def show(
    file: Path, limit: int, context: bool, preset: str, overrides: dict[str, Any], as_json: bool
) -> None:
    """Say what a file of triplets holds: counts, who wrote them, lengths, and the first few.

    Example: seize triplets show triplets.train.jsonl --limit 10
    """
    from pipeline.datasets import triplets as records

    found = records.read(file)
    if not found:
        raise InputError(f"{file} holds no triplet.")
    more = {}
    if context:
        from pipeline import config
        from pipeline.models import encoders

        settings = config.load(preset, overrides)
        encoder = encoders.load(settings.encoder, settings.runtime)
        more["longer_than_context"] = len(encoder.too_long([one.text for one in found]))
    _print(file, found, as_json, limit, more)


@triplets.command(cls=Grouped)
@click.argument("file", type=_file)
@click.option("--prompt", default="fine", show_default=True, help="fine, short or a YAML file")
@click.option(
    "--words", type=click.IntRange(1, 100_000), default=40, help="of a short text at most"
)
@click.option(
    "--longer-than",
    type=click.IntRange(0, 1_000_000),
    default=0,
    help="words from which on a text is rewritten; all by default",
)
@serve_option("to write with")
@vllm_options
@click.option("--retry-failed", is_flag=True, help="try again what failed before")
@_out
@preset_option
@functools.partial(override_options, chosen_options=LLM)
@cache_option
@json_option
def rewrite(
    file: Path,
    prompt: str,
    words: int,
    longer_than: int,
    model: str | None,
    retry_failed: bool,
    out: Path,
    preset: str,
    overrides: dict[str, Any],
    cache: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Let the LLM tell each text at length (fine), or shorter than an encoder's context (short).

    A long text that was shortened stays beside the short one. One that failed is as it was, and
    counted.

    Example: seize triplets rewrite long.jsonl --prompt short --longer-than 50 --out short.jsonl
    """
    from pipeline import config
    from pipeline.datasets import triplets as records

    served = None if model is None else serving(cache, model, **options)
    found = records.read(file)
    settings = config.load(preset, writing_with(model, overrides))
    from pipeline.run import dump
    from pipeline.stages import rewriting, writing

    writer = writing.check(settings, prompt)
    made, report = rewriting.rewrite(
        file, found, writer, cache, words, longer_than, retry_failed, served
    )
    records.write(out, made)
    if as_json:
        echo(dump({"file": str(out), "triplets": len(made), "stages": [report.as_json()]}))
    else:
        echo(f"{len(made):,} triplets -> {out}; {len(report.failed):,} texts failed")


def _print(
    file: Path,
    found: Sequence["Triplet"],
    as_json: bool,
    limit: int = 0,
    more: Mapping[str, int] | None = None,
) -> None:
    summary = _summary(found) | dict(more or {})
    if as_json:
        from pipeline.run import dump

        shown = [one.as_json() for one in found[:limit]]
        echo(dump({"file": str(file)} | summary | ({"first": shown} if shown else {})))
        return
    echo(f"{file}: {summary.pop('triplets'):,} triplets")
    for name, value in summary.items():
        told = value
        if isinstance(value, dict):
            told = ", ".join(f"{count:,} by {one_line(who)}" for who, count in value.items())
        echo(f"  {name.replace('_', ' ')}: {told}")
    for one in found[:limit]:
        target = one.target or f"({one.target_caption})"
        echo(one_line(f"{one.reference} + {one.text!r} -> {target}"))


def _summary(found: Sequence["Triplet"]) -> dict[str, Any]:
    """Return counts of what triplets hold; lengths are words of the modification text."""
    words = sorted(len(one.text.split()) for one in found)
    having = {
        f"with_{name}": sum(getattr(one, name) is not None for one in found)
        for name in ("target", "target_caption", "source_caption", "text_reverse", "text_fine")
    }
    return {
        "triplets": len(found),
        "references": len({one.reference for one in found}),
        "texts": len({one.text for one in found}),
        **having,
        "median_words": words[len(words) // 2],
        "most_words": words[-1],
        "written": dict(Counter(_writer(one) for one in found)),
    }


def _writer(one: "Triplet") -> str:
    prompt = f", prompt {one.prompt_version}" if one.prompt_version else ""
    return (one.generator or "unknown") + prompt


COMMANDS = (triplets,)
