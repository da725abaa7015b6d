"""Options whose help lists what there is: what is registered here and by installed packages."""

from collections.abc import Callable
from typing import Any

import click

from pipeline.errors import SeizeError


class DatasetOption(click.Option):
    """``--dataset``: its help names every benchmark there is, looked up when it is shown."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option and its help."""
        from pipeline import datasets

        try:
            listed = datasets.names()
        except SeizeError as error:  # a package that cannot be imported; help is shown all the same
            listed = str(error)
        given, self.help = self.help, f"{listed}{self.help or ''}"
        try:
            return super().get_help_record(ctx)
        finally:
            self.help = given


def dataset_option(required: bool = True, ending: str = "") -> Callable[[Any], Any]:
    """Return the option ``--dataset``; ``ending`` stands behind the names in its help."""
    return click.option("--dataset", cls=DatasetOption, required=required, help=ending)
