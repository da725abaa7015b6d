"""`seize app` in a process of its own, for tests and screenshots."""

import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from playwright.sync_api import Page, expect

from pipeline import config
from pipeline.own.gallery import Gallery
from tests.browser import MODELS
from tests.conftest import PROJECT

SETTINGS = config.load("demo", {"runtime.workers": 0})


class Served:
    """A running `seize app`, and a gallery on the same index and cache to compare with."""

    def __init__(
        self, root: Path, cache: Path, *options: str, stderr: TextIO | None = None
    ) -> None:
        self.root = root
        self.cache = cache
        self.gallery = Gallery(root, SETTINGS, self.cache)
        self.gallery.index()
        command = [sys.executable, "-m", "pipeline", "app", str(root), "--config", "demo"]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--cache", str(self.cache), "--no-index", *options],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        assert found, said
        self.address, self.port = found[0], int(found[1])

    def request(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send exactly this path; return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.putrequest(method, path, skip_host="Host" in (headers or {}))
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, dict(response.headers.items()), content

    def query(self, **fields: str | bytes) -> tuple[int, list[dict[str, Any]]]:
        """Post a query as the page does; return status and the answer's lines."""
        body, headers = _form(fields)
        status, _, content = self.request("/query", "POST", body, headers)
        return status, [json.loads(line) for line in content.splitlines()]

    def told(self, **fields: str | bytes) -> Iterator[dict[str, Any]]:
        """Post a query; yield each line of the answer when it comes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        with contextlib.closing(connection):
            connection.request("POST", "/query", *_form(fields))
            yield from map(json.loads, connection.getresponse())

    def answers(self) -> int:
        """How many captions and edits were ever kept: it grows with every model call."""
        files = (self.cache / "queries").rglob("*.jsonl")
        return sum(file.read_bytes().count(b"\n") for file in files)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(300)


def _form(fields: Mapping[str, str | bytes]) -> tuple[bytes, dict[str, str]]:
    """Return a form's body, with a file where it is an image, and the header that names it one."""
    boundary = secrets.token_hex(8)
    parts = []
    for name, value in fields.items():
        file = '; filename="x.png"\r\nContent-Type: image/png' if name == "image" else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + (value if isinstance(value, bytes) else value.encode()))
    body = b"\r\n".join([*parts, f"--{boundary}--\r\n".encode()])
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def ask(page: Page, text: str, total: int) -> None:
    """Fill in the text and search; return when the page has one more turn, of 24 of the images."""
    turns = page.locator("#turns li")
    before = turns.count()
    page.get_by_label("What should differ").fill(text)
    page.get_by_role("button", name="Search").click()
    expect(turns).to_have_count(before + 1, timeout=MODELS)
    expect(page.get_by_role("status").first).to_have_text(f"Best 24 of {total} images.")


def shows(page: Page, paths: list[str]) -> None:
    """Return when exactly these are the images of the results, in their order."""
    expect(page.locator("#images .file")).to_have_text(paths, timeout=MODELS)


def images_loaded(page: Page) -> None:
    """Return when the images that are in sight are there; what is not in sight may load later."""
    end = time.monotonic() + 60
    while page.evaluate(
        """[...document.querySelectorAll('img[src]')].some(image => {
            const { top, bottom, width } = image.getBoundingClientRect();
            const inSight = width && bottom > 0 && top < innerHeight;
            return inSight && !(image.complete && image.naturalWidth);
        })"""
    ):
        assert time.monotonic() < end, "an image does not load"
        page.wait_for_timeout(20)
