"""The client of an LLM server, against a small HTTP server that answers as told."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipeline.config import LlmConfig, RuntimeConfig
from pipeline.errors import ModelError
from pipeline.llms import Request
from pipeline.llms.served import ServedLlm


class Server(ThreadingHTTPServer):
    """Echoes the last message in capitals; ``faults`` are status codes to answer with first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[int] = []
        self.seen: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.running = self.most = 0
        self.gone = False
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def reply(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.reply(200, {"object": "list", "data": [{"id": "echo", "object": "model"}]})

    def do_POST(self) -> None:
        if self.server.gone:
            self.close_connection = True
            return
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append(asked)
            self.server.keys.add(self.headers["Authorization"])
            self.server.running += 1
            self.server.most = max(self.server.most, self.server.running)
            fault = self.server.faults.pop() if self.server.faults else None
        text = asked["messages"][-1]["content"].upper()
        if fault:
            self.reply(fault, {"error": {"message": f"fault {fault}"}})
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}}
            self.reply(200, {"id": "1", "object": "chat.completion", "choices": [choice]})
        with self.server.lock:
            self.server.running -= 1


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def llm(server: Server, model: str = "echo", **runtime: Any) -> ServedLlm:
    return ServedLlm(LlmConfig(model=model, url=server.url), RuntimeConfig(**runtime))


def requests(count: int) -> list[Request]:
    return [
        Request(i, [{"role": "user", "content": f"edit {i}"}], 16, ("\n",), 0.0, 7)
        for i in range(count)
    ]


def test_every_request_is_answered_once_with_bounded_concurrency(server: Server) -> None:
    answers = list(llm(server, concurrency=4).answer(requests(50)))
    assert sorted((a.key, a.text) for a in answers) == [(i, f"EDIT {i}") for i in range(50)]
    assert len(server.seen) == 50
    assert 1 < server.most <= 4
    settings = {key: server.seen[0][key] for key in ("model", "max_tokens", "temperature", "seed")}
    assert settings == {"model": "echo", "max_tokens": 16, "temperature": 0.0, "seed": 7}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_faults_are_retried(server: Server, status: int) -> None:
    server.faults = [status, status]
    answers = list(llm(server).answer(requests(3)))
    assert {answer.text for answer in answers} == {"EDIT 0", "EDIT 1", "EDIT 2"}


def test_a_request_the_server_refuses_is_recorded_and_the_others_go_on(server: Server) -> None:
    server.faults = [400]
    answers = list(llm(server, concurrency=1).answer(requests(3)))
    failed = [answer for answer in answers if answer.text is None]
    assert len(failed) == 1
    assert "fault 400" in (failed[0].reason or "")


def test_a_wrong_model_is_fatal_at_once_and_lists_the_served_ones(server: Server) -> None:
    with pytest.raises(ModelError, match="It serves: echo"):
        list(llm(server, model="other").answer(requests(1)))
    assert server.seen == []


def test_the_key_comes_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    list(llm(server, api_key_variable="MY_KEY").answer(requests(1)))
    assert server.keys == {"Bearer secret"}


def test_a_server_that_goes_away_ends_the_run_with_advice(server: Server) -> None:
    client = llm(server, retries=0, concurrency=1)
    answers = client.answer(requests(5))
    assert next(answers).text is not None
    server.gone = True
    with pytest.raises(ModelError, match="Answers so far are kept"):
        list(answers)
