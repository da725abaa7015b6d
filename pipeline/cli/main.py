"""The command line: one command a stage. It parses, calls and prints; the logic is elsewhere."""

import importlib
from pathlib import Path

import click

from pipeline import __version__, processes
from pipeline.cli import logs
from pipeline.cli.ending import Commands, exit_codes
from pipeline.errors import ConfigError

STAGES = "Benchmarks, stage by stage"
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "Your own images": {"own": ("index", "query", "app")},
    STAGES: {"stages": ("run", "plan")},
    "Look, compare and tune": {
        "study": ("compare", "tune", "report", "table"),
        "audit": ("audit", "reproduce"),
        "turns": ("turns",),
    },
    "Train and write triplets": {
        "train": ("train",),
        "synthesize": ("synthesize",),
        "triplets": ("triplets",),
    },
    "Files and set-up": {
        "files": ("check", "rank", "import", "export", "convert"),
        "cache": ("cache",),
        "setup": ("serve-llm", "doctor", "demo", "config", "prompts"),
    },
}
"""Groups as the help shows them, each with its families of commands: the modules of this folder,
and the names in their ``COMMANDS``. A family is imported when one of its commands is asked for."""
FAMILY = {
    command: family
    for families in GROUPS.values()
    for family, names in families.items()
    for command in names
}


class Program(Commands):
    """All commands: the families of this folder, one for every stage there is, and added ones."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of all commands."""
        from pipeline.cli import stages

        return sorted({*FAMILY, *stages.names(), *super().list_commands(context)})

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in groups, the ones that most people want first."""
        for title, names in _groups().items():
            found = [(name, self.get_command(context, name)) for name in names]
            lines = [
                (name, command.get_short_help_str(limit=formatter.width - 14))
                for name, command in found
                if command is not None
            ]
            with formatter.section(title):
                formatter.write_dl(lines)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return the command of that name, if there is one."""
        if name in FAMILY:
            family = importlib.import_module(f"pipeline.cli.{FAMILY[name]}")
            commands: tuple[click.Command, ...] = family.COMMANDS
            return next(command for command in commands if command.name == name)
        from pipeline.cli import stages

        return stages.find(name) or super().get_command(context, name)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is asked for; an error names the nearest of all there are."""
        try:
            return super().resolve_command(context, args)
        except click.exceptions.NoSuchCommand as error:
            known = self.list_commands(context)
            raise click.exceptions.NoSuchCommand(
                error.command_name, possibilities=known, ctx=context
            ) from None


COMPLETION = """\b
Completion of commands, options and values: a line for the shell's start-up file
  bash  eval "$(_SEIZE_COMPLETE=bash_source seize)"
  zsh   eval "$(_SEIZE_COMPLETE=zsh_source seize)"
  fish  _SEIZE_COMPLETE=fish_source seize | source"""


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"{exit_codes()}\n\n{COMPLETION}",
)
@click.version_option(__version__, prog_name="seize")
@click.option("--debug", is_flag=True, help="show the traceback of an error")
@click.option("--quiet", is_flag=True, help="only warnings and errors on standard error")
@click.option(
    "--log-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="write messages and errors to the end of this file, too, with times",
)
def main(debug: bool, quiet: bool, log_file: Path | None) -> None:
    """Training-free composed image retrieval: a reference image and a sentence saying what should
    differ, in; the target images of a gallery, out.

    \b
    The stages, in order; each reads what the one before wrote into the cache:
      seize caption → edit → embed → search → (verify) → evaluate / submit
    `seize run` does them all. Try everything on a small rendered world: seize demo
    Where something does not work: seize doctor
    """
    logs.set_up(quiet, log_file)
    command = click.get_current_context().invoked_subcommand
    if processes.current().count > 1:
        _check_shared(command)


def _check_shared(command: str | None) -> None:
    """Raise ConfigError for a command whose work several processes do not share."""
    from pipeline import stages
    from pipeline.cli import train

    shared = [stage.name for stage in stages.known().values() if stage.shared] + [train.NAME]
    if command not in shared:
        raise ConfigError(
            f"`seize {command}` runs as one process; accelerate launch is for "
            f"{' and '.join(shared)}. Run it without."
        )


def _groups() -> dict[str, list[str]]:
    from pipeline.cli import stages

    groups = {
        title: [name for names in families.values() for name in names]
        for title, families in GROUPS.items()
    }
    groups[STAGES] += stages.names()
    return groups
