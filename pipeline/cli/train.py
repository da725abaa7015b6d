"""`seize train`: a command a recipe, with the options that its settings and data declare."""

from __future__ import annotations

import types
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import click
from click.core import ParameterSource

from pipeline import recipes
from pipeline.cli.numbers import FiniteRange
from pipeline.cli.options import (
    Grouped,
    cache_option,
    data_root_option,
    json_option,
    log,
    preset_option,
)
from pipeline.cli.overrides import CLIP, override_options
from pipeline.errors import ConfigError
from pipeline.printable import echo

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from pipeline.models.training.loop import Trained
    from pipeline.recipes.base import Recipe

NAME = "train"
OVERRIDES = (*CLIP, "--workers", "--follow-links")


class Recipes(click.Group):
    """A command for every recipe there is."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of all recipes."""
        return sorted({*super().list_commands(context), *recipes.names()})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return the command of that name, if there is one."""
        if (found := super().get_command(context, name)) is not None:
            return found
        return command(recipes.find(name)) if name in recipes.names() else None


@click.group(NAME, cls=Recipes)
def train() -> None:
    """Train what inverts images to pseudo-words.

    A stopped training resumes, to the same weights on one device. Checkpoints by step,
    losses.jsonl, the curve loss.png and training.json are beside --out, in a folder of its name
    that ends in .training. Several GPUs: accelerate launch -m pipeline train … gives each a batch.
    """


def command(recipe: Recipe) -> click.Command:
    """Return a recipe's command."""

    def run(
        out: Path,
        half: bool,
        training_preset: str | None,
        validate: str | None,
        preset: str,
        overrides: dict[str, Any],
        cache: Path,
        data_root: Path,
        as_json: bool,
        **values: Any,
    ) -> None:
        from pipeline.recipes.base import Given

        sources = {source.name: values.pop(source.name) for source in recipe.sources}
        chosen = {name: value for name, value in values.items() if _given(name)}
        settings = recipe.chosen(chosen, training_preset)
        told = recipe.find_preset(training_preset) if training_preset else None
        if told is not None:
            log.info("[train %s] %s: %s", recipe.name, training_preset, told.source)
            overrides = dict(told.encoder) | overrides
        given = Given(settings, sources, out, preset, overrides, cache, data_root)
        _finish(_train(recipe, given, half, validate), as_json)

    options: list[Any] = [_source(source) for source in recipe.sources]
    options.append(
        click.option(
            "--out", type=click.Path(path_type=Path), required=True, help="the .safetensors file"
        )
    )
    if recipe.presets:
        options.append(_preset_of(recipe))
    fields = recipe.settings.model_fields
    options += [setting(name, field) for name, field in fields.items()]
    if recipe.method:
        options.append(
            click.option(
                "--validate",
                metavar="DATASET:SPLIT",
                help="keep the checkpoint that is best there, e.g. cirr:val",
            )
        )
    options += [
        click.option("--half", is_flag=True, help="write float16: half the size"),
        data_root_option,
        cache_option,
        preset_option,
        lambda function: override_options(function, OVERRIDES),
        json_option,
    ]
    function: Any = _with_defaults(run, recipe)
    for option in reversed(options):
        function = option(function)
    return click.command(recipe.name, cls=Grouped, help=recipe.help)(function)


def _with_defaults(run: Any, recipe: Recipe) -> Any:
    """Return ``run`` for a recipe that lacks some of the options."""
    lacking: dict[str, Any] = {} if recipe.presets else {"training_preset": None}
    lacking |= {} if recipe.method else {"validate": None}

    def called(**values: Any) -> None:
        run(**values, **lacking)

    return called


def _train(recipe: Recipe, given: Any, half: bool, validate: str | None) -> Trained:
    if given.out.suffix != ".safetensors":
        raise ConfigError(
            f"--out {given.out}: weights are written as safetensors; end the name so."
        )
    from pipeline.recipes import validation

    measured = validation.on(recipe, given, validate) if validate else None
    task = recipe.make(given)
    from pipeline.models.training import loop

    return loop.train(task, given.out, given.settings, half, measured)


def _finish(done: Trained, as_json: bool) -> None:
    from pipeline.run import dump

    if as_json:
        echo(dump(asdict(done) | {"file": str(done.file)}))
        return
    loss = "" if done.loss is None else f", loss {done.loss:.5f}"
    best = "" if done.best is None else f"; best at step {done.best:,}: "
    best += "" if done.value is None else f"{done.metric} {done.value:.2f}"
    echo(f"{done.file}: {done.steps:,} steps, {done.computed:,} of them now{loss}{best}")


def _given(name: str) -> bool:
    """Whether the user gave an option; a preset counts before its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not ParameterSource.DEFAULT


def _source(source: Any) -> Any:
    return click.option(
        f"--{source.name}", metavar="PLACE", required=source.required, help=source.help
    )


def _preset_of(recipe: Recipe) -> Any:
    return click.option(
        "--preset",
        "training_preset",
        type=click.Choice(list(recipe.presets)),
        help="published values, and the encoder that they are for; other options override them",
    )


def setting(name: str, field: FieldInfo) -> Any:
    """Return the option of a field of a recipe's settings: its kind, bounds and default."""
    flag = f"--{name.replace('_', '-')}"
    kind = _without_none(field.annotation)
    told: Any = {"default": field.default, "show_default": True, "help": field.description}
    if kind is bool:
        no = f"--no-{name.replace('_', '-')}"
        return click.option(f"{flag}/{no}", name, **told)
    return click.option(flag, name, type=_type(kind, field), **told)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (kind for kind in get_args(annotation) if kind is not type(None))
    return annotation


def _type(kind: Any, field: FieldInfo) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice(list(get_args(kind)))
    if kind not in (int, float):
        return kind
    bounds: dict[str, Any] = {}
    for bound in field.metadata:  # of annotated_types, which pydantic uses
        for name, side, is_open in (
            ("ge", "min", False), ("gt", "min", True), ("le", "max", False), ("lt", "max", True)
        ):  # fmt: skip
            if (value := getattr(bound, name, None)) is not None:
                bounds |= {side: value} | ({f"{side}_open": True} if is_open else {})
    return click.IntRange(**bounds) if kind is int else FiniteRange(**bounds)


COMMANDS = (train,)
