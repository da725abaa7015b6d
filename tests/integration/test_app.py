"""The page in a real Chromium, and its server against what it must not answer."""

import contextlib
import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from pipeline import config
from pipeline.errors import InputError
from pipeline.own import folder
from pipeline.own.folder import hash_of
from pipeline.own.gallery import Gallery
from pipeline.pages.app import App, Limits
from pipeline.pages.visitors import HEADERS
from tests.app_server import Served, ask, images_loaded, shows
from tests.browser import MODELS, watch
from tests.conftest import PROJECT
from tests.stub import Fault, Running, Stub

SCREENSHOTS = PROJECT / "outputs" / "app"
IMAGES = 150
CHANGE = "has a dark background"
NASTY = "<img src=x onerror=document.title='owned'>.jpg"


@pytest.fixture(scope="module")
def served(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("app") / "photos"
    shutil.copytree(small_world / "CIRCO" / "COCO2017_unlabeled" / "unlabeled2017", root)
    first = sorted(root.glob("*.jpg"))[0]
    first.rename(root / NASTY)
    running = Served(root, root.parent / "cache", "--max-upload", "2", "--max-pixels", "4")
    yield running
    assert running.stop() == 130, "Ctrl-C must end the server"


@pytest.fixture
def outside(small_world: Path, tmp_path: Path) -> Path:
    """A picture that is not in the gallery."""
    picture = sorted((small_world / "CIRR").rglob("*.png"))[0]
    return Path(shutil.copy(picture, tmp_path / "mine.png"))


def screenshot(page: Page, name: str) -> None:
    """Keep what the page looks like, its images loaded."""
    images_loaded(page)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_upload_query_sliders_texts_and_the_next_turns(
    served: Served, page: Page, outside: Path
) -> None:
    seen = watch(page)
    page.goto(served.address)
    expect(page.locator("header")).to_contain_text("photos, 150 images")
    page.get_by_label("Upload an image").set_input_files(outside)
    ask(page, CHANGE, IMAGES)
    expected = served.gallery.with_search(top_k=24).query(outside, CHANGE)
    shows(page, expected.paths)
    best = expected.images[0]
    numbers = page.locator("#images li").first.locator(".numbers")
    expect(numbers).to_contain_text(f"1. {best.score:.4f} (similarity {best.similarity:.4f}")
    screenshot(page, "1-results")

    # Sliders rank again, and no model is called.
    called = served.answers()
    seen.requests.clear()
    page.get_by_label("α⁻, weight of what the edit lost").fill("0")
    page.get_by_label("α⁺, weight of what the edit gained").fill("0.9")
    weighted = expected.rerank(alpha_neg=0.0, alpha_pos=0.9)
    expect(numbers).to_contain_text(f"{weighted.images[0].score:.4f}")
    shows(page, weighted.paths)
    assert weighted.paths != expected.paths
    asked = {url for url in seen.requests if not re.search(r"/images/|/icon\.svg$", url)}
    assert asked == {served.address + "rank"}
    assert served.answers() == called
    page.get_by_label("Method").select_option("image")
    by_image = expected.rerank(method="image")
    expect(numbers).to_contain_text(f"{by_image.images[0].score:.4f}")
    shows(page, by_image.paths)
    expect(page.get_by_label("α⁻, weight of what the edit lost")).to_be_hidden()
    page.get_by_label("Method").select_option("seize")
    expect(numbers).to_contain_text(f"{best.score:.4f}")
    shows(page, expected.paths)
    screenshot(page, "2-ranked-again")

    # The texts that led there, and what another text does.
    page.get_by_text("Captions and edited captions").click()
    texts = page.get_by_label(re.compile("^Edited caption"))
    assert texts.evaluate_all("all => all.map(one => one.value)") == list(expected.edited_captions)
    by_hand = "three large red circles on a dark background"
    own = [by_hand, *expected.edited_captions[1:]]
    texts.first.fill(by_hand)
    texts.first.blur()
    edited = expected.rerank(edited_captions=own)
    expect(numbers).to_contain_text(f"{edited.images[0].score:.4f}")
    shows(page, edited.paths)
    assert edited.paths != expected.paths
    screenshot(page, "3-edited-by-hand")
    page.get_by_role("button", name="Restore all texts").click()
    expect(numbers).to_contain_text(f"{best.score:.4f}")
    shows(page, expected.paths)
    assert served.answers() == called
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#images li")).to_have_count(48)

    # A result as the new reference, and back.
    second = page.locator("#images li").nth(1)
    second.get_by_role("button", name="as the new reference").click()
    expect(page.get_by_label("What should differ")).to_be_focused()
    ask(page, "has one more circle", IMAGES)
    reference = served.root / expected.images[1].path
    following = served.gallery.with_search(top_k=24).query(reference, "has one more circle")
    shows(page, following.paths)
    assert expected.images[1].path not in following.paths
    screenshot(page, "4-next-turn")
    turns = page.get_by_role("navigation", name="Turns").get_by_role("button")
    expect(turns).to_have_count(2)
    turns.first.click()
    shows(page, expected.rerank(top_k=48).paths)
    assert seen.errors == []


def test_everything_works_by_keyboard(served: Served, page: Page) -> None:
    seen = watch(page)
    page.goto(served.address)
    expect(page.locator("header")).to_contain_text("150 images")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the results")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Upload an image")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Pick a reference image")).to_be_visible()
    expect(page.get_by_label("File names that contain")).to_be_focused()
    candidates = page.locator("#candidates button")
    expect(candidates).to_have_count(48)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Pick from the gallery")).to_be_focused()
    page.keyboard.press("Enter")
    expect(candidates).to_have_count(48)
    name = sorted(served.root.glob("0*.jpg"))[40].name
    with page.expect_response(lambda response: response.url.endswith(f"name={name}")):
        page.keyboard.type(name)
    expect(candidates).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_label("What should differ")).to_be_focused()
    expect(page.locator("#reference-name")).to_have_text(name)
    page.keyboard.type(CHANGE)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Results")).to_be_focused(timeout=MODELS)
    before = page.locator("#images .file").all_text_contents()
    slider = page.get_by_label("α⁻, weight of what the edit lost")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.get_by_role("status").first).to_have_text("Ranked again.")
    expect(page.locator("#images li")).to_have_count(24)
    result = served.gallery.with_search(top_k=24, alpha_neg=0.0).query(served.root / name, CHANGE)
    shows(page, result.paths)
    assert result.paths != before
    page.locator("#images .view").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name=result.images[0].path)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#images .view").first).to_be_focused()
    assert seen.errors == []


def test_a_narrow_screen_shows_all_and_every_control_has_a_name(
    served: Served, page: Page, outside: Path
) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto(served.address)
    page.get_by_label("Upload an image").set_input_files(outside)
    ask(page, CHANGE, IMAGES)
    page.get_by_text("Captions and edited captions").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    for control in page.locator("button, select, textarea, input[type=range]").all():
        if not control.is_visible():
            continue
        box = control.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 320
        assert box["height"] >= 24, "a finger must be able to hit it"
    names = page.evaluate(
        """[...document.querySelectorAll('button, select, textarea, input')].map(one =>
            one.labels?.length || one.getAttribute('aria-label') || one.textContent.trim()
            || one.querySelector('img')?.alt)"""
    )
    assert all(names)
    assert page.locator("#images img:not([alt])").count() == 0
    assert page.get_by_role("status").first.get_attribute("aria-live") == "polite"
    screenshot(page, "5-narrow")


def test_what_cannot_be_used_is_said_and_the_page_goes_on(
    served: Served, page: Page, outside: Path, tmp_path: Path
) -> None:
    page.goto(served.address)
    expect(page.locator("header")).to_contain_text("150 images")
    status = page.get_by_role("status").first
    upload = page.get_by_label("Upload an image")
    page.get_by_label("What should differ").fill(CHANGE)
    search = page.get_by_role("button", name="Search")
    (tmp_path / "notes.txt").write_text("no image")
    upload.set_input_files(tmp_path / "notes.txt")
    expect(status).to_have_text("notes.txt is not an image.")
    (tmp_path / "large.png").write_bytes(b"x" * (3 << 20))
    upload.set_input_files(tmp_path / "large.png")
    expect(status).to_have_text("large.png is larger than 2 MiB.")
    (tmp_path / "fake.png").write_bytes(b"<svg onload=alert(1)>")
    upload.set_input_files(tmp_path / "fake.png")
    search.click()
    expect(status).to_have_text("fake.png is SVG, which is not read: convert it to PNG or JPEG.")
    Image.new("1", (3000, 2000)).save(tmp_path / "wide.png")
    upload.set_input_files(tmp_path / "wide.png")
    search.click()
    expect(status).to_contain_text("wide.png has 3000 x 2000 pixels, more than the 4,000,000")
    upload.set_input_files(outside)
    ask(page, CHANGE, IMAGES)
    expect(page.locator("#images li")).to_have_count(24)


def test_nothing_can_be_asked_before_the_settings_are_there(served: Served, page: Page) -> None:
    page.route("**/settings", lambda route: route.abort())
    page.goto(served.address)
    expect(page.get_by_role("status").first).to_contain_text("The server does not answer")
    expect(page.get_by_role("button", name="Search")).to_be_disabled()
    page.unroute("**/settings")
    page.reload()
    expect(page.get_by_role("button", name="Search")).to_be_enabled()


def test_no_name_or_text_becomes_markup(served: Served, page: Page) -> None:
    seen = watch(page)
    page.goto(served.address)
    page.get_by_role("button", name="Pick from the gallery").click()
    page.get_by_label("File names that contain").fill("onerror")
    expect(page.locator("#candidates button")).to_have_count(1)
    page.locator("#candidates button").click()
    expect(page.locator("#reference-name")).to_have_text(NASTY)
    ask(page, "<b id=owned>has a dark background</b>", IMAGES)
    page.get_by_text("Captions and edited captions").click()
    text = page.get_by_label("Edited caption 1", exact=True)
    text.fill("<script>document.title='owned'</script>")
    text.blur()
    expect(page.get_by_role("status").first).to_have_text("Ranked by the changed texts.")
    assert page.locator("#owned, main script, img[src=x]").count() == 0
    assert page.title() == "photos · seize"
    assert seen.errors == []


SECRET = b"this is no business of the page"


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/images/../../secret.txt",
        "/images/..%2f..%2fsecret.txt/small",
        "/images/%2e%2e/%2e%2e/secret.txt",
        "/images/..%5c..%5csecret.txt/large",
        "/images/%252e%252e%252fsecret.txt/small",
        "/app.js/../../../config.py",
        "/%2e%2e/pipeline/run.py",
        "//etc/passwd",
        "/images//etc/passwd/small",
        "/images/" + "0" * 64 + "/small",
        "/images/" + "0" * 64 + "/huge",
        "/images/" + "0" * 63 + "/small",
        "/images/%00/small",
        "/static/app.js",
        "/result.html",
        "/.git/config",
    ],
)
def test_no_path_leads_out_of_the_gallery(served: Served, path: str) -> None:
    (served.root.parent / "secret.txt").write_bytes(SECRET)
    status, headers, content = served.request(path)
    assert status == 404
    assert SECRET not in content
    assert b"root:" not in content
    assert HEADERS.items() <= headers.items()


def test_only_what_was_indexed_is_served_and_only_while_it_is_that(
    served: Served, outside: Path
) -> None:
    chosen, other = sorted(served.root.glob("0*.jpg"))[10:12]
    content_hash = hash_of(chosen.read_bytes())
    status, headers, content = served.request(f"/images/{content_hash}/large")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert content.startswith(b"\xff\xd8")
    outside_hash = hash_of(outside.read_bytes())
    assert served.request(f"/images/{outside_hash}/small")[0] == 404
    kept = chosen.read_bytes()
    assert served.request(f"/images/{content_hash}/small")[0] == 200  # held in memory from now on

    def statuses() -> list[int]:
        return [served.request(f"/images/{content_hash}/{s}")[0] for s in ("small", "large")]

    try:
        chosen.unlink()
        assert statuses() == [404, 404]
        chosen.symlink_to(outside)  # swapped after it was indexed
        assert statuses() == [404, 404]
        chosen.unlink()
        shutil.copy(other, chosen)
        assert statuses() == [404, 404]
        # A link to the very same bytes elsewhere is not followed either.
        (outside.parent / "same.jpg").write_bytes(kept)
        chosen.unlink()
        chosen.symlink_to(outside.parent / "same.jpg")
        assert statuses() == [404, 404]
        status, lines = served.query(reference=content_hash, relative_caption="has a blue star")
        assert status == 200
        assert "gone or was changed" in lines[-1]["error"]
    finally:
        chosen.unlink()
        chosen.write_bytes(kept)
    assert statuses() == [200, 200]


def test_what_was_dropped_from_the_index_is_not_served(small_world: Path, tmp_path: Path) -> None:
    pictures = sorted((small_world / "CIRCO").rglob("*.jpg"))[:3]
    root = tmp_path / "photos"
    root.mkdir()
    for picture in pictures:
        shutil.copy(picture, root)
    settings = config.load("demo", {"runtime.workers": 0})
    gallery = Gallery(root, settings, tmp_path / "cache")
    gallery.index()
    page = App(gallery, Limits()).images
    content_hash = hash_of(pictures[0].read_bytes())
    assert page.drawn(content_hash, "small")
    kept = tmp_path / "kept.jpg"
    (root / pictures[0].name).rename(kept)
    folder.index(gallery.folder)  # by another process
    kept.rename(root / pictures[0].name)
    for size in ("small", "large"):
        with pytest.raises(InputError, match="no such image"):
            page.drawn(content_hash, size)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:{port}"}, 403),
        ({"Host": "127.0.0.1.evil.example:{port}"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:{port}"}, 200),
        ({"Host": "[::1]:{port}"}, 200),
        ({"Host": "127.0.0.1:{port}", "Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Host": "127.0.0.1:{port}", "Origin": "http://evil.example"}, 403),
        ({"Host": "127.0.0.1:{port}", "Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_other_sites_get_no_answer(served: Served, headers: dict[str, str], status: int) -> None:
    sent = {name: value.format(port=served.port) for name, value in headers.items()}
    found, received, content = served.request("/gallery", headers=sent)
    assert found == status
    assert HEADERS.items() <= received.items()
    assert (b"photos" in content or b".jpg" in content) == (status == 200)


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"relative_caption": " "}, 400, "There is nothing to search by"),
        ({"relative_caption": "x", "reference": "../secret.txt"}, 400, "reference"),
        ({"relative_caption": "x" * 2000, "image": b"x"}, 400, "has 2,000 characters, more than"),
        ({"relative_caption": "x", "image": b"x", "alpha_neg": "nan"}, 400, "alpha_neg"),
        ({"relative_caption": "x", "image": b"x", "method": "seise"}, 400, "Did you mean 'seize'"),
        ({"relative_caption": "x", "image": b"x", "top_k": "9999"}, 400, "top_k"),
        ({"relative_caption": "x", "image": b"x", "cache": "/"}, 400, "cache"),
        ({"relative_caption": "x", "image": b"x" * (3 << 20)}, 413, "larger"),
        ({"relative_caption": "x", "method": "m" * 60_000}, 400, "method has 60,000 characters"),
        ({"relative_caption": "x", "more": "y" * 70_000}, 413, "larger"),
        ({"relative_caption": "x", "unlike_images": "../secret.txt"}, 400, "unlike_images"),
        ({"relative_caption": "x", "unlike_images": "f" * 64}, 200, "not known here"),
        ({"relative_caption": "x", "image": b"%!PS-Adobe-3.0 EPSF-3.0"}, 200, "is PostScript"),
    ],
)
def test_queries_out_of_bounds_are_refused_in_words(
    served: Served, fields: dict[str, Any], status: int, said: str
) -> None:
    found, lines = served.query(**fields)
    assert found == status
    assert said in lines[-1]["error"]


def test_rankings_out_of_bounds_are_refused_in_words(served: Served) -> None:
    good = {
        "reference": hash_of(sorted(served.root.glob("0*.jpg"))[3].read_bytes()),
        "relative_caption": CHANGE,
        "captions": ["a red star"],
        "edited_captions": ["a red star on a dark background"],
    }

    def rank(content: Any) -> tuple[int, dict[str, Any]]:
        status, _, body = served.request("/rank", "POST", json.dumps(content).encode())
        return status, json.loads(body)

    status, answer = rank(good)
    assert status == 200
    assert len(answer["images"]) == 24
    assert str(served.root) not in json.dumps(answer), "paths of the machine stay on it"
    assert rank(good | {"reference": "f" * 64})[0] == 400
    assert rank(good | {"edited_captions": ["x"] * 513})[0] == 400
    assert rank(good | {"captions": ["x", "y"]})[0] == 400
    assert rank(good | {"alpha_pos": float("inf")})[0] == 400
    assert rank([])[0] == 400
    assert served.request("/rank", "POST", b"\xff{")[0] == 400
    assert served.request("/query", "POST", b"no form")[0] == 400
    assert served.request("/rank")[0] == 405


def test_the_page_answers_while_queries_are_worked_on(served: Served, small_world: Path) -> None:
    pictures = sorted((small_world / "FashionIQ" / "images").iterdir())[:8]
    told: list[list[dict[str, Any]]] = [[] for _ in pictures]
    llm = Running(Stub(held=True))
    busy = Served(served.root, served.cache, "--llm", "echo", "--llm-url", llm.url)

    def ask_for(picture: Path, lines: list[dict[str, Any]]) -> None:
        fields: dict[str, Any] = {"image": picture.read_bytes(), "relative_caption": CHANGE}
        for line in busy.told(**fields):
            lines.append(line)

    users = [threading.Thread(target=ask_for, args=one) for one in zip(pictures, told, strict=True)]
    for user in users:
        user.start()
    end = time.monotonic() + 300
    while not any(line.get("step") == "wait" for lines in told for line in lines):
        assert time.monotonic() < end, "all queries are worked on at once"
        time.sleep(0.05)
    assert busy.request("/gallery?name=jpg")[0] == 200
    assert not any("result" in line for lines in told for line in lines), "no query had to end"
    llm.stub.held = False
    for user in users:
        user.join()
    assert all(len(lines[-1]["result"]["images"]) == 24 for lines in told)
    assert busy.stop() == 130
    llm.stop()


def test_a_taken_port_and_a_missing_index_are_said(served: Served, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "app", "--config", "demo"]
    options = [str(served.root), "--cache", str(served.cache), "--port", str(served.port)]
    taken = subprocess.run([*command, *options], cwd=PROJECT, capture_output=True, text=True)
    assert taken.returncode == 3
    assert taken.stderr.startswith(f"Error: Cannot listen at 127.0.0.1 port {served.port}")
    options = [str(served.root), "--cache", str(tmp_path), "--no-index"]
    missing = subprocess.run([*command, *options], cwd=PROJECT, capture_output=True, text=True)
    assert missing.returncode == 4
    assert "Run: seize index" in missing.stderr


@pytest.mark.parametrize("how", ["Ctrl-C", "Ctrl-C twice", "SIGTERM"])
def test_it_ends_within_seconds_while_a_query_waits_for_an_llm(
    small_world: Path, outside: Path, tmp_path: Path, how: str
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    shutil.copy(outside, root / "one.png")
    llm = Running(Stub(plan=lambda text, tries: Fault(hang=True)))
    said = tmp_path / "stderr"
    with said.open("w") as stderr:
        options = ("--llm", "echo", "--llm-url", llm.url)
        running = Served(root, tmp_path / "cache", *options, stderr=stderr)
        fields = {"image": outside.read_bytes(), "relative_caption": "is red"}
        asking = threading.Thread(target=lambda: _ignoring_its_end(running, fields), daemon=True)
        asking.start()
        end = time.monotonic() + 300
        while not llm.stub.running:
            assert time.monotonic() < end
            time.sleep(0.1)
        running.process.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGINT)
        if how == "Ctrl-C twice":
            time.sleep(0.3)
            running.process.send_signal(signal.SIGINT)
        code = running.process.wait(60)  # the LLM would be waited for much longer
    llm.stop()
    assert code == (-signal.SIGTERM if how == "SIGTERM" else 130)
    assert "Traceback" not in said.read_text()


def _ignoring_its_end(running: Served, fields: dict[str, Any]) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        running.query(**fields)
