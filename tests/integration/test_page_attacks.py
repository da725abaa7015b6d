"""The page under requests made to freeze it, to fill its machine, or to learn about that."""

import contextlib
import gzip
import http.client
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.own.folder import hash_of
from pipeline.pages.connections import IDLE
from pipeline.pages.visitors import HEADERS
from tests.app_server import Served
from tests.conftest import PROJECT

SOON = 60.0
"""Seconds within which another user is answered, on a busy machine too: far fewer than the worst
attacks here would keep everyone waiting."""
CHANGE = "has a dark background"


@pytest.fixture(scope="module")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "stderr"


@pytest.fixture(scope="module")
def served(
    small_world: Path, tmp_path_factory: pytest.TempPathFactory, log_file: Path
) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("attacks") / "photos"
    root.mkdir()
    pictures = sorted((small_world / "CIRCO/COCO2017_unlabeled/unlabeled2017").glob("*.jpg"))
    for picture in pictures[:30]:
        shutil.copy(picture, root)
    with log_file.open("w") as stderr:
        running = Served(
            root, root.parent / "cache", "--queries", "2", "--waiting", "4", stderr=stderr
        )
        running.query(relative_caption=CHANGE, reference=one_of(running))  # the models are loaded
        yield running
        assert running.stop() == 130
    assert "Traceback" not in log_file.read_text()


def one_of(served: Served) -> str:
    return hash_of(sorted(served.root.glob("*.jpg"))[0].read_bytes())


class Watch:
    """Another user, who asks for the settings and an image all the time."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.slowest = 0.0
        self.statuses: list[int] = []
        self.answers = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        image = f"/images/{one_of(self.served)}/small"
        while not self._over.is_set() or self.answers == 0:
            for path in ("/settings", image):
                start = time.monotonic()
                try:
                    self.statuses.append(self.served.request(path)[0])
                except (OSError, http.client.HTTPException):
                    self.statuses.append(0)
                self.slowest = max(self.slowest, time.monotonic() - start)
                self.answers += 1
            time.sleep(0.02)

    def wait_for_another(self) -> None:
        """Return when something was answered that was asked after this was called."""
        before = self.answers
        while self.answers < before + 2:
            assert self._thread.is_alive()
            time.sleep(0.01)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        assert self.answers == len(self.statuses) > 1
        assert set(self.statuses) == {200}
        assert self.slowest < SOON


def good(served: Served, **changed: Any) -> dict[str, Any]:
    return {
        "reference": one_of(served),
        "relative_caption": CHANGE,
        "captions": ["a red star"],
        "edited_captions": ["a red star on a dark background"],
    } | changed


def test_no_other_encoding_is_decoded(served: Served) -> None:
    body = json.dumps(good(served)).encode()
    kind = "application/json"
    for charset in ("punycode", "idna", "utf-7", "utf-16", "rot13", "no-such"):
        given = {"Content-Type": f"{kind}; charset={charset}"}
        with Watch(served):
            status, headers, content = served.request("/rank", "POST", b"a" * (3 << 20), given)
        assert status == 415
        assert HEADERS.items() <= headers.items()
        assert b"UTF-8" in content
    given = {"Content-Type": f"{kind}; charset=UTF-8"}
    assert served.request("/rank", "POST", body, given)[0] == 200
    # A form's field may name one too, and a field `_charset_` that of all of them.
    field = "--x\r\nContent-Disposition: form-data; name=relative_caption\r\n"
    for part in (
        f"{field}Content-Type: text/plain; charset=punycode\r\n\r\n{'a' * 60_000}\r\n--x--\r\n",
        f"--x\r\nContent-Disposition: form-data; name=_charset_\r\n\r\npunycode\r\n{field}\r\n"
        f"{'a' * 60_000}\r\n--x--\r\n",
    ):
        with Watch(served):
            kind = "multipart/form-data; boundary=x"
            found = served.request("/query", "POST", part.encode(), {"Content-Type": kind})
        assert found[0] in (400, 415)
    kind = "application/x-www-form-urlencoded; charset=punycode"
    assert served.request("/query", "POST", b"a=b", {"Content-Type": kind})[0] == 415


def nested(served: Served) -> bytes:
    return b"[" * (3 << 20)


def keys(served: Served) -> bytes:
    return ("{" + ",".join(f'"{number}":0' for number in range(380_000)) + "}").encode()


def items(served: Served) -> bytes:
    return json.dumps(good(served, captions=[0] * 1_200_000)).encode()


def lists(served: Served) -> bytes:
    return json.dumps(good(served, captions=[[]] * 1_000_000)).encode()


def long_name(served: Served) -> bytes:
    return json.dumps(good(served, method="m" * (3 << 20))).encode()


def digits(served: Served) -> bytes:
    return json.dumps(good(served)).encode()[:-1] + b', "top_k": ' + b"9" * (3 << 20) + b"}"


@pytest.mark.parametrize("hostile", [nested, keys, items, lists, long_name, digits])
def test_hostile_json_is_refused_while_others_are_answered(
    served: Served, hostile: Callable[[Served], bytes]
) -> None:
    body = hostile(served)
    assert len(body) < 4 << 20
    answers: list[tuple[int, bytes]] = []

    def send() -> None:
        status, _, content = served.request("/rank", "POST", body)
        answers.append((status, content))

    with Watch(served):
        senders = [threading.Thread(target=send) for _ in range(3)]
        start = time.monotonic()
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    assert time.monotonic() - start < 3 * SOON
    assert [status for status, _ in answers] == [400] * 3
    assert all(len(content) < 1000 for _, content in answers)


def test_more_json_than_a_ranking_needs_is_refused_unread(served: Served) -> None:
    status, headers, content = served.request("/rank", "POST", b" " * (5 << 20))
    assert status == 413
    assert HEADERS.items() <= headers.items()
    assert b"larger than this server takes" in content


def test_compressed_requests_are_refused_unpacked_by_nobody(served: Served) -> None:
    bomb = gzip.compress(b"\0" * (256 << 20), 9)
    kinds = {"/rank": "application/json", "/query": "multipart/form-data; boundary=x"}
    for path, kind in kinds.items():
        with Watch(served):
            start = time.monotonic()
            given = {"Content-Encoding": "gzip", "Content-Type": kind}
            status, headers, _ = served.request(path, "POST", bomb, given)
        assert status == 415
        assert HEADERS.items() <= headers.items()
        assert time.monotonic() - start < SOON


def connect(served: Served, sent: bytes) -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", served.port), timeout=300)
    with contextlib.suppress(OSError):  # closed already
        opened.sendall(sent)
    return opened


def is_closed(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        return connection.recv(1000) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_any_number_of_half_requests_leaves_room_for_others(served: Served) -> None:
    half = b"GET /settings HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
    opened: list[socket.socket] = []
    try:
        with Watch(served) as others:
            for number in range(800):
                opened.append(connect(served, half))
                time.sleep(0.01)
                if number % 20 == 0:  # no faster than the server takes them
                    others.wait_for_another()
        start = time.monotonic()
        while sum(is_closed(one, 0.001) for one in opened) <= 400:
            assert time.monotonic() - start < SOON
        start = time.monotonic()
        last = opened[-1]
        while not is_closed(last, 1.0):  # more of a header extends no deadline
            assert time.monotonic() - start < IDLE + 3 * SOON
            with contextlib.suppress(OSError):
                last.sendall(b"x")
    finally:
        for one in opened:
            one.close()


def test_bodies_that_never_come_hold_few_places(served: Served) -> None:
    head = (
        "POST /query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x"
        "\r\nContent-Length: 1000000\r\n\r\n--x\r\n"
    )
    opened = [connect(served, head.encode()) for _ in range(60)]
    try:
        with Watch(served):
            answers = [one.recv(1000) for one in opened[40:]]  # 32 are waited for
        assert all(answer.startswith(b"HTTP/1.1 503") for answer in answers)
        assert all(b"Retry-After: " in answer for answer in answers)
        assert not is_closed(opened[0], 0.01)
    finally:
        for one in opened:
            one.close()


def test_uploads_that_are_held_are_bounded_in_bytes(served: Served) -> None:
    """Each says that it is as large as is allowed, and none ever comes."""
    head = (
        "POST /query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x"
        f"\r\nContent-Length: {20 << 20}\r\n\r\n--x\r\n"
    )
    opened = [connect(served, head.encode()) for _ in range(20)]
    try:
        answers = [one.recv(1000) for one in opened[14:]]  # 12 of 20 MiB are less than 256 MiB
        assert all(answer.startswith(b"HTTP/1.1 503") for answer in answers)
        assert served.request("/settings")[0] == 200
    finally:
        for one in opened:
            one.close()


def test_new_texts_never_stand_before_settings_and_images(served: Served) -> None:
    def send(number: int) -> None:
        captions = [f"{number} stars and {i} circles" for i in range(512)]
        edited = [f"{text} in the dark" for text in captions]
        body = json.dumps(good(served, captions=captions, edited_captions=edited)).encode()
        statuses.append(served.request("/rank", "POST", body)[0])

    known = json.dumps(good(served)).encode()
    assert served.request("/rank", "POST", known)[0] == 200
    for first in range(0, 40, 4):  # a machine that stands still sees too few of them
        statuses: list[int] = []
        senders = [threading.Thread(target=send, args=(first + n,)) for n in range(4)]
        answered = 0
        with Watch(served) as others:
            for sender in senders:
                sender.start()
            while any(sender.is_alive() for sender in senders):
                assert served.request("/rank", "POST", known)[0] == 200, "a slider's ranking"
                answered += 1
        assert statuses == [200] * 4
        if answered > 8 and others.answers > 16:
            return
    # In the same queue, each would have stood behind one of the four.
    pytest.fail("settings, images and known texts wait for new ones")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x\r\n\r\n--x--\r\n"),
        ("multipart/form-data; boundary=" + "b" * 200, b"x"),
        ("multipart/form-data; boundary=x", b"no boundary at all"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=a"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nno name\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\nno header\r\n\r\n\r\n--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=a\r\nContent-Type: multipart/mixed; "
            b"boundary=y\r\n\r\n--y\r\n\r\n\r\n--y--\r\n--x--\r\n",
        ),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=relative_caption\r\n\r\n\xff\xfe\r\n"
            b"--x--\r\n",
        ),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=a\r\n"
            b"Content-Transfer-Encoding: x-unknown\r\n\r\nx\r\n--x--\r\n",
        ),
        (
            "multipart/form-data; boundary=x",
            b"".join(
                b"--x\r\nContent-Disposition: form-data; name=a%d\r\n\r\nx\r\n" % number
                for number in range(200)
            )
            + b"--x--\r\n",
        ),
        ("application/x-www-form-urlencoded", b"relative_caption=%ff\xff"),
        ("application/x-www-form-urlencoded", b"&".join([b"a=b"] * 200)),
        ("image/png", b"x"),
        ("\x00;;;=", b"x"),
        ("", b""),
    ],
)
def test_malformed_forms_are_the_senders_fault(served: Served, kind: str, body: bytes) -> None:
    sent = f"POST /query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
    sent += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with connect(served, sent.encode() + body) as connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status in (400, 415)
        assert HEADERS.items() <= dict(response.headers.items()).items()
        assert json.loads(response.read())["error"]


@pytest.mark.parametrize(
    "sent",
    [
        b"no HTTP\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /rank HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /rank HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_answered_with_the_usual_headers(served: Served, sent: bytes) -> None:
    with connect(served, sent) as connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 400
        assert HEADERS.items() <= dict(response.headers.items()).items()
        assert json.loads(response.read())["error"]


@pytest.mark.parametrize(
    ("images", "status", "said"),
    [
        (["0" * 64], 400, "no such image"),
        (["../secret"], 400, "images"),
        ([], 400, "images"),
        (["0" * 64] * 501, 400, "images"),
        ([0] * 1000, 400, "1,000 items"),
        ("0" * 64, 400, "images"),
        (None, 400, "images"),
    ],
)
def test_only_images_of_the_gallery_are_exported(
    served: Served, images: Any, status: int, said: str
) -> None:
    body = json.dumps({"images": images}).encode()
    found, headers, content = served.request("/export", "POST", body)
    assert found == status
    assert HEADERS.items() <= headers.items()
    assert said in json.loads(content)["error"]


def test_an_export_is_for_the_page_alone(served: Served) -> None:
    body = json.dumps({"images": [one_of(served)]}).encode()
    status, headers, content = served.request("/export", "POST", body)
    assert (status, headers["Content-Type"]) == (200, "application/zip")
    assert headers["Content-Disposition"] == 'attachment; filename="seize.zip"'
    assert HEADERS.items() <= headers.items()
    with zipfile.ZipFile(io.BytesIO(content)) as saved:
        assert [hash_of(saved.read(name)) for name in saved.namelist()] == [one_of(served)]
    for other in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert served.request("/export", "POST", body, other)[0] == 403
    assert served.request("/export")[0] == 405


def test_who_takes_no_zip_file_keeps_nobody_waiting(served: Served) -> None:
    every = list(served.gallery.paths)
    body = json.dumps({"images": every}).encode()
    head = f"POST /export HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    opened = [connect(served, head.encode() + body) for _ in range(20)]
    try:
        with Watch(served):
            answers = [one.recv(12) for one in opened]
        assert set(answers) <= {b"HTTP/1.1 200", b"HTTP/1.1 503"}
        assert b"HTTP/1.1 200" in answers
    finally:
        for one in opened:
            one.close()


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "//", "", "null", "http://a]b"])
def test_an_origin_that_is_no_address_is_another_site(served: Served, origin: str) -> None:
    status, headers, _ = served.request("/settings", headers={"Origin": origin})
    assert status == 403
    assert HEADERS.items() <= headers.items()


def test_errors_tell_visitors_nothing_of_the_machine(
    served: Served, log_file: Path, tmp_path: Path
) -> None:
    secret = str(served.root.parent)
    chosen = sorted(served.root.glob("*.jpg"))[5]
    content_hash, kept = hash_of(chosen.read_bytes()), chosen.read_bytes()
    chosen.unlink()
    try:
        _, lines = served.query(reference=content_hash, relative_caption="has a red star")
        assert lines[-1]["error"] == f"{chosen.name} is gone or was changed."
        assert f"Run: seize index {served.root}" in log_file.read_text(), "its owner reads all"
    finally:
        chosen.write_bytes(kept)
    index = served.gallery.folder.feature_file
    moved = index.rename(tmp_path / "moved")
    try:
        for path in ("/settings", "/gallery"):
            status, _, content = served.request(path)
            assert status == 400
            told = json.loads(content)["error"]
            assert secret not in told
            assert "seize index" not in told
            assert "index" in told
    finally:
        moved.rename(index)
    assert served.request("/settings")[0] == 200


def test_names_of_uploads_steer_nothing_and_give_no_folder_away(served: Served) -> None:
    name = "C:\\\\secret\\\\a\u202egpj.exe"
    body = (
        f'--x\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\nno\r\n'
        "--x\r\nContent-Disposition: form-data; name=relative_caption\r\n\r\nx\r\n--x--\r\n"
    )
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    status, _, content = served.request("/query", "POST", body.encode(), kind)
    assert status == 200
    error = json.loads(content.splitlines()[-1])["error"]
    assert error == "a\\u202egpj.exe is not an image that can be read."


def test_too_many_pixels_are_said_with_the_option_of_this_command(
    served: Served, tmp_path: Path
) -> None:
    for side, said in ((8_000, "8000 x 8000 pixels"), (20_000, "400,000,000 pixels")):
        Image.new("1", (side, side)).save(tmp_path / "large.png")
        content = (tmp_path / "large.png").read_bytes()
        _, lines = served.query(image=content, relative_caption="x")
        error = lines[-1]["error"]
        assert said in error
        assert "than the 50,000,000 allowed (--max-pixels)" in error
        assert "bomb" not in error


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--queries", "0"),
        ("--waiting", "-1"),
        ("--port", "99999"),
        ("--port", "-1"),
        ("--max-upload", "-1"),
        ("--max-upload", "0"),
        ("--max-pixels", "0"),
        ("--max-pixels", "1000"),
    ],
)
def test_limits_that_make_no_sense_are_refused(tmp_path: Path, option: str, value: str) -> None:
    command = [sys.executable, "-m", "pipeline", "app", str(tmp_path), f"{option}={value}"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert option in done.stderr


def test_listening_for_the_network_is_warned_of(served: Served, tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    with log.open("w") as stderr:
        running = subprocess.Popen(
            [
                sys.executable, "-m", "pipeline", "app", str(served.root), "--config", "demo",
                "--cache", str(served.cache), "--host", "0.0.0.0", "--port", "0",
            ],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )  # fmt: skip
        try:
            assert running.stdout is not None
            said = running.stdout.readline()
            found = re.search(r"http://0\.0\.0\.0:(\d+)/\?token=(\S{43}) ", said)
            assert found, said
            knows_the_token(int(found[1]), found[2])
        finally:
            running.kill()
            running.wait()
    assert "Warning: whoever can reach port" in log.read_text()
    assert "not encrypted" in log.read_text()


def knows_the_token(port: int, token: str) -> None:
    """Ask with and without it, as programs and browsers do."""

    def ask(path: str, **headers: str) -> tuple[int, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status, dict(response.headers.items())

    for path in (
        "/",
        "/export",
        "/settings",
        "/gallery",
        "/openapi.json",
        "/images/" + "0" * 64 + "/small",
    ):
        status, headers = ask(path)
        assert status == 401
        assert headers["WWW-Authenticate"] == "Bearer"
        assert ask(path, Authorization=f"Bearer {token[:-1]}x")[0] == 401
        assert ask(path, Authorization=f"Bearer {token}")[0] in (200, 404, 405)
    assert ask("/healthz")[0] == 200
    assert ask("/?token=wrong")[0] == 401
    status, headers = ask(f"/?text=is+red&token={token}")
    assert status == 303
    assert headers["Location"] == "/?text=is+red"
    assert "HttpOnly" in headers["Set-Cookie"]
    assert "SameSite=Strict" in headers["Set-Cookie"]
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert ask("/settings", Cookie=cookie)[0] == 200
    assert ask("/settings", Cookie="seize_token=\xff")[0] == 401
