"""What the page keeps and gives away: addresses, a folder being indexed, selection, files."""

import base64
import csv
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from pipeline.pages.result import write_page
from tests.app_server import Served, ask, shows
from tests.browser import MODELS, barriers, watch
from tests.conftest import PROJECT

IMAGES = 60
CHANGE = "has a dark background"


@pytest.fixture(scope="module")
def served(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("states") / "photos"
    root.mkdir()
    for picture in sorted((small_world / "CIRCO").rglob("*.jpg"))[:IMAGES]:
        shutil.copy(picture, root)
    names = sorted(file.name for file in root.iterdir())
    rows = [f"{name},{place},{'red' if place < 30 else 'blue'}" for place, name in enumerate(names)]
    (root / "attributes.csv").write_text("\n".join(["path,price,colour", *rows]))
    running = Served(root, root.parent / "cache")
    yield running
    assert running.stop() == 130


def shown(page: Page) -> list[str]:
    return page.locator("#images .view img").evaluate_all("all => all.map(one => one.alt)")


def test_every_turn_has_an_address_to_reload_share_and_go_back_to(
    served: Served, page: Page
) -> None:
    seen = watch(page)
    page.goto(served.address)
    page.locator("#samples button").first.click()
    ask(page, CHANGE, IMAGES)
    first = shown(page)
    page.get_by_label("α⁻, weight of what the edit lost").fill("0.4")
    expect(page.get_by_role("status").first).to_have_text("Ranked again.")
    weighted, address = shown(page), page.evaluate("location.href")
    page.locator("#images li").nth(2).get_by_role("button", name="as the new reference").click()
    ask(page, "has one more circle", IMAGES)
    following = shown(page)
    assert first != following
    page.go_back()
    shows(page, weighted)
    page.go_forward()
    shows(page, following)
    page.goto(address)
    shows(page, weighted)
    expect(page.get_by_label("What should differ")).to_have_value(CHANGE)
    assert page.locator("#alpha-neg").input_value() == "0.4"
    assert seen.errors == []


def test_a_link_to_an_upload_says_that_it_is_to_be_uploaded_again(
    served: Served, page: Page
) -> None:
    page.goto(f"{served.address}?text=is+red&reference={'f' * 64}&method=seize")
    expect(page.get_by_role("status").first).to_have_text(re.compile("upload it again"))
    expect(page.get_by_label("What should differ")).to_have_value("is red")


def test_a_text_alone_and_what_is_not_wanted(served: Served, page: Page) -> None:
    page.goto(served.address)
    ask(page, "a large red circle", IMAGES)
    by_text = served.gallery.with_search(top_k=24)
    shows(page, by_text.query(None, "a large red circle").paths)
    page.locator("#images li").first.get_by_role("button", name="Less like").click()
    page.get_by_label("but not").fill("a dark background")
    worst = by_text.query(None, "a large red circle").images[0]
    page.get_by_role("button", name="Search").click()
    unlike = ["a dark background", served.root / worst.path]
    expected = by_text.query(None, "a large red circle", unlike=unlike).paths
    shows(page, expected)
    page.reload()
    shows(page, expected)


def test_the_viewer_goes_on_and_its_image_becomes_the_reference(served: Served, page: Page) -> None:
    page.goto(served.address)
    page.locator("#samples button").first.click()
    ask(page, CHANGE, IMAGES)
    paths = shown(page)
    page.locator("#images .view").first.click()
    expect(page.get_by_role("dialog", name=paths[0])).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog", name=paths[1])).to_be_visible()
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="Previous image").click()
    expect(page.get_by_role("dialog", name=paths[-1])).to_be_visible()
    page.get_by_role("button", name="Use as reference", exact=True).click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.locator("#reference-name")).to_have_text(paths[-1])


def test_what_is_selected_is_saved(served: Served, page: Page, tmp_path: Path) -> None:
    page.goto(served.address)
    page.locator("#samples button").first.click()
    ask(page, CHANGE, IMAGES)
    paths = shown(page)
    with page.expect_download() as all_of_them:
        page.get_by_role("button", name="Save as CSV").click()
    all_of_them.value.save_as(tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == paths
    for place in (4, 1):
        page.locator("#images li").nth(place).get_by_role("checkbox").check()
    expect(page.get_by_role("status").first).to_have_text("2 selected")
    with page.expect_download() as some:
        page.get_by_role("button", name="Save as JSON").click()
    some.value.save_as(tmp_path / "some.json")
    saved = json.loads((tmp_path / "some.json").read_text(encoding="utf-8"))
    assert [image["path"] for image in saved["images"]] == [paths[1], paths[4]]
    with page.expect_download() as images:
        page.get_by_role("button", name="Save as ZIP").click()
    images.value.save_as(tmp_path / "seize.zip")
    with zipfile.ZipFile(tmp_path / "seize.zip") as saved_images:
        assert saved_images.testzip() is None
        assert saved_images.namelist() == [paths[1], paths[4]]
        for name in saved_images.namelist():
            assert saved_images.read(name) == (served.root / name).read_bytes()
    expect(page.get_by_role("status").first).to_have_text("2 images saved.")
    page.get_by_role("button", name="Select none").click()
    expect(page.locator("#images :checked")).to_have_count(0)


def test_a_query_can_be_cancelled(served: Served, page: Page) -> None:
    page.goto(served.address)
    expect(page.get_by_role("button", name="Search")).to_be_enabled()
    page.route("**/query", lambda route: None)  # no answer
    page.get_by_label("What should differ").fill("is red")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status").first).to_have_text("Cancelled.")
    expect(page.get_by_role("button", name="Search")).to_be_visible()


def test_the_page_speaks_the_browsers_language(served: Served, page: Page) -> None:
    browser = page.context.browser
    assert browser is not None
    german = browser.new_page(locale="de-AT")
    german.goto(served.address)
    expect(german.get_by_role("button", name="Suchen")).to_be_enabled()
    assert german.locator("html").get_attribute("lang") == "de"
    assert german.evaluate("import('/texts.js').then(one => one.language)") == "de"
    german.close()


def test_both_languages_have_the_same_texts() -> None:
    web = PROJECT / "pipeline" / "pages" / "web"
    source = (web / "texts.js").read_text(encoding="utf-8")
    kinds = re.findall(r"const \w\w = \{\n(.*?)\n\};", source, re.DOTALL)
    names = [re.findall(r"^  (\w+):", kind, re.MULTILINE) for kind in kinds]
    assert len(names) == 2
    assert names[0] == names[1]
    used = {("said", ""), ("parts", ""), ("unsaid", "")}  # by the file itself: what the server says
    for file in (web / "app.html", *(set(web.glob("*.js")) - {web / "texts.js"})):
        content = file.read_text(encoding="utf-8")
        used |= set(re.findall(r"\btexts\.(?!js)(\w+)|data-(?:text|label)=\"(\w+)\"", content))
    assert {one or other for one, other in used} == set(names[0])


def test_a_new_folder_is_indexed_beside_the_page(
    small_world: Path, tmp_path: Path, page: Page
) -> None:
    root = tmp_path / "new"
    root.mkdir()
    for picture in sorted((small_world / "CIRCO").rglob("*.jpg"))[:30]:
        shutil.copy(picture, root)
    (root / "photo.raw").write_bytes(b"unknown")
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "app",
        str(root),
        "--config",
        "demo",
        "--port",
        "0",
    ]
    with subprocess.Popen(
        [*command, "--cache", str(tmp_path / "cache"), "--set", "runtime.workers=0"],
        cwd=PROJECT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert "being indexed" in said
            found = re.search(r"http://\S+/", said)
            assert found
            page.goto(found[0])
            expect(page.locator("header")).to_contain_text("new, 30 images", timeout=MODELS)
            expect(page.locator("header")).to_contain_text("0 broken, 1 of other kinds left out")
            expect(page.locator("#indexing")).to_be_hidden()
            expect(page.locator("#samples button").first).to_be_visible()
            page.get_by_label("What should differ").fill("a red circle")
            page.get_by_role("button", name="Search").click()
            best = page.get_by_role("status").first
            expect(best).to_have_text(re.compile("^Best 24 of 30"), timeout=MODELS)
        finally:
            process.terminate()


def test_an_image_of_the_results_is_searched_with_too(served: Served, page: Page) -> None:
    seen = watch(page)
    page.goto(served.address)
    page.get_by_role("button", name="Pick from the gallery").click()
    page.locator("#candidates button").first.click()
    first = page.locator("#reference-name").text_content() or ""
    ask(page, "is red", IMAGES)
    card = page.locator("#images li").first
    second = card.locator(".file").text_content() or ""
    card.get_by_role("button", name=f"Like {second}, too").click()
    expect(page.locator("#further li")).to_have_count(1)
    page.get_by_role("button", name="Search").click()
    files = [served.root / first, served.root / second]
    expected = served.gallery.with_search(top_k=24).query(files, "is red")
    shows(page, expected.paths)
    assert f"further={expected.further[0]}" in page.evaluate("location.search")
    page.reload()
    shows(page, expected.paths)
    expect(page.locator("#further li")).to_have_count(1)
    page.locator("#further button").click()
    expect(page.locator("#further li")).to_have_count(0)
    status, lines = served.query(
        reference=expected.reference, further=expected.further[0], relative_caption="is red"
    )
    assert status == 200
    assert lines[-1]["result"]["further"] == list(expected.further)
    assert [image["path"] for image in lines[-1]["result"]["images"]] == expected.paths
    assert seen.errors == []


def test_the_next_turn_begins_with_what_is_chosen(served: Served, page: Page) -> None:
    seen = watch(page)
    page.goto(served.address)
    page.locator("#samples button").first.click()
    name = page.locator("#reference-name").text_content() or ""
    ask(page, CHANGE, IMAGES)
    begins = page.get_by_label("The next turn begins with")
    assert begins.locator("option").all_text_contents() == [
        "the reference image",
        "this turn's edited captions",
    ]
    begins.select_option("caption")
    ask(page, "has a red star", IMAGES)
    first = served.gallery.with_search(top_k=24).query(served.root / name, CHANGE)
    second = first.turn("has a red star", "caption")
    shows(page, second.paths)
    assert second.paths != first.gallery.query(served.root / name, "has a red star").paths
    assert page.locator("#edited_captions-0").input_value() == second.edited_captions[0]
    methods = page.get_by_label("Method")
    expect(methods.get_by_role("option", name="image+text", exact=True)).to_be_disabled()
    expect(methods.get_by_role("option", name="pdv", exact=True)).to_be_enabled()
    page.reload()  # the address asks all of its turns again
    expect(page.locator("#turns li")).to_have_count(2, timeout=MODELS)
    shows(page, second.paths)
    # By another method the turn goes on as that method can, and an image is one's own choice again.
    page.locator("#turns button").first.click()
    page.get_by_label("Method").select_option("image+text")
    expect(page.get_by_role("status").first).to_have_text("Ranked by image+text.")
    begins.select_option("query")
    ask(page, "has a red star", IMAGES)
    plain = first.rerank(method="image+text").turn("has a red star", "query")
    shows(page, plain.paths)
    page.locator("#images li").first.get_by_role("button", name="as the new reference").click()
    assert begins.input_value() == "image"
    assert seen.errors == []


def test_several_images_are_uploaded_and_searched_with_together(
    served: Served, page: Page, small_world: Path
) -> None:
    seen = watch(page)
    page.goto(served.address)
    pictures = sorted((small_world / "CIRR").rglob("*.png"))[:3]
    expect(page.get_by_role("button", name="Search")).to_be_enabled()
    page.get_by_label("Upload an image").set_input_files(pictures)
    status = page.get_by_role("status").first
    expect(status).to_have_text("3 reference images")
    expect(page.locator("#reference-name")).to_have_text(pictures[0].name)
    expect(page.locator("#further li")).to_have_count(2)
    ask(page, "is red", IMAGES)
    gallery = served.gallery.with_search(top_k=24)
    shows(page, gallery.query(pictures, "is red").paths)
    # By the texts and images that are known now, and with an image of the folder.
    page.get_by_label("Method").select_option("image")
    expect(status).to_have_text("Ranked by image.")
    by_image = gallery.with_search(method="image")
    shows(page, by_image.query(pictures, "is red").paths)
    page.get_by_role("button", name=f"No longer like {pictures[1].name}").click()
    card = page.locator("#images li").first
    also = card.locator(".file").text_content() or ""
    card.get_by_role("button", name=f"Like {also}, too").click()
    ask(page, "is red", IMAGES)
    files = [pictures[0], pictures[2], served.root / also]
    shows(page, by_image.query(files, "is red").paths)
    page.reload()
    expect(status).to_have_text(re.compile("upload it again"))
    many = [pictures[0]] * 9
    for number, file in enumerate(many):
        many[number] = Path(shutil.copy(file, served.root.parent / f"{number}.png"))
    page.get_by_label("Upload an image").set_input_files(many)
    expect(status).to_have_text("At most 8 images are searched with at a time.")
    assert seen.errors == []


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_images_are_dropped_and_pasted(
    served: Served, page: Page, small_world: Path, how: str
) -> None:
    page.goto(served.address)
    expect(page.get_by_role("button", name="Search")).to_be_enabled()
    pictures = sorted((small_world / "CIRR").rglob("*.png"))[:2]
    contents = [[one.name, base64.b64encode(one.read_bytes()).decode()] for one in pictures]
    page.evaluate(
        """([how, contents]) => {
            const data = new DataTransfer();
            for (const [name, content] of contents) {
                const bytes = Uint8Array.from(atob(content), one => one.charCodeAt(0));
                data.items.add(new File([bytes], name, { type: "image/png" }));
            }
            document.dispatchEvent(how === "drop"
                ? new DragEvent("drop", { dataTransfer: data, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data }));
        }""",
        [how, contents],
    )
    expect(page.locator("#reference-name")).to_have_text(pictures[0].name)
    expect(page.locator("#further li")).to_have_count(1)
    expect(page.get_by_label("What should differ")).to_be_focused()


def test_everyone_can_use_every_state_of_the_page(served: Served, page: Page) -> None:
    """As far as axe-core sees."""
    seen = watch(page)
    page.goto(served.address)
    expect(page.locator("#samples button").first).to_be_visible()
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("button", name="Add", exact=True)).to_be_enabled()
    assert barriers(page) == [], "the start, with the filter"
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#status")).to_have_class("error")
    assert barriers(page) == [], "an error"
    page.get_by_role("button", name="Pick from the gallery").click()
    expect(page.locator("#candidates button")).to_have_count(48)
    assert barriers(page) == [], "the picker"
    page.locator("#candidates button").first.click()
    ask(page, CHANGE, IMAGES)
    page.get_by_text("Captions and edited captions").click()
    card = page.locator("#images li").first
    card.get_by_role("button", name="Less like").click()
    card.get_by_role("checkbox").check()
    page.locator("#images li").nth(1).get_by_role("button", name=", too").click()
    assert barriers(page) == [], "the results"
    page.locator("#images .view").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert barriers(page) == [], "the viewer"
    page.goto(served.address + "docs")
    assert barriers(page) == [], "the API's page"
    assert seen.errors == []


def test_everyone_can_read_a_result_that_is_one_file(
    served: Served, page: Page, tmp_path: Path
) -> None:
    first = next(served.root.glob("*.jpg"))
    write_page(served.gallery.with_search(top_k=3).query(first, CHANGE), tmp_path / "result.html")
    page.goto((tmp_path / "result.html").as_uri())
    assert barriers(page) == []


def test_a_filter_is_set_changed_kept_in_the_address_and_taken_away(
    served: Served, page: Page
) -> None:
    seen = watch(page)
    page.goto(served.address)
    page.locator("#samples button").first.click()
    name = page.locator("#reference-name").text_content() or ""
    ask(page, CHANGE, IMAGES)
    status = page.get_by_role("status").first
    page.get_by_role("button", name="Filter").click()
    field = page.get_by_label("Field of the filter")
    expect(field.get_by_role("option", name="colour")).to_be_attached()
    field.select_option("colour")
    value = page.get_by_label("Value of the filter")
    assert page.locator("#filter-values option").evaluate_all("all => all.map(o => o.value)") == [
        *("red", "blue")
    ]
    page.get_by_label("How it compares").select_option("=")
    value.fill("red")
    value.press("Enter")
    gallery = served.gallery.with_search(top_k=24)
    shows(page, gallery.where("colour=red").query(served.root / name, CHANGE).paths)
    expect(status).to_have_text("Best 24 of 30 images.")
    field.select_option("price")
    expect(value).to_have_attribute("placeholder", "0 to 59")
    page.get_by_label("How it compares").select_option("<")
    value.fill("10")
    page.get_by_role("button", name="Add", exact=True).click()
    narrow = gallery.where("colour=red", "price<10").query(served.root / name, CHANGE).paths
    assert 0 < len(narrow) <= 10
    shows(page, narrow)
    expect(page.get_by_role("button", name="Filter (2)")).to_be_visible()
    page.reload()
    shows(page, narrow)
    # Models that are asked anew go by it, too, and by what is typed and not yet added.
    page.get_by_role("button", name="Filter (2)").click()
    expect(page.get_by_role("button", name="Add", exact=True)).to_be_enabled()
    field.select_option("price")
    page.get_by_label("How it compares").select_option(">")
    value.fill("59")
    page.get_by_label("What should differ").fill("has a red star")
    page.get_by_role("button", name="Search").click()
    expect(status).to_have_text("No image matches the filter.", timeout=MODELS)
    expect(page.locator("#images li")).to_have_count(0)
    for condition in ("price>59", "price<10"):
        taken = page.get_by_role("button", name=f"No longer only images of {condition}")
        taken.focus()
        page.keyboard.press("Enter")
    shows(page, gallery.where("colour=red").query(served.root / name, "has a red star").paths)
    expect(page.locator("#conditions button")).to_be_focused()
    page.keyboard.press("Enter")
    shows(page, gallery.query(served.root / name, "has a red star").paths)
    expect(value).to_be_focused()
    field.select_option("width")
    page.get_by_label("How it compares").select_option("<")
    value.fill("wide")
    value.press("Enter")
    expect(status).to_have_text(re.compile("number"))
    expect(status).to_have_class("error")
    assert len(seen.errors) == 1, "the refusal"


def test_near_duplicates_are_one_card_that_opens(
    small_world: Path, tmp_path: Path, page: Page
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for place, picture in enumerate(sorted((small_world / "CIRCO").rglob("*.jpg"))[:6]):
        shutil.copy(picture, root / f"{place}.jpg")
    for quality in (70, 80):
        with Image.open(root / "3.jpg") as image:
            image.save(root / f"3-{quality}.jpg", quality=quality)
    served = Served(root, tmp_path / "cache", "--group-at", "0.99")
    page.goto(served.address)
    page.get_by_label("What should differ").fill("a large red circle")
    page.get_by_role("button", name="Search").click()
    opens = page.locator("#images .alike")
    expect(opens).to_have_text(["+2"], timeout=MODELS)
    closed = page.locator("#images .file").all_text_contents()
    gallery = served.gallery.grouped(0.99)
    found = gallery.query(None, "a large red circle")
    assert closed == found.paths
    assert len(closed) == 6
    [group] = [image for image in found.images if image.members]
    opens.focus()
    page.keyboard.press("Enter")
    place = found.images.index(group)
    members = [member.path for member in group.members]
    shows(page, [*closed[: place + 1], *members, *closed[place + 1 :]])
    expect(opens).to_be_focused()
    expect(opens).to_have_attribute("aria-expanded", "true")
    page.locator("#images .view").nth(place + 1).click()
    expect(page.get_by_role("dialog", name=members[0])).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name=members[0])).to_be_visible()
    page.keyboard.press("Escape")
    opens.click()
    shows(page, closed)
    page.get_by_role("button", name="Filter").click()
    page.get_by_label("Group near-duplicates").uncheck()
    shows(page, served.gallery.grouped(None).query(None, "a large red circle").paths)
    page.reload()
    shows(page, served.gallery.grouped(None).query(None, "a large red circle").paths)
    assert served.stop() == 130
