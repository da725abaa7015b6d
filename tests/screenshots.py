"""Pictures of pages for the documentation.

``python -m tests.screenshots PAGE.html PICTURE.png``: what Chromium shows of a report.
"""

import io
from pathlib import Path

import click
from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser import launch


def keep(shot: Image.Image, picture: Path) -> None:
    """Write a picture of a page with few colours, which is a fraction of the size."""
    few = shot.convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)


@click.command()
@click.argument("page", type=click.Path(path_type=Path, exists=True))
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--width", default=1300, show_default=True, help="pixels")
@click.option("--height", default=1300, show_default=True, help="pixels")
@click.option("--sort", help="what the queries are sorted by, as the page words it")
@click.option("--at", "selector", help="CSS selector of what comes first; the top by default")
@click.option("--captions", is_flag=True, help="open the first query's captions")
def main(
    page: Path,
    picture: Path,
    width: int,
    height: int,
    sort: str | None,
    selector: str | None,
    captions: bool,
) -> None:
    """Draw PAGE, a report, into PICTURE, with few colours so that it is small."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        view = browser.new_page(viewport={"width": width, "height": height})
        view.goto(page.resolve().as_uri())
        if sort:
            view.get_by_label("Sort by").select_option(sort)
        if captions:
            view.locator(".query summary").first.click()
        if selector:
            view.locator(selector).first.evaluate("element => element.scrollIntoView()")
        view.locator(".query img").first.wait_for()
        view.wait_for_function("[...document.images].every((image) => image.complete)")
        shot = Image.open(io.BytesIO(view.screenshot()))
        browser.close()
    keep(shot, picture)


if __name__ == "__main__":
    main()
