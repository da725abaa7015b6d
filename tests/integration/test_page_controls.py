"""What the page shows and hides, seen in a real Chromium: no control is there that does nothing."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from tests.app_server import Served, ask, shows
from tests.browser import MODELS, WAIT, watch

IMAGES = 250
"""More than one ranking shows."""
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("controls") / "photos"
    root.mkdir()
    for number in range(IMAGES):
        Image.new("RGB", (24, 24), (number, 255 - number, 100)).save(root / f"{number:03}.png")
    running = Served(root, root.parent / "cache", "--set", "own.group_at=null")
    running.gallery = running.gallery.grouped(None)  # these pictures are all nearly the same
    yield running
    assert running.stop() == 130


def nothing_hidden_is_seen(page: Page) -> bool:
    return bool(
        page.evaluate(
            "[...document.querySelectorAll('[hidden]')].every(one => !one.getClientRects().length)"
        )
    )


def test_a_fresh_page_offers_what_it_can_do_and_no_more(served: Served, page: Page) -> None:
    seen = watch(page)
    page.goto(served.address)
    expect(page.get_by_role("button", name="Search")).to_be_enabled()
    assert page.locator("[hidden]").count() >= 4
    assert nothing_hidden_is_seen(page)
    for name in ("#more", "#reference", "#turns-box", "#texts-box"):
        expect(page.locator(name)).to_be_hidden()
    # A style for all elements of a kind shows none that is hidden.
    page.evaluate("for (const one of document.querySelectorAll('main *')) one.hidden = true")
    assert nothing_hidden_is_seen(page)
    assert seen.errors == []


def test_more_is_offered_as_long_as_there_is_more(served: Served, page: Page) -> None:
    seen = watch(page)
    page.goto(served.address)
    page.get_by_role("button", name="Pick from the gallery").click()
    page.locator("#candidates button").first.click()
    ask(page, "is blue", IMAGES)
    status = page.get_by_role("status").first
    more = page.locator("#more")
    for count in range(48, 241, 24):
        expect(more).to_be_visible()
        more.click()
        expect(status).to_have_text("24 more images shown.")
        expect(page.locator("#images li")).to_have_count(count)
    expect(more).to_be_hidden()
    assert nothing_hidden_is_seen(page)
    # What comes behind, page by page, up to the last image.
    name = page.locator("#reference-name").text_content() or ""
    expected = served.gallery.with_search(top_k=IMAGES).query(served.root / name, "is blue").paths
    assert len(expected) == IMAGES - 1
    shows(page, expected[:240])
    page.get_by_role("button", name="Later results").click()
    shows(page, expected[240:])
    expect(status).to_have_text(f"Images 241 to 249 of {IMAGES}.")
    expect(page.get_by_role("heading", name="Results")).to_be_focused()
    expect(page.get_by_role("button", name="Later results")).to_be_hidden()
    first = page.locator("#images .numbers").first
    expect(first).to_contain_text("241. ")
    page.reload()
    shows(page, expected[240:])
    page.get_by_label("From place").fill("101")
    page.get_by_label("From place").press("Enter")
    shows(page, expected[100:])
    page.go_back()
    shows(page, expected[240:])
    page.get_by_role("button", name="Earlier results").click()
    shows(page, expected[:240])
    page.get_by_role("button", name="Later results").click()
    shows(page, expected[240:])
    page.get_by_label("Method").select_option("image")  # another ranking begins with its best
    expect(status).to_have_text("Ranked by image.")
    expect(first).to_have_text(re.compile(r"^1\. "))
    page.get_by_label("From place").fill("99999")
    page.get_by_label("From place").press("Enter")
    expect(status).to_have_text("No further images.")
    page.get_by_role("button", name="Earlier results").click()
    expect(status).to_have_text(f"Images 10 to 249 of {IMAGES}.")
    assert nothing_hidden_is_seen(page)
    assert seen.errors == []


def test_every_place_of_a_ranking_is_answered(served: Served) -> None:
    reference = next(iter(served.gallery.paths))
    asked = {"reference": reference, "relative_caption": "is red", "method": "image+text"}
    gallery = served.gallery.with_search(method="image+text", top_k=IMAGES)
    file = served.root / served.gallery.paths[reference][0]
    expected = gallery.query(file, "is red").paths
    found = []
    for start in range(0, IMAGES, 100):
        status, lines = served.query(**asked, top_k="100", start=str(start))
        assert status == 200
        found += [image["path"] for image in lines[-1]["result"]["images"]]
        body = json.dumps(asked | {"captions": [], "edited_captions": [], "start": start})
        _, _, ranked = served.request("/rank", "POST", body.encode())
        again = [image["path"] for image in json.loads(ranked)["images"]]
        assert again == expected[start : start + 24]
    assert found == expected
    for wrong in ("-1", "1.5", "999_999_999"):
        status, lines = served.query(**asked, start=wrong)
        assert status == 400
        assert "start" in lines[-1]["error"]


def test_the_picker_offers_more_only_where_there_is_more(served: Served, page: Page) -> None:
    page.goto(served.address)
    page.get_by_role("button", name="Pick from the gallery").click()
    expect(page.locator("#picker-count")).to_have_text(f"48 of {IMAGES} images")
    expect(page.locator("#picker-more")).to_be_visible()
    page.get_by_label("File names that contain").fill("00")
    expect(page.locator("#picker-count")).to_have_text("12 of 12 images")
    expect(page.locator("#picker-more")).to_be_hidden()
    assert nothing_hidden_is_seen(page)


@pytest.mark.parametrize("scrolled", [False, True])
def test_on_a_phone_the_picker_is_closed_without_scrolling(
    served: Served, page: Page, scrolled: bool
) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.goto(served.address)
    page.get_by_role("button", name="Pick from the gallery").click()
    expect(page.locator("#candidates button")).to_have_count(48)
    picker = page.get_by_role("dialog", name="Pick a reference image")
    assert picker.evaluate("one => one.scrollHeight > 2 * one.clientHeight"), "it is long"
    if scrolled:
        picker.evaluate("one => one.scrollTo(0, one.scrollHeight)")
    close = picker.get_by_role("button", name="Close")
    box = close.bounding_box()
    assert box is not None
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= PHONE["height"]
    assert min(box["width"], box["height"]) >= 40, "a finger must be able to hit it"
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    on_top = page.evaluate("([x, y]) => document.elementFromPoint(x, y).id", [x, y])
    assert on_top == "picker-close", "nothing covers it"
    page.mouse.click(x, y)
    expect(picker).to_be_hidden()


def test_a_tap_beside_a_dialog_closes_it_and_one_inside_does_not(
    served: Served, page: Page
) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.goto(served.address)
    page.get_by_role("button", name="Pick from the gallery").click()
    picker = page.get_by_role("dialog", name="Pick a reference image")
    expect(page.locator("#candidates button")).to_have_count(48)
    box = picker.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 4, box["y"] + box["height"] / 2)  # its own margin
    expect(picker).to_be_visible()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] / 2)
    expect(picker).to_be_hidden()


def test_a_text_is_never_longer_than_is_taken(served: Served, page: Page) -> None:
    page.goto(served.address)
    expect(page.get_by_role("button", name="Search")).to_be_enabled()
    text = page.get_by_label("What should differ")
    assert text.get_attribute("maxlength") == "1000"
    text.focus()
    page.keyboard.insert_text("x" * 1500)
    assert len(text.input_value()) == 1000
    reference = next(iter(served.gallery.paths))
    status, lines = served.query(relative_caption="x" * 1001, reference=reference)
    assert status == 400
    assert "has 1,001 characters, more than the 1,000 allowed" in lines[0]["error"]


def test_the_command_refuses_a_text_that_the_page_refuses(served: Served, tmp_path: Path) -> None:
    from tests.integration.test_cli import seize

    picture = str(next(served.root.iterdir()))
    options = ("--gallery", str(served.root), "--config", "demo", "--cache", str(served.cache))
    done = seize("query", picture, "x" * 1001, *options)
    assert done.exit_code == 3
    assert "1,001 characters, more than the 1,000 allowed: say it in fewer words" in done.stderr


class Late:
    """The requests whose address ends as given: each is answered only when it is let go."""

    def __init__(self, page: Page, end: str) -> None:
        self.page = page
        self.routes: list[Route] = []
        page.route(lambda url: url.endswith(end), lambda route: self.routes.append(route))

    def let_go(self) -> None:
        """Have the one that was asked for answered."""
        end = time.monotonic() + WAIT / 1000
        while not self.routes:
            assert time.monotonic() < end, "it was never asked"
            self.page.wait_for_timeout(10)
        self.routes.pop().continue_()


@pytest.mark.parametrize(
    ("typed", "last", "on", "then_on"),
    [
        ("07", ".png", "107.png", "107.png"),  # it is still there, at another place
        ("12", "3", "124.png", "123.png"),  # it is gone: the one nearest to its place
        ("9", "?", "019.png", None),  # none is left: the text that lists them
    ],
)
def test_an_answer_that_comes_late_does_not_take_the_focus(
    served: Served, page: Page, typed: str, last: str, on: str, then_on: str | None
) -> None:
    """A list is shown anew under the keyboard: Enter goes on to choose from it."""
    late = Late(page, f"name={quote_plus(typed + last)}")
    page.goto(served.address)
    page.get_by_role("button", name="Pick from the gallery").click()
    name = page.get_by_label("File names that contain")
    name.fill(typed)
    expect(page.locator("#picker-count")).not_to_contain_text(f"of {IMAGES}")
    before = page.get_by_role("button", name=on)
    expect(before).to_be_visible()
    name.fill(typed + last)
    before.focus()
    before.evaluate("one => one.setAttribute('data-before', '')")
    late.let_go()
    expect(page.locator("[data-before]")).to_have_count(0)
    if then_on is None:
        expect(name).to_be_focused()
        return
    expect(page.get_by_role("button", name=then_on)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#reference-name")).to_have_text(then_on)
    expect(page.get_by_label("What should differ")).to_be_focused()


def test_further_images_are_not_mixed_with_other_names(served: Served, page: Page) -> None:
    late = Late(page, "name=1")
    page.goto(served.address)
    page.get_by_role("button", name="Pick from the gallery").click()
    count = page.locator("#picker-count")
    expect(count).to_have_text(f"48 of {IMAGES} images")
    page.get_by_label("File names that contain").fill("1")
    page.locator("#picker-more").click()
    late.let_go()
    total = sum("1" in f"{number:03}" for number in range(IMAGES))
    expect(count).to_have_text(f"48 of {total} images")
    names = page.locator("#candidates img").evaluate_all("all => all.map(one => one.alt)")
    assert len(names) == 48
    assert all("1" in one for one in names)


def test_the_focus_stays_with_a_result_that_is_ranked_anew(served: Served, page: Page) -> None:
    page.goto(served.address)
    page.locator("#samples button").first.click()
    ask(page, "is red", IMAGES)
    box = page.locator("#images li").nth(5).get_by_role("checkbox")
    named = box.get_attribute("aria-label") or ""
    box.focus()
    box.evaluate("one => one.setAttribute('data-before', '')")
    page.locator("#alpha-neg").evaluate(
        "one => { one.value = 0; one.dispatchEvent(new Event('input')); }"
    )
    expect(page.locator("[data-before]")).to_have_count(0)
    expect(page.get_by_role("checkbox", name=named, exact=True)).to_be_focused()
    # From the viewer, the image as the reference: what should differ is said next.
    page.locator("#images .view").nth(3).focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Use as reference", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_label("What should differ")).to_be_focused()


def test_what_is_ranked_anew_meanwhile_changes_no_choice(served: Served, page: Page) -> None:
    page.goto(served.address)
    page.locator("#samples button").first.click()
    ask(page, "is red", IMAGES)
    late = Late(page, "/rank")
    before = page.locator("#images .file").all_text_contents()
    page.get_by_label("Method").select_option("text")
    page.locator("#images .view").nth(1).click()
    expect(page.get_by_role("dialog", name=before[1])).to_be_visible()
    page.get_by_label("Method").evaluate(
        "one => { one.value = 'image'; one.dispatchEvent(new Event('change')); }"
    )
    for _ in range(2):  # the second is asked for when the first was answered
        late.let_go()
    expect(page.locator("#status")).to_have_text("Ranked by image.")
    assert page.locator("#images .file").all_text_contents()[1] != before[1]
    page.get_by_role("button", name="Next image").click()
    expect(page.get_by_role("dialog", name=before[2])).to_be_visible()
    page.get_by_role("button", name="Use as reference", exact=True).click()
    expect(page.locator("#reference-name")).to_have_text(before[2])


def test_what_takes_itself_away_hands_the_focus_on(served: Served, page: Page) -> None:
    page.goto(served.address)
    page.locator("#samples button").first.click()
    ask(page, "is red", IMAGES)
    for place in range(2):
        page.locator("#images li").nth(place).get_by_role("button", name="Less like").click()
    kept = page.locator("#unlike-images button")
    expect(kept).to_have_count(2)
    kept.first.focus()
    page.keyboard.press("Enter")
    expect(kept).to_have_count(1)
    expect(kept).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("but not")).to_be_focused()
    page.locator("#images li").first.get_by_role("checkbox").check()
    page.get_by_role("button", name="Select none").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Save as CSV")).to_be_focused()
    page.route("**/query", lambda route: None)  # no answer
    page.get_by_role("button", name="Search").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Search")).to_be_focused()


def test_what_is_typed_while_a_query_runs_is_kept(served: Served, page: Page) -> None:
    late = Late(page, "/query")
    page.goto(served.address)
    text = page.get_by_label("What should differ")
    text.fill("is red")
    expect(page.get_by_role("button", name="Search")).to_be_enabled()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    text.fill("is red and round")
    late.let_go()
    expect(page.locator("#images li")).to_have_count(24, timeout=MODELS)
    expect(text).to_have_value("is red and round")
    expect(text).to_be_focused()


def test_an_image_is_taken_before_the_settings_are_there(served: Served, page: Page) -> None:
    late = Late(page, "/settings")
    page.goto(served.address)
    page.get_by_label("Upload an image").set_input_files(served.root / "007.png")
    expect(page.locator("#reference-name")).to_have_text("007.png")
    late.let_go()
    expect(page.get_by_role("button", name="Search")).to_be_enabled()
    expect(page.locator("#reference-name")).to_have_text("007.png")
