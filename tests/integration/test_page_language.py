"""The page in German: nothing that people read or hear of it is English but names."""

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.own.filters import FIELDS
from pipeline.pages.result import WEB
from pipeline.retrieval import methods
from tests.app_server import Served
from tests.browser import MODELS
from tests.conftest import PROJECT

CHANGE = "has a dark background"

COLLECT = """() => {
  const found = [document.title];
  const shut = (one) => one.closest('[hidden]')
    || (one.closest('dialog') && !one.closest('dialog[open]'))
    || (one.closest('details:not([open])') && !one.closest('summary'));
  for (const one of [...document.querySelectorAll('body *')].filter((one) => !shut(one))) {
    for (const { nodeType, data } of one.childNodes) if (nodeType === 3) found.push(data);
    for (const name of ['placeholder', 'title', 'aria-label', 'alt']) {
      found.push(one.getAttribute(name) ?? '');
    }
  }
  return found.map((text) => text.trim()).filter((text) => /[a-z]{2}/i.test(text));
}"""
"""Every visible or accessible text: of elements, and in their attributes."""

NAMES = {
    *("seize", "photos · seize", "JPEG", "Name", "name", "text"),
    *methods.names(),
    *("is on a beach at night", "people"),  # examples of what is typed, which models read
    *("at night", "in black and white", "seen from further away", "with more of them", CHANGE),
    *("price", "colour", "red", "blue", "price>=0 ×"),  # of the user's own table
}
"""What is the same in every language."""


@pytest.fixture(scope="module")
def served(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("language") / "photos"
    root.mkdir()
    for picture in sorted((small_world / "CIRCO").rglob("*.jpg"))[:30]:
        shutil.copy(picture, root)
    names = sorted(file.name for file in root.iterdir())
    rows = [f"{name},{place},{('red', 'blue')[place % 2]}" for place, name in enumerate(names[1:])]
    (root / "attributes.csv").write_text("\n".join(["path,price,colour", *rows, "gone.jpg,1,red"]))
    running = Served(root, root.parent / "cache")
    yield running
    assert running.stop() == 130


def opened(browser: Browser, address: str, locale: str) -> Page:
    page = browser.new_page(locale=locale, viewport={"width": 1280, "height": 800})
    page.goto(address)
    expect(page.locator("#search")).to_be_enabled()
    return page


def condition(page: Page, field: str, operator: str, value: str) -> None:
    page.locator("#filter-field").select_option(field)
    page.locator("#filter-operator").select_option(operator)
    page.locator("#filter-value").fill(value)
    page.locator("#filter-add").click()


def texts_of(page: Page) -> dict[str, set[str]]:
    """Lead a page through its main states by its ids; return each state's texts."""
    found: dict[str, set[str]] = {}

    def keep(state: str) -> None:
        found[state] = set(page.evaluate(COLLECT))

    expect(page.locator("#samples li").first).to_be_visible()
    keep("start")
    page.locator("#search").click()
    expect(page.locator("#status")).to_have_class("error")
    keep("nothing asked")
    page.locator("#pick").click()
    expect(page.locator("#candidates li").first).to_be_visible()
    keep("picker")
    page.locator("#candidates button").first.click()
    page.locator("#filter").click()
    expect(page.locator("#filter-add")).to_be_enabled()
    for name in page.locator("#filter-field option").evaluate_all("all => all.map(o => o.value)"):
        page.locator("#filter-field").select_option(name)
        keep(f"filter {name}")
    condition(page, "taken", ">=", "2000")
    condition(page, "orientation", "=", "*")
    condition(page, "price", ">=", "0")
    page.locator("#text").fill(CHANGE)
    page.locator("#search").click()
    expect(page.locator("#turns li")).to_have_count(1, timeout=MODELS)
    expect(page.locator("#images li").first).to_be_visible()
    expect(page.locator("#notes")).not_to_be_empty()
    page.locator("#texts-box summary").click()
    keep("results")
    for name in page.locator("#method option").evaluate_all("all => all.map(o => o.value)"):
        page.locator("#method").select_option(name)
        expect(page.locator("#status")).to_have_text(re.compile(rf" {re.escape(name)}\.$"))
        keep(f"method {name}")
    page.locator("#images input").first.check()
    keep("selected")
    page.locator("#images .view").first.click()
    expect(page.locator("#viewer")).to_be_visible()
    keep("viewer")
    page.locator("#viewer-close").click()
    condition(page, "width", "<", "wide")
    expect(page.locator("#status")).to_have_class("error")
    keep("refused")
    return found


def test_the_german_page_has_no_english_text_in_its_main_states(
    served: Served, browser: Browser
) -> None:
    english, german = (
        texts_of(opened(browser, served.address, locale)) for locale in ("en-GB", "de-DE")
    )
    assert english.keys() == german.keys()
    every = set().union(*english.values())
    for state, texts in german.items():
        same = {text for text in texts & every if not re.fullmatch(r"\S+\.jpg", text)}
        same = {text for text in same if re.sub(r"^\d+\. ", "", text) not in NAMES}
        assert same == set(), state
        assert not any("auf Englisch:" in text for text in texts), state  # what nobody translated
    results = " ".join(german["results"])
    assert "Aufnahmezeit>=2000" in results
    assert re.search(r"\d,\d{4}", results), "decimals have a comma"
    assert "Aufnahmezeit: " in results
    assert "Breite" in " ".join(german["refused"])


def test_what_the_server_says_is_said_in_the_pages_language(
    served: Served, browser: Browser
) -> None:
    page = opened(browser, served.address, "de-DE")

    def told(text: str) -> str:
        return str(page.evaluate("text => import('/texts.js').then(one => one.told(text))", text))

    assert told(
        "x.png has 90,000 x 3 pixels, more than the 50,000,000 allowed (--max-pixels)."
    ) == ("x.png hat 90.000 x 3 Pixel, mehr als die erlaubten 50.000.000 (--max-pixels).")
    assert told("the image is empty.") == "das Bild ist leer."
    assert told("price<x: 'x' is neither a number nor a date. Fields: folder, name.") == (
        "price<x: 'x' ist weder eine Zahl noch ein Datum. Felder: folder, name."
    )
    turn = "A turn cannot begin with the state query by the method pdv: choose image, or another"
    assert told(f"{turn} method.").startswith("Ein Schritt kann beim Verfahren pdv nicht mit")
    assert told("No one knows this.") == "Der Server sagt auf Englisch: No one knows this."
    one = page.evaluate("import('/texts.js').then(({ texts }) => [1, 2].map(texts.zipped))")
    assert one == ["1 Bild gesichert.", "2 Bilder gesichert."]
    page.close()


def entries(name: str) -> dict[str, str]:
    """What the German texts have under a name, as the file has it."""
    german = (WEB / "texts.js").read_text(encoding="utf-8").partition("const de = {")[2]
    lines = re.search(rf"^  {name}: \{{\n(.*?)^  \}},$", german, re.DOTALL | re.MULTILINE)
    assert lines is not None
    found: dict[str, str] = json.loads("{" + lines[1].strip().rstrip(",") + "}")
    return found


def test_every_method_and_field_has_a_german_text() -> None:
    assert set(methods.names()) <= entries("methods").keys()
    assert FIELDS.keys() <= entries("fields").keys()
    assert {field.about for field in FIELDS.values()} <= entries("said").keys()


SAYS = (
    *("pages/answers", "pages/app", "pages/bodies", "pages/export", "pages/images"),
    *("pages/indexing", "pages/questions", "pages/tokens", "pages/visitors", "pages/workers"),
    *("own/conditions", "own/describing", "own/filters", "own/ranking", "own/gallery"),
)
"""Modules whose sentences reach the page."""
UNSEEN = {
    # What no request of the page ends in: it sends these as they have to be.
    "This name is not served here; see --allow-host.",
    "Requests of other sites are not answered.",
    "Send the request without Content-Encoding.",
    "Send the request in UTF-8.",
    "Send the form's fields as they are.",
    "start must be a number.",
    "The request is no form that can be read.",
    "The request must be a form.",
    "A form's fields have names, and no forms inside.",
    "The form has too many fields, or one of them twice.",
    "The request has more items, or longer numbers, than are allowed.",
    "The request must be JSON.",
    "The request must be a JSON object.",
    "There is no field {}.",
    "The request lacks {}.",
    # Of the command line.
    "Cannot listen at {} port {}: {}. Give another --port or --host.",
    "{} is not a folder.",
    "The relative caption is a {}: give a text, or none.",
    # A frame of others.
    "{}: {}.",
}


def sentences(file: Path) -> set[str]:
    """Every text of a module that is a sentence, with {} for what is filled in."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    told: set[str] = set()
    parts: set[ast.expr] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            parts.add(node.value)  # a docstring
        if isinstance(node, ast.JoinedStr):
            parts.update(node.values)
            texts = [one.value if isinstance(one, ast.Constant) else "{}" for one in node.values]
            told.add("".join(map(str, texts)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            told.add(node.value)
    return {text for text in told if re.fullmatch(r"[A-Z{].* .*\.", text)}


@pytest.mark.parametrize("name", SAYS)
def test_every_sentence_of_the_server_has_a_german_text(name: str) -> None:
    said = sentences(PROJECT / "pipeline" / f"{name}.py")
    assert said - entries("said").keys() - UNSEEN == set()
