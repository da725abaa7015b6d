"""What the other browser tests stand on: a real Chromium that tells of errors and requests."""

import pytest
from playwright.sync_api import Page

from tests import browser
from tests.browser import install_chromium, watch


def test_a_page_runs_and_its_errors_and_requests_are_seen(page: Page) -> None:
    seen = watch(page)
    page.set_content("<p>α⁺</p><script>document.querySelector('p').id = 'ran'</script>")
    assert page.locator("#ran").inner_text() == "α⁺"
    assert (seen.errors, seen.requests) == ([], [])
    page.evaluate("console.error('wrong')")
    page.set_content("<img src='http://127.0.0.1:9/picture.png'>", wait_until="load")
    assert seen.errors[0] == "wrong"
    assert seen.requests == ["http://127.0.0.1:9/picture.png"]


def test_without_chromium_the_message_says_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMIUM", "no-such-browser")
    monkeypatch.setattr(browser, "INSTALLERS", ("echo no network >&2; exit 3",))
    with pytest.raises(RuntimeError, match=r"(?s)need Chromium.*exit code 3: no network"):
        install_chromium("nowhere")
