"""The commands on a folder of one's own images."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.cli import batches
from pipeline.cli.ending import leave
from pipeline.cli.options import Grouped, Stage, json_option, log
from pipeline.cli.own_options import (
    attributes_option,
    index_options,
    query_options,
    where_option,
)
from pipeline.cli.printing import print_reports, print_result
from pipeline.errors import STOPPED, InputError
from pipeline.own import checks
from pipeline.printable import echo


@click.command(cls=Grouped)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="stay, and index again whenever a file changes")
@index_options
@json_option
def index(
    folder: Path,
    watch: bool,
    settings: Any,
    cache: Path,
    remember: Callable[[], None],
    as_json: bool,
) -> None:
    """Embed the images of a folder tree, to be searched with `query` and `app`.

    Only new and changed images are embedded; removed ones are dropped, renamed ones and copies cost
    nothing. Hidden files and links that leave the folder are left out. `query` and `app` go on with
    the settings that are named here.

    Example: seize index photos --watch
    """
    checks.images(folder, settings)
    from pipeline.own import folder as folders

    opened = folders.open_folder(folder, settings, cache)

    def done(report: Any) -> None:
        remember()
        print_reports([report], as_json)

    if watch:
        folders.watch(opened, done)
    else:
        done(folders.index(opened))


@click.command(cls=Stage)
@click.argument("words", nargs=-1, metavar="[IMAGES]... [RELATIVE_CAPTION]")
@click.option(
    "--gallery",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    help="the folder to search; it is indexed first where it is not yet",
)
@click.option(
    "--unlike", multiple=True, metavar="TEXT|IMAGE", help="what is not wanted; repeatable"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="write an HTML page, or the CSV of --batch",
)
@click.option("--open", "shown", is_flag=True, help="write the page and open it in the browser")
@click.option(
    "--batch",
    type=click.Path(path_type=Path, dir_okay=False),
    help="a CSV with the columns image and text instead: a query a line; prints a CSV",
)
@click.option("--show-captions", is_flag=True, help="print the captions and their edits, too")
@where_option
@attributes_option
@click.option("--no-group", is_flag=True, help="show near-duplicates as results of their own")
@click.option(
    "--no-app", "here", is_flag=True, help="load the models, though a page of the folder runs"
)
@query_options
@json_option
def query(
    words: tuple[str, ...],
    folder: Path,
    unlike: tuple[str, ...],
    out: Path | None,
    shown: bool,
    batch: Path | None,
    show_captions: bool,
    where: tuple[str, ...],
    attributes: Path | None,
    no_group: bool,
    here: bool,
    named: Any,
    given: str,
    cache: Path,
    remember: Callable[[], None],
    as_json: bool,
) -> None:
    """Find the images of a folder that look like IMAGES, changed as RELATIVE_CAPTION says.

    With several images the query is about all of them together. A text alone searches by the
    method `text`, images alone (the last one is a file, too) by `image`.

    Where captioner or LLM are not at hand, a method that needs the encoder alone is taken, unless
    --method names one. Captions and edits are kept, so the same question again calls no model; nor
    do other weights or another method. Where `seize app` of the folder runs with these settings, it
    is asked (but for --batch and pages): its models are loaded.

    Conditions choose the candidates before they are ranked: see docs/own-images.md.

    Example: seize query dog.jpg "is on a beach at night" --gallery photos --top-k 10 --open
    """
    checks.folder(folder)
    _check_conditions(folder, cache, attributes, where)
    if no_group:
        named = named.ungrouped()
    if bool(words) == (batch is not None):
        raise click.UsageError("Give images and a relative caption, or --batch FILE.")
    asked = batches.read(batch) if batch is not None else [_asked(words)]
    away = [_shown(one) for one in unlike]
    if out is None and shown:
        out = Path("outputs/query.html")
    if not here and batch is None and out is None:
        from pipeline.own import running

        page = running.place(folder, named.config, cache)
        question = running.asked(named, *asked[0], away, where, attributes)
        answer = running.ask(page, question)
        if answer is not None:
            _print(answer, as_json, show_captions, None)
            return
    settings, note = named.settled()
    checks.query(folder, settings)
    log.info("Searches %s by %s; what that needs is loaded.", folder, settings.search.method)
    from pipeline.own import result as results
    from pipeline.own.gallery import Gallery

    gallery = Gallery(folder, settings, cache, given, note, attributes).where(*where)
    if not gallery.is_indexed:
        gallery.index()
        remember()
    if where:
        _ = gallery.matching  # refuses what only now is known to be no field
    if batch is not None:
        batches.answer(gallery, asked, away, out)
        return
    ((images, relative_caption),) = asked
    result = gallery.query(images, relative_caption, unlike=away)
    if out is not None:
        from pipeline.pages.result import write_page

        write_page(result, out)
    _print(results.shown(result), as_json, show_captions, out)
    if out is not None and shown:
        click.launch(out.resolve().as_uri())


def _check_conditions(
    folder: Path, cache: Path, attributes: Path | None, where: tuple[str, ...]
) -> None:
    """Refuse conditions that cannot be met, and a table that is not there."""
    if where or attributes is not None:
        from pipeline.own import filters

        filters.check(folder, cache, attributes, where)


def _print(answer: dict[str, Any], as_json: bool, show_captions: bool, page: Path | None) -> None:
    if as_json:
        from pipeline.run import dump

        echo(dump(answer["result"] | {"page": page and str(page)}))
        return
    print_result(answer, show_captions)
    if page is not None:
        echo(f"  {page}")


def _asked(words: tuple[str, ...]) -> tuple[list[Path], str]:
    """Return a query's images and its relative caption, "" where the last word is a file, too."""
    *before, last = words
    images = [Path(word) for word in before]
    if isinstance(_shown(last), Path):
        images, last = [*images, Path(last)], ""
    for image in images:
        if not image.exists():
            raise InputError(f"{image} does not exist.")
    return images, last


def _shown(word: str) -> str | Path:
    """Return a word as the path of the image that it names, or as it is.

    Raises InputError for what is named like an image and is not there.
    """
    with contextlib.suppress(OSError, ValueError):  # no name that a file could have
        if Path(word).is_file():
            return Path(word)
    if " " not in word and (ending := Path(word).suffix.lower()):
        from pipeline.images.files import endings

        if ending in endings():
            raise InputError(f"{word} does not exist.")
    return word


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
    help="MiB of the images uploaded for a query",
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
@click.option(
    "--token",
    envvar="SEIZE_TOKEN",
    help="what visitors must know; made up where the page listens beyond this machine",
)
@attributes_option
@click.option("--no-index", "as_it_is", is_flag=True, help="serve what was indexed before")
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
    token: str | None,
    attributes: Path | None,
    as_it_is: bool,
    shown: bool,
    named: Any,
    given: str,
    cache: Path,
    remember: Callable[[], None],
) -> None:
    """Serve a page on this machine to search a folder by image and text, turn by turn.

    The folder is indexed beside it, so the first images can be searched soon. It is for the people
    of this machine: with --host 0.0.0.0 everyone on the network who has the token can see the
    folder's images and use the models. Its HTTP API is described at /docs and /openapi.json.

    Example: seize app photos --open
    """
    checks.folder(folder)
    _check_conditions(folder, cache, attributes, ())
    settings, note = named.settled()
    checks.query(folder, settings)
    import asyncio

    from pipeline.own import running
    from pipeline.own.gallery import Gallery
    from pipeline.pages import app as page
    from pipeline.pages import tokens
    from pipeline.pages.indexing import Indexing

    gallery = Gallery(folder, settings, cache, given, note, attributes)
    limits = page.Limits(max_upload << 20, max_pixels * 1_000_000, queries, waiting)
    indexing = None if as_it_is else Indexing(gallery, remember)
    beyond = not page.is_loopback(host)
    token = token or (tokens.new() if beyond else None)
    secret = tokens.new()
    made = page.make_app(gallery, limits, frozenset(names), indexing, token, secret)
    count = f"{len(gallery):,} images" if as_it_is or gallery.is_indexed else "being indexed"
    if note is not None:
        echo(note, err=True)
    if beyond:
        echo(
            f"Warning: whoever can reach port {port} of {host or 'this machine'} and has the token "
            f"can see the images of {folder} ({count}), search in them and keep its models busy; "
            "what is sent is not encrypted. For this machine alone leave --host out.",
            err=True,
        )

    announced = contextlib.ExitStack()

    def ready(address: str) -> None:
        place = running.place(folder, named.config, cache)
        announced.enter_context(running.announced(place, address, secret))
        if indexing is not None:
            indexing.start()
        address += f"?token={token}" if token else ""
        echo(f"{folder} ({count}) is served at {address} ; Ctrl-C ends it.")
        if shown:
            click.launch(address)

    with contextlib.suppress(KeyboardInterrupt), announced:  # as it starts or ends
        asyncio.run(page.serve(made, host, port, ready))
    with contextlib.suppress(KeyboardInterrupt):  # a second one, while it ends
        echo("Stopped. What was computed is kept.", err=True)
    leave(STOPPED)


COMMANDS = (index, query, app)
