"""``make bench``: every benchmark, or those named, as Markdown tables.

Nothing here passes or fails; the tables say what this machine does. A benchmark is a module with a
function ``tables(size)`` that yields what ``report.table`` returns, as it is measured.
"""

import importlib

import click

from tests.benchmarks.report import Size, machine

BENCHMARKS = ("stages", "search", "checksums", "indexes", "embed", "caption")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(BENCHMARKS))
@click.option("--size", type=click.Choice(["small", "full"]), default="small", show_default=True)
def main(names: tuple[str, ...], size: Size) -> None:
    """Measure, and print Markdown tables.

    Example: make bench ARGS="search --size full"
    """
    click.echo(machine("faiss-cpu", "pymilvus", "milvus-lite") + "\n")
    for name in names or BENCHMARKS:
        for table in importlib.import_module(f"tests.benchmarks.{name}").tables(size):
            click.echo(table)


if __name__ == "__main__":
    main()
