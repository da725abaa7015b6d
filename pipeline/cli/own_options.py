"""The options of the commands on one's own images."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import alpha_options, given_options
from pipeline.cli.overrides import INDEX, QUERY, override_options
from pipeline.cli.registered import complete_preset

SHOWN = 10
"""Images that commands on one's own images show by default."""

own_cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="where features and answers are kept; SEIZE_CACHE, or a folder of yours, by default",
)

own_config_option = click.option(
    "--config",
    "preset",
    metavar="PRESET|FILE",
    shell_complete=complete_preset,
    help="preset (see `seize config list`) or YAML file; by default SEIZE_CONFIG, seize.yaml in "
    "or beside the folder, what the folder was indexed with, your own seize.yaml, or laptop",
)

attributes_option = click.option(
    "--attributes",
    type=click.Path(path_type=Path, dir_okay=False),
    help="a CSV with the columns path and others, for --where; else the folder's attributes.csv",
)

where_option = click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="only images that meet it, as in folder=summer, taken>=2024-05, width>=1000, make~nikon, "
    "'price<50' (quote < and >); operators = != < <= > >= ~ (contains) !~; * and ? in values; "
    "fields folder, name, taken, width, height, orientation, bytes, make, model, lens, iso, text "
    "and attributes; repeatable, all are to be met",
)


def index_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of indexing one's own images; hand on ``settings``, ``cache``, ``remember``.

    ``remember`` keeps what was named, once it was of use.
    """

    @functools.wraps(function)
    def wrapper(
        folder: Path,
        preset: str | None,
        cache: Path | None,
        overrides: dict[str, Any],
        **values: Any,
    ) -> Any:
        own = _own(folder, preset, cache, overrides)
        return function(folder=folder, **own, **values)

    return own_config_option(own_cache_option(override_options(wrapper, INDEX)))


def query_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of querying one's own images; hand on ``named``, ``cache``, ``remember``.

    And ``given``, which repeats the options that ``seize index`` takes too.
    """

    @functools.wraps(function)
    def wrapper(
        folder: Path,
        preset: str | None,
        cache: Path | None,
        alpha_pos: float | None,
        alpha_neg: float | None,
        overrides: dict[str, Any],
        **values: Any,
    ) -> Any:
        from pipeline.own.quick import Named

        own = _own(folder, preset, cache, {"search.top_k": SHOWN} | overrides)
        named = Named(own.pop("settings"), tuple(overrides), alpha_pos, alpha_neg)
        given = given_options(index_options)
        return function(folder=folder, named=named, given=given, **own, **values)

    decorated: Callable[..., Any] = override_options(wrapper, QUERY)
    for option in reversed((own_config_option, *alpha_options, own_cache_option)):
        decorated = option(decorated)
    return decorated


def _own(
    folder: Path, preset: str | None, cache: Path | None, overrides: dict[str, Any]
) -> dict[str, Any]:
    """Return the settings and cache of one's own folder, and how to keep what was named."""
    from pipeline.own import settings

    place = settings.cache_folder(cache)
    return {
        "settings": settings.load(folder, preset, place, overrides),
        "cache": place,
        "remember": functools.partial(settings.remember, folder, preset, place, overrides),
    }
