"""`seize query` asks a page that runs on the folder, and tells what it would tell without one."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline import config
from pipeline.cli import main, own
from pipeline.own import running
from tests.app_server import Served
from tests.conftest import PROJECT

ANSWERED = "Answered by the page"
TOKEN = "visitors-know-this-and-nothing-else"


@pytest.fixture(scope="module")
def served(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("running") / "photos"
    root.mkdir()
    for picture in sorted((small_world / "CIRCO").rglob("*.jpg"))[:8]:
        shutil.copy(picture, root)
    page = Served(root, root.parent / "cache", "--token", TOKEN)
    yield page
    assert place_of(page).exists()
    assert page.stop() == 130
    assert not place_of(page).exists()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is no worse for a busy machine."""
    monkeypatch.setattr(running, "TAKEN_WITHIN", 300)
    monkeypatch.setattr(running, "SILENT", 300)


def place_of(page: Served) -> Path:
    return running.place(page.root, config.load("demo"), page.cache)


def query(page: Served, *words: str) -> Result:
    given = ["--gallery", str(page.root), "--config", "demo", "--cache", str(page.cache)]
    return CliRunner().invoke(main, ["query", *words, *given])


def images(page: Served) -> list[str]:
    return [str(picture) for picture in sorted(page.root.iterdir())]


def nearly(content: Any) -> Any:
    """Scores may differ in the last digit: a page gives its queries fewer threads."""
    if isinstance(content, float):
        return pytest.approx(content, abs=1e-5)
    if isinstance(content, dict):
        return {key: nearly(value) for key, value in content.items()}
    return [nearly(value) for value in content] if isinstance(content, list) else content


QUESTIONS = (
    "{0} darker",
    "{0} {1} striped --top-k 3",
    "red",
    "{0}",
    "{0} darker --unlike red --unlike {1}",
    "{0} darker --alpha-neg 0.5 --keep-reference",
    "{0} darker --method pdv --set search.pdv.blend=0.5",
    "red --where width>=64 --where folder=*.jpg",
    "red --attributes {table} --where shelf=3 --group-at 0.9",
    "{0} darker --no-group",
)


@pytest.mark.parametrize("words", QUESTIONS)
def test_a_page_answers_what_is_answered_without_it(
    served: Served, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "shelves.csv"
    rows = [f"{Path(picture).name},{place // 2}" for place, picture in enumerate(images(served))]
    table.write_text("\n".join(["path,shelf", *rows]), encoding="utf-8")
    asked = words.format(*images(served), table=table).split()
    answers, printed = [], []
    for away in ([], ["--no-app"]):
        caplog.clear()
        result = query(served, *asked, *away, "--json")
        assert result.exit_code == 0, result.stderr
        assert (ANSWERED in caplog.text) == (not away)
        answers.append(json.loads(result.stdout))
        printed.append(query(served, *asked, *away, "--show-captions"))
    assert answers[0] == nearly(answers[1])
    assert answers[0]["images"]
    first, second = (result.stdout.splitlines() for result in printed)
    assert [line.split()[-1:] for line in first] == [line.split()[-1:] for line in second]
    assert first[0] == second[0]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("{0} darker --method image+text --alpha-pos 1", 2, "image+text"),
        ("{0} darker --set search.increment.folder.negative=x", 2, "negative"),
        ("{broken} darker", 3, "broken.png"),
        ("red --where shelf=3", 3, "no field 'shelf'"),
    ],
)
def test_errors_are_the_same_either_way(
    served: Served, tmp_path: Path, words: str, code: int, said: str
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    asked = words.format(*images(served), broken=broken).split()
    there, here = query(served, *asked), query(served, *asked, "--no-app")
    assert there.exit_code == here.exit_code == code
    assert there.stderr == here.stderr
    assert said in there.stderr


def test_a_page_with_other_settings_is_not_asked(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    result = query(served, images(served)[0], "darker", "--captions", "2", "--json")
    assert len(json.loads(result.stdout)["captions"]) == 2
    assert ANSWERED not in caplog.text


def test_asking_needs_no_torch(served: Served) -> None:
    given = ["--gallery", str(served.root), "--config", "demo", "--cache", str(served.cache)]
    program = (
        "import sys, atexit; from pipeline.cli import main\n"
        "atexit.register(lambda: print({'torch', 'numpy', 'aiohttp'} & sys.modules.keys()))\n"
        f"main({['query', images(served)[0], 'darker', *given]!r}, prog_name='seize')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    assert ANSWERED in result.stderr
    assert result.stdout.splitlines()[-1] == "set()"


def test_only_who_reads_the_file_is_answered(served: Served) -> None:
    place = place_of(served)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    page = running.read(place)
    assert page is not None
    assert page.runs

    def status(path: str, secret: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=300)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
            connection.request("POST", path, b'{"relative_caption": "red"}', headers)
            return connection.getresponse().status

    assert status("/ask", page.secret) == 200
    assert status("/ask", TOKEN) == status("/ask", "") == status("/ask", "é") == 401
    assert status("/query", page.secret) == 401, "the secret is no visitors' token"


def test_a_page_that_was_killed_is_not_asked(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(served.cache, cache)
    page = Served(served.root, cache)
    place = place_of(page)
    assert place.exists()
    page.process.kill()
    page.process.wait(60)
    assert place.exists(), "it had no time to take the file away"
    assert query(page, images(page)[0]).exit_code == 0
    assert ANSWERED not in caplog.text
    assert "does not answer" not in caplog.text


@contextlib.contextmanager
def mute() -> Iterator[int]:
    """A port at which every connection is closed as soon as something was said."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def close_all() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.recv(1)

        threading.Thread(target=close_all, daemon=True).start()
        yield server.getsockname()[1]


@contextlib.contextmanager
def refusing() -> Iterator[int]:
    """A port at which nobody listens, and nobody else can."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize("port", [mute, refusing])
def test_one_that_does_not_answer_is_told_of_and_done_without(
    served: Served, tmp_path: Path, port: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(served.cache, cache)
    page = running.place(served.root, config.load("demo"), cache)
    given = ["--gallery", str(served.root), "--config", "demo", "--cache", str(cache), "--json"]
    with port() as number, running.announced(page, f"http://127.0.0.1:{number}/", "secret"):
        result = CliRunner().invoke(main, ["query", images(served)[0], *given])
    assert result.exit_code == 0, result.stderr
    assert "does not answer" in caplog.text
    assert json.loads(result.stdout)["images"]
    assert not page.exists()


@pytest.mark.parametrize(("seconds", "runs"), [(-5, True), (5, True), (600, False)])
def test_a_page_runs_where_the_clock_was_set_and_not_where_its_number_was_given_anew(
    served: Served, seconds: float, runs: bool
) -> None:
    page = running.read(place_of(served))
    assert page is not None
    assert page.model_copy(update={"started": page.started + seconds}).runs == runs


def test_what_is_no_file_of_a_page_is_no_page(tmp_path: Path) -> None:
    file = tmp_path / "app.json"
    for text in ("", "{}", '{"address": 1}', "[]"):
        file.write_text(text)
        assert running.read(file) is None
    assert running.ask(file, running.Asked()) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_another_user_left_is_no_page(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "app.json"
    file.write_bytes(place_of(served).read_bytes())
    assert running.read(file) is not None
    os.chown(file, 65534, -1)
    assert running.read(file) is None


def test_every_option_of_a_query_reaches_a_page_or_keeps_it_from_being_asked() -> None:
    sent = {"words", "unlike", "alpha_pos", "alpha_neg", "settings"}
    sent |= {"where", "attributes", "no_group"}
    of_settings = {"preset", "folder", "cache"}  # which page is asked
    printed = {"as_json", "show_captions"}
    kept_away = {"out", "shown", "batch", "here"}
    from pipeline.cli.overrides import QUERY

    overrides = {option[2:].replace("-", "_") for option in QUERY}
    known = sent | of_settings | printed | kept_away | overrides
    assert {str(parameter.name) for parameter in own.query.params} == known
