"""What is said where a model cannot be loaded, and how soon. The hub is a small server, or none."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from pipeline.models import weights
from pipeline.models.loading import failed, sentences
from tests.conftest import PROJECT

NOWHERE = "http://127.0.0.1:9"
ASK = "import sys; from pipeline.models import weights; print(weights.reachable('me/model'))"


class Host:
    """A web server that answers every request alike, and what it was asked."""

    def __init__(self, status: int, location: str = "") -> None:
        host = self
        self.seen: list[tuple[str, str | None]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                host.seen.append((self.path, self.headers.get("Authorization")))
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.end_headers()

            do_GET = do_HEAD

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Servers that are stopped in the end."""
    started: list[Host] = []
    yield started
    for host in started:
        host.server.shutdown()


def run(*command: str, endpoint: str, home: Path, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
        env={k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
        | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
        | environment,
    )
    return done.returncode, done.stdout, done.stderr


MISSING = {
    "captioner": ("--captioner", "Salesforce/blip2-opt-2.7b", "a BLIP-2's folder"),
    "LLM": ("--llm", "transformers:Qwen/Qwen2.5-7B-Instruct", "--llm-url URL"),
}


@pytest.mark.parametrize("role", MISSING)
def test_without_network_a_missing_model_is_one_whole_sentence_soon(
    tmp_path: Path, role: str
) -> None:
    option, model, advice = MISSING[role]
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    image = ["--image", str(tmp_path / "x.png")] if role == "captioner" else ["--caption", "a dog"]
    code, _, said = run(
        *("-m", "pipeline", "--quiet", "prompts", "try", "seize", *image, "--text", "is red"),
        *("--config", "demo", option, model),
        endpoint=NOWHERE,
        home=tmp_path,
    )
    assert code == 5
    (line,) = said.splitlines()  # not a word of the library's retries, nothing twice
    assert "It is not on this machine, and http://127.0.0.1:9 cannot be reached" in line
    assert "local folder; HF_HUB_OFFLINE=1 then keeps from asking." in line
    assert advice in line


def test_clip_too_says_it_once(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (64, 64), "red").save(photos / "x.png")
    code, _, said = run(
        *("-m", "pipeline", "--quiet", "index", str(photos), "--config", "demo"),
        *("--clip", "ViT-B-32", "--pretrained", "openai", "--cache", str(tmp_path / "cache")),
        endpoint=NOWHERE,
        home=tmp_path,
    )
    assert code == 5
    *_, line = said.splitlines()  # before it, that the demo's models know the demo's world
    assert said.count("cannot be loaded") == 1
    assert "CLIP ViT-B-32 (openai) cannot be loaded: It is not on this machine" in line


def test_a_model_that_the_hub_has_not_is_told(hosts: list[Host], tmp_path: Path) -> None:
    hosts.append(Host(401))
    code, answer, _ = run("-c", ASK, endpoint=hosts[0].url, home=tmp_path, HF_TOKEN="hf_mine")
    assert code == 0
    assert "has no model me/model, or your login (hf auth login) does not allow it" in answer
    assert hosts[0].seen == [("/api/models/me/model", "Bearer hf_mine")]


def test_a_token_does_not_follow_a_redirect_to_another_host(
    hosts: list[Host], tmp_path: Path
) -> None:
    hosts.append(Host(200))
    hosts.append(Host(307, f"{hosts[0].url}/elsewhere"))
    _, answer, _ = run("-c", ASK, endpoint=hosts[1].url, home=tmp_path, HF_TOKEN="hf_mine")
    assert answer.strip() == "None"
    assert hosts[0].seen == [("/elsewhere", None)]


def test_the_token_of_a_login_is_used(hosts: list[Host], tmp_path: Path) -> None:
    hosts.append(Host(200))
    (tmp_path / "token").write_text("hf_login\n")
    run("-c", ASK, endpoint=hosts[0].url, home=tmp_path)
    assert hosts[0].seen == [("/api/models/me/model", "Bearer hf_login")]


def test_no_memory_is_not_blamed_on_the_network() -> None:
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you")):
        try:
            raise OSError("wrapped") from error
        except OSError as wrapped:
            told = failed("The captioner x", wrapped, "Check the name and the network.")
        assert "The captioner x does not fit into the memory" in str(told)
        assert "network" not in str(told)


def test_an_error_without_words_is_named() -> None:
    assert "cannot be loaded: ZeroDivisionError. Ask." in str(
        failed("X", ZeroDivisionError(), "Ask.")
    )


def test_reasons_are_cut_between_words_and_end_as_sentences_do() -> None:
    assert sentences("it\n broke") == "it broke."
    assert sentences("it broke!") == "it broke!"
    cut = sentences("word " * 100, 22)
    assert cut == "word word word word …"
    assert sentences("") == ""


def test_a_name_that_is_none_is_not_in_the_cache() -> None:
    assert weights.cached("/nowhere/at/all") is None
