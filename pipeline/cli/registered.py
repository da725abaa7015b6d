"""Options that know what there is, registered here and by installed packages: in their help, and
where a shell completes their values.
"""

from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

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
    return click.option(
        "--dataset",
        cls=DatasetOption,
        required=required,
        help=ending,
        shell_complete=complete_dataset,
    )


Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
"""Returns what a shell offers for a value that was begun."""


def _completed(names: Callable[[], Iterable[str]], files: bool = False) -> Complete:
    """Return a completion by names, of a list's last one where there are commas.

    Where ``files`` can be given too, the shell offers those as soon as no name fits.
    """

    def complete(
        context: click.Context, parameter: click.Parameter, begun: str
    ) -> list[CompletionItem]:
        before, comma, last = begun.rpartition(",")
        try:
            found = [name for name in names() if name.startswith(last)]
        except SeizeError:  # a package that cannot be imported; a shell has no place for errors
            found = []
        if files and not found:
            return [CompletionItem(begun, type="file")]
        return [CompletionItem(before + comma + name) for name in found]

    return complete


def _presets() -> Iterable[str]:
    from pipeline import config

    return config.presets()


def _prompts() -> Iterable[str]:
    from pipeline.models.prompts import edit

    return edit.names()


def _questions() -> Iterable[str]:
    from pipeline.models.prompts import verify

    return verify.names()


def _methods() -> Iterable[str]:
    from pipeline.retrieval import methods

    return [*methods.names(), "all"]


def _datasets() -> Iterable[str]:
    from pipeline import datasets

    return datasets.known()


def _devices() -> Iterable[str]:
    from pipeline.stages import rates

    return rates.table().devices


complete_device = _completed(_devices)
complete_dataset = _completed(_datasets)
complete_preset = _completed(_presets, files=True)
complete_prompt = _completed(_prompts, files=True)
COMPLETED = {
    "--prompt": complete_prompt,
    "--question": _completed(_questions, files=True),
    "--method": _completed(_methods),
}
"""Completions of the options that override a field."""
