"""A real headless Chromium for tests: the one of this machine, or one installed on first use."""

import importlib.resources
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Playwright,
    Request,
    expect,
    sync_playwright,
)

from tests.variables import without

WAIT = 180_000
"""Milliseconds waited for what a page shows or does: they end what hangs, and time nothing."""
MODELS = 600_000
"""Milliseconds that a query may take, models and all."""
expect.set_options(timeout=WAIT)

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
INSTALLERS = (
    # Debian and Ubuntu, as root or where sudo asks nothing: their registry is enough.
    "apt-get update && apt-get install -y --no-install-recommends chromium fonts-dejavu-core",
    "sudo -n sh -c 'apt-get update && "
    "apt-get install -y --no-install-recommends chromium fonts-dejavu-core'",
    # Elsewhere: the browser that Playwright downloads from its own server, into the home folder.
    f"{sys.executable} -m playwright install chromium",
)
"""Shell commands that make a Chromium, tried in this order."""


def find_chromium(kept: str) -> str | None:
    """Return the path of a Chromium: of ``CHROMIUM``, on PATH, or ``kept`` where that exists."""
    named = os.environ.get("CHROMIUM")
    for program in [named] if named else [*PROGRAMS, kept]:
        if found := shutil.which(program):
            return found
    return None


def install_chromium(kept: str) -> str:
    """Install a Chromium and return its path; RuntimeError says what was tried and what to do.

    ``kept`` is where Playwright puts the browser that it downloads.
    """
    told = []
    for command in INSTALLERS:
        done = subprocess.run(
            command,
            shell=True,
            env=without("PYTHONWARNINGS"),
            capture_output=True,
            text=True,
            timeout=900,
        )
        found = find_chromium(kept)
        if found is not None:
            return found
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        told.append(f"  {command}\n    exit code {done.returncode}: {''.join(last)}")
    raise RuntimeError(
        "These tests need Chromium, and it could not be installed. Install it (any of: "
        f"{', '.join(PROGRAMS)} on PATH), or name the program in CHROMIUM. Tried:\n"
        + "\n".join(told)
    )


def launch(playwright: Playwright) -> Browser:
    """Start a headless Chromium; installs one where there is none, RuntimeError if it cannot."""
    kept = playwright.chromium.executable_path
    return playwright.chromium.launch(executable_path=find_chromium(kept) or install_chromium(kept))


SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
WIDTHS = (1280, 390)
"""Pixels of a desktop's and a phone's screen."""


def resize(page: Page, width: int, height: int = 800) -> None:
    """Set the size of the screen; return when the page has followed it and drawn a frame."""
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate(
        """async width => {
            const frame = () => new Promise(requestAnimationFrame);
            while (innerWidth !== width) await frame();
            await frame();
            await frame();
        }""",
        width,
    )


def barriers(page: Page) -> list[str]:
    """Return what axe-core finds on ``page`` that keeps someone from using it, light and dark, wide
    and narrow: nothing that it calls minor or moderate."""
    axe = importlib.resources.files("axe_playwright_python") / "axe.min.js"
    page.evaluate(axe.read_text(encoding="utf-8"))  # not as an element: the page forbids those
    before, found = page.viewport_size, []
    for scheme, width in itertools.product(SCHEMES, WIDTHS):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        resize(page, width)
        for one in page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]:
            if one["impact"] in ("serious", "critical"):
                nodes = [node["html"][:200] for node in one["nodes"][:3]]
                found.append(f"{scheme}, {width} pixels: {one['id']}: {one['help']}: {nodes}")
    page.emulate_media(color_scheme="light")
    if before is not None:
        page.set_viewport_size(before)
    return found


@dataclass
class Seen:
    """What a page did since ``watch``."""

    errors: list[str] = field(default_factory=list)
    """Errors and warnings of the console, refusals by the Content-Security-Policy among them, and
    exceptions that no one caught."""
    requests: list[str] = field(default_factory=list)
    """URLs that were asked for, except ``data:`` and ``blob:``."""


def watch(page: Page) -> Seen:
    """Return a record of ``page`` that grows as it works."""
    seen = Seen()

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            seen.errors.append(message.text)

    def request(request: Request) -> None:
        if not request.url.startswith(("data:", "blob:")):
            seen.requests.append(request.url)

    page.on("console", console)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", request)
    return seen


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium.

    A module's, not a session's: while it is open the thread has a running event loop, in which
    tests of the served LLM's client could not start theirs.
    """
    with sync_playwright() as playwright:
        try:
            running = launch(playwright)
        except RuntimeError as error:
            pytest.fail(str(error), pytrace=False)
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page of 1280 x 800 with its own cookies and storage."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(WAIT)
    yield context.new_page()
    context.close()
