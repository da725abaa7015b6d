"""Draws docs/app.png: the page on the demo's pictures. ``python -m tests.app_screenshot``."""

from pathlib import Path

import click
from playwright.sync_api import sync_playwright

from pipeline.demo.build import build
from tests.app_server import Served, images_loaded
from tests.browser import launch

TURNS = ("has a dark background", "has a striped background and make the hearts yellow")


@click.command()
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data/demo"))
@click.option("--cache", type=click.Path(path_type=Path), default=Path("cache"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/app.png"))
def main(data_root: Path, cache: Path, out: Path) -> None:
    """Ask two turns about a picture and keep what the page shows."""
    if not (data_root / "world.json").exists():
        build(data_root)
    pictures = (data_root / "CIRCO" / "COCO2017_unlabeled" / "unlabeled2017").resolve()
    served = Served(pictures, cache)
    try:
        with sync_playwright() as playwright:
            browser = launch(playwright)
            page = browser.new_page(viewport={"width": 1200, "height": 1000})
            page.set_default_timeout(120_000)
            page.goto(served.address)
            page.get_by_label("Upload an image").set_input_files(pictures / "000000000013.jpg")
            for text in TURNS:
                page.get_by_label("What should differ").fill(text)
                page.get_by_role("button", name="Search").click()
                page.get_by_text("Best 24 of").wait_for()
                if text != TURNS[-1]:
                    page.get_by_role("button", name="as the new reference").first.click()
            page.get_by_text("Captions and edited captions").click()
            images_loaded(page)
            page.evaluate("window.scrollTo(0, 0)")
            page.screenshot(path=out)
            browser.close()
    finally:
        served.stop()
    click.echo(out)


if __name__ == "__main__":
    main()
