"""``python -m tests.campaigns.soak llm|page``: prints a table; exit code 1 for a broken promise."""

import tempfile
from pathlib import Path

import click

from pipeline.demo.build import build
from tests.campaigns.soak import llm, page
from tests.conftest import SIZES


@click.group()
def main() -> None:
    """Put the pipeline under load for a long time."""


@main.command("llm")
@click.option("--requests", default=100_000, show_default=True)
@click.option("--faults", default=0.05, show_default=True, help="share of answers that are spoiled")
@click.option("--servers", default=2, show_default=True)
@click.option("--concurrency", default=128, show_default=True, help="requests in flight at each")
def llm_(requests: int, faults: float, servers: int, concurrency: int) -> None:
    """Run the edit stage, as a process, against servers that misbehave in every way one can."""
    found = llm.soak(requests, faults, servers, concurrency)
    click.echo(found.table())
    _end(found.problems)


@main.command("page")
@click.option("--users", default=50, show_default=True)
@click.option("--seconds", default=120.0, show_default=True)
def page_(users: int, seconds: float) -> None:
    """Run `seize app`, as a process, and let many users do at once what people do."""
    with tempfile.TemporaryDirectory() as folder:
        root = build(Path(folder) / "demo", sizes=SIZES)
        found = page.soak(users, seconds, *page.pictures(root))
    click.echo(found.table())
    _end(found.problems)


def _end(problems: list[str]) -> None:
    for problem in problems:
        click.echo(f"BROKEN: {problem}")
    click.get_current_context().exit(1 if problems else 0)


if __name__ == "__main__":
    main()
