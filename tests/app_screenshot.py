"""Draws the page's states on the demo's pictures into docs/: ``python -m tests.app_screenshot``."""

import io
from pathlib import Path

import click
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from pipeline.demo.build import build
from tests import screenshots
from tests.app_server import Served, images_loaded
from tests.browser import launch

TURNS = ("has a dark background", "has a striped background and make the hearts yellow")
WIDE = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}


@click.command()
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data/demo"))
@click.option("--cache", type=click.Path(path_type=Path), default=Path("cache"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs"))
def main(data_root: Path, cache: Path, out: Path) -> None:
    """Ask two turns about a picture and keep what the page shows."""
    if not (data_root / "world.json").exists():
        build(data_root)
    pictures = (data_root / "CIRCO" / "COCO2017_unlabeled" / "unlabeled2017").resolve()
    served = Served(pictures, cache)

    def keep(page: Page, name: str) -> None:
        images_loaded(page)
        with Image.open(io.BytesIO(page.screenshot())) as shot:
            screenshots.keep(shot, out / f"{name}.png")
        click.echo(out / f"{name}.png")

    try:
        with sync_playwright() as playwright:
            browser = launch(playwright)
            page = browser.new_page(viewport=WIDE)  # type: ignore[arg-type]
            page.set_default_timeout(120_000)
            page.emulate_media(reduced_motion="reduce")
            page.goto(served.address)
            page.locator("#samples button").first.wait_for()
            keep(page, "app-start")
            page.get_by_label("Upload an image").set_input_files(pictures / "000000000013.jpg")
            for text in TURNS:
                page.get_by_label("What should differ").fill(text)
                page.get_by_role("button", name="Search").click()
                page.get_by_text("Best 24 of").wait_for()
                if text != TURNS[-1]:
                    page.get_by_role("button", name="as the new reference").first.click()
            page.locator("#images li").nth(1).hover()
            keep(page, "app")
            page.locator("#images .view").nth(1).click()
            page.wait_for_timeout(500)
            keep(page, "app-viewer")
            page.keyboard.press("Escape")
            page.get_by_role("button", name="Filter").click()
            page.locator("#filter-add:enabled").wait_for()
            page.emulate_media(color_scheme="dark")
            keep(page, "app-dark")
            page.emulate_media(color_scheme="light")
            page.get_by_role("button", name="Filter").click()
            page.set_viewport_size(PHONE)  # type: ignore[arg-type]
            page.evaluate("window.scrollTo(0, 0)")
            keep(page, "app-phone")
            browser.close()
    finally:
        served.stop()


if __name__ == "__main__":
    main()
