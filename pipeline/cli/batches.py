"""Many queries of one's own images out of a CSV file, their answers as another one."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError, SeizeError
from pipeline.printable import echo, one_line
from pipeline.run import progress
from pipeline.store.files import write_text

if TYPE_CHECKING:
    from pipeline.own.gallery import Gallery

Asked = tuple[list[Path], str]
"""A query's images and its relative caption."""
COLUMNS = ("image", "text")
ANSWER = (
    "line",
    "image",
    "text",
    "rank",
    "path",
    "score",
    "similarity",
    "increment",
    "error",
    "members",
)


def read(file: Path) -> list[Asked]:
    """Return the queries of a CSV with a header: ``image`` (below the file's folder) and ``text``.

    Either may be empty. Raises InputError naming file and line for what is not so, before any
    query is asked.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            lines = list(csv.DictReader(stream, strict=True))
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as a CSV in UTF-8: {error}.") from None
    if not lines or not set(COLUMNS) <= lines[0].keys():
        raise InputError(f"{file} needs a header with the columns image and text, and a query.")
    asked: list[Asked] = []
    for number, line in enumerate(lines, start=2):
        image, text = ((line[name] or "").strip() for name in COLUMNS)
        images = [file.parent / image] if image else []
        if not images and not text:
            raise InputError(f"{file}, line {number}: neither image nor text.")
        if images and not images[0].is_file():
            raise InputError(f"{file}, line {number}: {images[0]} does not exist.")
        asked.append((images, text))
    return asked


def answer(
    gallery: "Gallery", asked: Sequence[Asked], unlike: Sequence[str | Path], out: Path | None
) -> None:
    """Print or write a line for each image found; a query that failed has its reason.

    Raises InputError at the end where all of them failed.
    """
    from pipeline.study.tables import no_formula

    written = io.StringIO()
    rows = csv.DictWriter(written, ANSWER, lineterminator="\n", restval="")
    rows.writeheader()
    failed = 0
    if (matching := gallery.matching) is not None:
        echo(one_line(matching.told), err=True)
        for note in matching.notes:
            echo(one_line(note), err=True)
    with progress(len(asked), 0, "query", "search") as bar:
        for number, (images, text) in enumerate(asked, start=2):
            own = {
                "line": number,
                "image": str(images[0]) if images else "",
                "text": no_formula(text),
            }
            try:
                result = gallery.query(images or None, text, unlike=unlike)
            except SeizeError as error:
                failed += 1
                rows.writerow(own | {"error": no_formula(str(error))})
            else:
                for rank, image in enumerate(result.images, start=1):
                    rows.writerow(
                        own
                        | {
                            "rank": rank,
                            "path": no_formula(image.path),
                            "score": f"{image.score:.6f}",
                            "similarity": f"{image.similarity:.6f}",
                            "increment": f"{image.increment:.6f}",
                            "members": no_formula(json.dumps([m.path for m in image.members])),
                        }
                    )
            bar.update()
    if out is not None:
        write_text(out, written.getvalue())
        echo(str(out))
    else:
        sys.stdout.write(written.getvalue())
    if failed:
        echo(f"{failed} of {len(asked)} queries failed; see the column error.", err=True)
    if failed == len(asked):
        raise InputError(f"All {failed} queries failed.")
