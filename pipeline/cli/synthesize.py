"""The command that lets an LLM write triplets about images."""

import functools
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import Stage, cache_option, json_option, on_option, preset_option
from pipeline.cli.overrides import CAPTIONER, INDEX, LLM, override_options
from pipeline.cli.serving import serve_option, serving, vllm_options, writing_with
from pipeline.errors import ConfigError
from pipeline.printable import echo


@click.command(cls=Stage)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--dataset", help="a benchmark's gallery, instead of a folder")
@click.option("--split", help="its split; the first by default")
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), help="where")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="folder for the triplets and the list of their images; needed but for --plan",
)
@click.option("--eval", "evaluation", is_flag=True, help="write a val split, to measure methods on")
@click.option(
    "--prompt",
    help="difference, edit (with --eval), another of prompts/synthesize or a YAML file",
)
@click.option("--limit", type=click.IntRange(1, 1_000_000_000), help="reference images, drawn")
@serve_option("to write with")
@vllm_options
@click.option("--retry-failed", is_flag=True, help="try again what failed before")
@click.option("--plan", "plans", is_flag=True, help="say how much it is, as seize plan; do nothing")
@on_option
@preset_option
@functools.partial(override_options, chosen_options=(*CAPTIONER, *LLM, *INDEX, "--follow-links"))
@cache_option
@json_option
def synthesize(
    folder: Path | None,
    dataset: str | None,
    split: str | None,
    data_root: Path,
    out: Path | None,
    evaluation: bool,
    prompt: str | None,
    limit: int | None,
    model: str | None,
    retry_failed: bool,
    plans: bool,
    on: str | None,
    preset: str,
    overrides: dict[str, Any],
    cache: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Write triplets about images that nobody annotated: reference, text and target.

    The images are those of FOLDER, whose subfolders are categories, or of a benchmark's gallery.
    With the prompt difference near neighbours are described and compared, forward and reverse;
    with edit the LLM changes a description, and the image nearest to that is the target. What the
    filters took is counted. --eval makes a validation set, by edit, which compare and tune open.

    Example: seize synthesize photos --eval --limit 300 --config laptop --out catalogue; then:
    seize run --dataset triplets --data-root catalogue --config laptop
    """
    if (folder is None) == (dataset is None):
        raise ConfigError("Give a folder of images, or --dataset with a benchmark's name.")
    if out is None and not plans:
        raise ConfigError("Name the folder for the triplets with --out, or ask for a --plan.")
    if on is not None and not plans:
        raise ConfigError("--on DEVICE is about --plan: add it, or leave --on out.")
    from pipeline import config
    from pipeline.run import dump

    served = None if model is None else serving(cache, model, **options)
    settings = config.load(preset, writing_with(model, overrides))
    if prompt is None and evaluation:
        prompt = settings.synthesize.eval_prompt
    if prompt is not None:
        settings.synthesize.prompt = prompt
    from pipeline.stages import synthesize as stage

    stage.check(settings)
    source = (
        _of_folder(folder, settings, cache, plans)
        if folder is not None
        else _of_dataset(dataset or "", split, data_root, settings, cache)
    )
    if plans or out is None:
        from pipeline.stages import plan, planning

        echo(plan.told(source.run, planning.plan(source, limit), on, as_json))
        return
    split = "val" if evaluation else "train"
    made = stage.synthesize(source, out, split, limit, retry_failed, served)
    echo(dump(made.as_json()) if as_json else made.summary())


def _of_folder(folder: Path, settings: Any, cache: Path, planned: bool) -> Any:
    from pipeline.own import checks, folder as folders  # noqa: I001 - one line

    checks.images(folder, settings)
    from pipeline.own import catalogue

    of = catalogue.planned if planned else catalogue.of_folder
    return of(folders.open_folder(folder, settings, cache), Path("submissions"))


def _of_dataset(name: str, split: str | None, root: Path, settings: Any, cache: Path) -> Any:
    from pipeline import datasets
    from pipeline.run import Run
    from pipeline.stages.synthesize import of_dataset

    split = split or datasets.find(name).splits[0]
    loaded = datasets.load(
        name, split, root, settings.dataset.gallery, settings.runtime.follow_links
    )
    return of_dataset(Run(loaded, settings, cache, Path("submissions")))


COMMANDS = (synthesize,)
