"""The options that commands share."""

import functools
import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline import config
from pipeline.cli.numbers import Finite
from pipeline.cli.overrides import GROUPS, FieldOption, override_options
from pipeline.cli.registered import complete_device, complete_preset, dataset_option

log = logging.getLogger("seize")

data_root_option = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    help="the benchmark's folder, or the one that holds it",
)

cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path("cache"),
    show_default=True,
    help="where stages keep their output",
)

preset_option = click.option(
    "--config",
    "preset",
    metavar="PRESET|FILE",
    shell_complete=complete_preset,
    default=config.DEFAULT,
    show_default=True,
    help="preset (see `seize config list`) or YAML file",
)

on_option = click.option(
    "--on",
    metavar="DEVICE",
    help="tell times and memory for a GPU of the table, e.g. h100, a100, l4, t4; cpu",
    shell_complete=complete_device,
)

alpha_options = (
    click.option("--alpha-pos", type=Finite(), help="α⁺, weight of a positive increment"),
    click.option("--alpha-neg", type=Finite(), help="α⁻, weight of a negative increment"),
)


def run_options(
    function: Callable[..., Any],
    defaults: dict[str, Any] | None = None,
    adapt: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None = None,
) -> Callable[..., Any]:
    """Add the options of every stage and hand them on as a ready ``Run``.

    ``defaults`` are fields that this command sets where neither option nor --set does; ``adapt``
    returns the fields that options set as this command means them, by its own options' values.
    """

    @functools.wraps(function)
    def wrapper(
        preset: str,
        dataset: str,
        split: str | None,
        data_root: Path,
        cache: Path,
        submissions: Path,
        limit: int | None,
        alpha_pos: float | None,
        alpha_neg: float | None,
        overrides: dict[str, Any],
        **values: Any,
    ) -> Any:
        from pipeline import datasets
        from pipeline.run import Run

        overrides = (defaults or {}) | (adapt(overrides, values) if adapt else overrides)
        settings = config.load(preset, overrides)
        split = split or datasets.find(dataset).splits[0]
        follow_links = settings.runtime.follow_links
        loaded = datasets.load(dataset, split, data_root, settings.dataset.gallery, follow_links)
        if limit is not None:
            loaded.limit(limit)
        from pipeline.retrieval import methods

        settings = methods.with_increment(settings, dataset, alpha_pos, alpha_neg)
        methods.check(settings, tuple(datasets.known()))
        run = Run(loaded, settings, cache, submissions, given_options(run_options))
        return function(run, **values)

    options = [
        dataset_option(),
        click.option("--split", help="of the benchmark; its first one (val) by default"),
        data_root_option,
        preset_option,
        click.option(
            "--limit",
            type=click.IntRange(1, 1_000_000_000),
            help="first N queries (of each category) only, for a trial",
        ),
        *alpha_options,
        cache_option,
        click.option(
            "--submissions",
            type=click.Path(path_type=Path),
            default=Path("submissions"),
            show_default=True,
            help="where submission files go",
        ),
    ]
    decorated: Callable[..., Any] = override_options(wrapper)
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


Options = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Adds options to a command."""


def given_options(known: Options) -> str:
    """Return those of the user's options that ``known`` adds, as they were given.

    They belong to the command that an error recommends, which has them too.
    """
    context = click.get_current_context()
    parser = context.command.make_parser(context)
    values, _, order = parser.parse_args(list(context.meta["arguments"]))
    repeated = {name: iter(value) for name, value in values.items() if isinstance(value, list)}
    words: list[str] = []
    for option in order:
        name = option.name
        if name not in _names(known):
            continue
        words.append(option.opts[0])
        if not getattr(option, "is_flag", False):
            words.append(str(next(repeated[name]) if name in repeated else values[name]))
    return shlex.join(words)


@functools.cache
def _names(known: Options) -> set[str]:
    decorated: Any = known(lambda: None)
    return {option.name for option in decorated.__click_params__}


json_option = click.option("--json", "as_json", is_flag=True, help="print the result as JSON")


format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "csv", "markdown", "latex"]),
    default="text",
    show_default=True,
)


class Grouped(click.Command):
    """Shows the options of a configuration's fields in groups, behind its own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options: the command's own, then those of each group."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        groups |= {title: [] for title in GROUPS.values()}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and not isinstance(parameter, click.Argument):
                title = parameter.title if isinstance(parameter, FieldOption) else "Options"
                groups[title].append(record)
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Stage(Grouped):
    """Remembers the arguments as given."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        context.meta["arguments"] = list(args)
        return super().parse_args(context, args)
