"""``make bench``: every benchmark, or those named, as Markdown tables.

Nothing here passes or fails; the tables say what this machine does. A benchmark is a module with a
function ``tables(size)`` that yields what ``report.table`` returns, as it is measured.
"""

import importlib

import click

from tests import documents
from tests.benchmarks.report import Size, machine

BENCHMARKS = (
    *("stages", "search", "checksums", "indexes", "clusters", "choice", "hnsw", "embed"),
    *("embedder", "caption", "train", "inversion", "own", "grouping", "rates"),
    *("folder", "startup", "together", "flight"),
)
WRITTEN = (
    "search",
    "indexes",
    "clusters",
    "choice",
    "hnsw",
    "levers",
    "fusions",
    "train",
    "inversion",
    "own",
    "grouping",
    "folder",
    "startup",
    "flight",
    "synthetic",
    "long-texts",
    "together",
)
"""Benchmarks whose tables stand in the docs, between marks of their name."""


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(BENCHMARKS))
@click.option("--size", type=click.Choice(["small", "full"]), default="small", show_default=True)
@click.option("--write", is_flag=True, help="put the tables that stand in docs/ there, too")
def main(names: tuple[str, ...], size: Size, write: bool) -> None:
    """Measure, and print Markdown tables.

    Example: make bench ARGS="search --size full --write"
    """
    described = machine("faiss-cpu", "pymilvus", "milvus-lite")
    click.echo(f"{described}\n")
    for name in names or BENCHMARKS:
        made = []
        for table in importlib.import_module(f"tests.benchmarks.{name}").tables(size):
            click.echo(table)
            made.append(table)
        if write and name in WRITTEN:
            command = f'`make bench ARGS="{name} --size {size}"` on {described}:'
            documents.fill(name, "\n".join([f"{command}\n", *made]))


if __name__ == "__main__":
    main()
