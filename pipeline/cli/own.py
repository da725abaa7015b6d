"""The commands on a folder of one's own images."""

import contextlib
from pathlib import Path
from typing import Any

import click

from pipeline.cli.ending import leave
from pipeline.cli.options import (
    Stage,
    index_options,
    json_option,
    print_reports,
    print_result,
    query_options,
)
from pipeline.errors import STOPPED, InputError
from pipeline.own import checks
from pipeline.printable import echo


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="stay, and index again whenever a file changes")
@index_options
@json_option
def index(folder: Path, watch: bool, settings: Any, cache: Path, as_json: bool) -> None:
    """Embed the images of a folder tree, to be searched with `query` and `app`.

    Only new and changed images are embedded; removed ones are dropped, renamed ones and copies cost
    nothing. Hidden files and links that leave the folder are left out.

    Example: seize index photos --config laptop --watch
    """
    checks.images(folder, settings)
    from pipeline.own import folder as folders

    opened = folders.open_folder(folder, settings, cache)
    if watch:
        folders.watch(opened, lambda report: print_reports([report], as_json))
    else:
        print_reports([folders.index(opened)], as_json)


@click.command(cls=Stage)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("relative_caption")
@click.option(
    "--gallery",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    help="the folder to search, after `seize index`",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="write an HTML page")
@click.option("--open", "shown", is_flag=True, help="write the page and open it in the browser")
@query_options
@json_option
def query(
    images: tuple[Path, ...],
    relative_caption: str,
    folder: Path,
    out: Path | None,
    shown: bool,
    settings: Any,
    given: str,
    cache: Path,
    as_json: bool,
) -> None:
    """Find the images of a folder that look like IMAGES, changed as RELATIVE_CAPTION says.

    With several images the query is about all of them together.

    Captions and edits are kept, so the same question again calls no model; nor do other weights or
    another method.

    Example: seize query dog.jpg "is on a beach at night" --gallery photos --top-k 10 --open
    """
    checks.query(folder, settings)
    for image in images:
        if not image.exists():
            raise InputError(f"{image} does not exist.")
    from pipeline.own.gallery import Gallery
    from pipeline.run import dump

    result = Gallery(folder, settings, cache, given).query(images, relative_caption)
    if out is None and shown:
        out = Path("outputs/query.html")
    if out is not None:
        from pipeline.pages.result import write_page

        write_page(result, out)
    if as_json:
        echo(dump(result.as_json() | {"page": out and str(out)}))
    else:
        print_result(result)
        if out is not None:
            echo(f"  {out}")
    if out is not None and shown:
        click.launch(out.resolve().as_uri())


@click.command(cls=Stage)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen at")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="0 takes any that is free",
)
@click.option(
    "--allow-host",
    "names",
    multiple=True,
    metavar="NAME",
    help="a name of this machine that the page may be reached by, besides addresses and localhost",
)
@click.option(
    "--max-upload",
    type=click.IntRange(1, 1024),
    default=20,
    show_default=True,
    help="MiB of an uploaded image",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1, 178),
    default=50,
    show_default=True,
    help="megapixels of one",
)
@click.option(
    "--queries",
    type=click.IntRange(1, 256),
    default=4,
    show_default=True,
    help="queries worked on at a time",
)
@click.option(
    "--waiting",
    type=click.IntRange(0, 10_000),
    default=100,
    show_default=True,
    help="queries that may wait",
)
@click.option("--open", "shown", is_flag=True, help="open the page in the browser")
@query_options
def app(
    folder: Path,
    host: str,
    port: int,
    names: tuple[str, ...],
    max_upload: int,
    max_pixels: int,
    queries: int,
    waiting: int,
    shown: bool,
    settings: Any,
    given: str,
    cache: Path,
) -> None:
    """Serve a page on this machine to search a folder by image and text, turn by turn.

    It is for the people of this machine: with --host 0.0.0.0 everyone on the network can see the
    folder's images and use the models.

    Example: seize app photos --config laptop --open
    """
    checks.query(folder, settings)
    import asyncio

    from pipeline.own.gallery import Gallery
    from pipeline.pages import app as page

    gallery = Gallery(folder, settings, cache, given)
    limits = page.Limits(max_upload << 20, max_pixels * 1_000_000, queries, waiting)
    made = page.make_app(gallery, limits, frozenset(names))
    count = len(gallery)
    if not page.is_loopback(host):
        echo(
            f"Warning: whoever can reach port {port} of {host or 'this machine'} can see the "
            f"{count:,} images of {folder}, search in them and keep its models busy; there is no "
            "password. For this machine alone leave --host out.",
            err=True,
        )

    def ready(address: str) -> None:
        echo(f"{folder} ({count:,} images) is served at {address}; Ctrl-C ends it.")
        if shown:
            click.launch(address)

    with contextlib.suppress(KeyboardInterrupt):  # as it starts or ends
        asyncio.run(page.serve(made, host, port, ready))
    echo("Stopped. What was computed is kept.", err=True)
    leave(STOPPED)


COMMANDS = (index, query, app)
