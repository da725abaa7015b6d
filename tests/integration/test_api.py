"""The page's HTTP API is what its description says, and the description is served with it."""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

from pipeline.pages.questions import Question, Texts
from tests.app_server import Served
from tests.browser import watch


@pytest.fixture(scope="module")
def served(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("api") / "photos"
    root.mkdir()
    for picture in sorted((small_world / "CIRCO").rglob("*.jpg"))[:8]:
        shutil.copy(picture, root)
    running = Served(root, root.parent / "cache")
    yield running
    assert running.stop() == 130


def test_every_path_that_is_described_answers_and_takes_what_is_described(served: Served) -> None:
    status, _, body = served.request("/openapi.json")
    assert status == 200
    api = json.loads(body)
    assert api["openapi"].startswith("3.1")
    assert json.loads(served.request("/healthz")[2]) == {"ok": True, "images": 8}
    hashed = next(iter(served.gallery.paths))
    for path, methods in api["paths"].items():
        for method in methods:
            place = path.replace("{hash}", hashed).replace("{size}", "small")
            status, headers, _ = served.request(
                place, method.upper(), b"" if method == "post" else None
            )
            assert status == (400 if method == "post" else 200), path
            assert headers["X-Content-Type-Options"] == "nosniff"
    form = api["paths"]["/query"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert set(form["schema"]["properties"]) == {*Question.model_fields, "image"}
    ranked = api["paths"]["/rank"]["post"]["requestBody"]["content"]["application/json"]
    assert set(ranked["schema"]["properties"]) == set(Texts.model_fields)


def test_an_answer_has_what_is_described(served: Served) -> None:
    hashed = next(iter(served.gallery.paths))
    status, lines = served.query(reference=hashed, relative_caption="is red", method="image")
    assert status == 200
    described = json.loads(served.request("/openapi.json")[2])["paths"]["/query"]["post"]
    line = described["responses"]["200"]["content"]["application/x-ndjson"]["schema"]["properties"]
    result = lines[-1]["result"]
    assert set(line["result"]["properties"]) <= result.keys()
    image = line["result"]["properties"]["images"]["items"]["properties"]
    assert set(image) == set(result["images"][0])


def test_a_turn_goes_on_from_a_result(served: Served) -> None:
    hashed = next(iter(served.gallery.paths))
    asked = {"reference": hashed, "method": "image+text"}
    first = served.query(**asked, relative_caption="is red")[1][-1]["result"]
    asked |= {"state": "query", "vector": first["vector"], "relative_caption": "has a star"}
    second = served.query(**asked)[1][-1]["result"]
    gallery = served.gallery.with_search(method="image+text", top_k=24)
    expected = gallery.query(served.root / first["path"], "is red").turn("has a star", "query")
    assert [image["path"] for image in second["images"]] == expected.paths
    body = json.dumps(asked | {"captions": [], "edited_captions": []}).encode()
    headers = {"Content-Type": "application/json"}
    again = json.loads(served.request("/rank", "POST", body, headers)[2])
    assert again["images"] == second["images"]
    narrow = base64.b64encode(np.ones(3, "<f4").tobytes()).decode()
    assert "another encoder" in served.query(**asked | {"vector": narrow})[1][-1]["error"]
    for wrong, said in (
        ({"method": "seize"}, "choose image or caption"),
        ({"vector": ""}, "ask the turn before again"),
        ({"state": "given"}, "state"),
        ({"image": b"x"}, "send none"),
    ):
        status, lines = served.query(**asked | wrong)
        assert status == 400
        assert said in lines[-1]["error"]


def test_the_page_of_it_loads_nothing_from_elsewhere(served: Served, page: Page) -> None:
    seen = watch(page)
    page.goto(served.address + "docs")
    assert page.locator("h2").all_text_contents()[-1] == "POST /export"
    assert page.get_by_text("unlike_images").count() == 2
    assert all(url.startswith(served.address) for url in seen.requests)
    assert seen.errors == []
