"""What a server sends, leads to or repeats, however odd: the client takes no harm from it."""

import asyncio
import base64
import gzip
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from aiohttp import web

from pipeline.config import RuntimeConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.models.serving import connection
from pipeline.models.serving.chat import ChatClient, Completion
from tests.stub import Fault, Start, Stub

NESTED = "[" * 200_000
GOOD = '{"choices": [{"message": {"content": "x"}, "logprobs": %s}], "usage": {"total_tokens": %s}}'


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off by milliseconds."""
    monkeypatch.setattr("pipeline.models.serving.chat._backoff", lambda times: 0.01)


def client(url: str, model: str = "echo", **runtime: Any) -> ChatClient:
    return ChatClient(url, model, RuntimeConfig(**{"retries": 1, "concurrency": 2} | runtime))


def requests(count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for key in range(count):
        yield key, {"messages": [{"role": "user", "content": f"edit {key}"}], "max_tokens": 16}


def completed(url: str, count: int = 5, **runtime: Any) -> dict[int, Completion]:
    return {one.key: one for one in client(url, **runtime).complete(requests(count))}


ODD = {
    "endless tokens": Fault(body=GOOD % ("null", "1e999")),
    "tokens of 400 digits": Fault(body=GOOD % ("null", "9" * 400)),
    "negative tokens": Fault(body=GOOD % ("null", "-5")),
    "tokens in words": Fault(body=GOOD % ("null", '"many"')),
    "log-probability of 400 digits": Fault(
        body=GOOD % ('{"content": [{"token": "a", "logprob": -%s}]}' % ("9" * 400), "1")
    ),
    "number of 5,000 digits": Fault(body=GOOD % ("null", "9" * 5000)),
    "nested answer": Fault(body=NESTED),
    "nested refusal": Fault(400, body=NESTED),
    "nested error": Fault(500, body=NESTED),
    "nested deep in an error": Fault(422, body='{"error": {"message": ' + NESTED),
    "wait of a date beyond time": Fault(
        503, retry_after=f"Mon, 01 Jan {'9' * 40} 00:00:00 GMT"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", ODD.values(), ids=ODD)
def test_an_odd_answer_fails_its_record_alone(start: Start, fault: Fault) -> None:
    server = start(Stub(plan=lambda text, tries: fault if text == "edit 3" else None))
    answers = completed(server.url)
    assert answers[3].texts == ()
    assert answers[3].reason
    assert {k: a.texts for k, a in answers.items() if k != 3} == {
        k: (f"EDIT {k}",) for k in (0, 1, 2, 4)
    }


@pytest.mark.parametrize("said", [NESTED, "{", '{"data": 3}', '{"data": [[]]}', "9" * 5000, "[]"])
def test_an_odd_list_of_models_is_passed_over(start: Start, said: str) -> None:
    class Odd(Stub):
        async def models(self, request: web.Request) -> web.Response:
            return web.Response(text=said)

    assert completed(start(Odd()).url, 1)[0].texts == ("EDIT 0",)


@pytest.mark.parametrize("blocks", ["²", "9" * 5000, "", "1e9", "a" * 100_000])
def test_odd_metrics_are_passed_over(start: Start, blocks: str) -> None:
    labels = f'block_size="16",num_gpu_blocks="{blocks}"'
    server = start(Stub(metrics=f"vllm:cache_config_info{{{labels}}} 1.0\n"))
    assert completed(server.url, 1, concurrency=None)[0].texts == ("EDIT 0",)


class Flood(Stub):
    """Sends bodies without an end, or packed ones that unpack to a gigabyte."""

    packed = gzip.compress(bytes(1 << 30), 1)
    status = 200
    """Of the endless body."""

    async def models(self, request: web.Request) -> web.StreamResponse:  # type: ignore[override]
        return await self._endless(request)

    async def show_metrics(self, request: web.Request) -> web.StreamResponse:  # type: ignore[override]
        return await self._endless(request)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        text = asked["messages"][-1]["content"]
        if text == "edit 1":
            return await self._endless(request)
        if text == "edit 2":
            return web.Response(body=self.packed, headers={"Content-Encoding": "gzip"})
        if text == "edit 3":
            return web.Response(body=b"?", headers={"Content-Encoding": "br"})
        if text == "edit 4":
            good = gzip.compress(json.dumps({"choices": self._choices(text, asked)}).encode())
            return web.Response(body=good, headers={"Content-Encoding": "gzip"})
        return web.json_response({"choices": self._choices(text, asked)})

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=self.status)
        await response.prepare(request)
        some = b"x" * (1 << 16)
        while True:
            await response.write(some)


@pytest.mark.parametrize("status", [200, 400, 500])
def test_bodies_are_bounded(start: Start, status: int) -> None:
    flood = Flood()
    flood.status = status
    server = start(flood)
    held = psutil.Process().memory_info().rss
    answers = completed(server.url, concurrency=None)
    assert psutil.Process().memory_info().rss - held < 300 << 20
    assert answers[0].texts == ("EDIT 0",)
    assert answers[4].texts == ("EDIT 4",)
    assert (answers[1].reason or "").startswith("the answer was longer than 8 MiB")
    assert (answers[2].reason or "").startswith("the answer was longer than 8 MiB")
    assert "packed in a way that was not asked for" in (answers[3].reason or "")


class Sends(Stub):
    """Sends some requests on to another address."""

    where = ""
    status = 307
    path = "/v1/chat/completions"

    def application(self) -> web.Application:
        @web.middleware
        async def on(request: web.Request, handler: Any) -> web.StreamResponse:
            if request.path == self.path:
                return web.Response(status=self.status, headers={"Location": self.where})
            response: web.StreamResponse = await handler(request)
            return response

        app = super().application()
        app.middlewares.append(on)
        return app


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_but_told(start: Start, path: str, status: int) -> None:
    other = start(Stub())
    sends = Sends()
    sends.path, sends.status = path, status
    sends.where = other.url.replace("//", "//me:hunter2@") + path.removeprefix("/v1")
    with pytest.raises(ModelError, match=r"sends requests on to .*not followed") as error:
        completed(start(sends).url)
    assert str(other.url.rpartition(":")[2].partition("/")[0]) in str(error.value)
    assert "hunter2" not in str(error.value)
    assert other.stub.seen == []


def test_a_key_is_masked_before_a_message_is_cut(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-SECRET-0123456789abcdef0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    for lead in range(250, 310, 7):
        fault = Fault(400, body=json.dumps({"error": {"message": "x" * lead + key}}))
        server = start(Stub(plan=lambda text, tries, fault=fault: fault))  # type: ignore[misc]
        reason = completed(server.url, 1)[0].reason or ""
        assert "sk-" not in reason
        assert "x" * 250 in reason


def test_a_key_with_a_files_line_end_is_the_key(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " sk-1234\r\n")
    assert completed(start(Stub(key="sk-1234")).url, 1)[0].texts == ("EDIT 0",)


@pytest.mark.parametrize("key", ["sk-1\r\nX-Evil: 1", "sk-\x1b", "sk-“1”"])
def test_a_key_that_no_request_can_carry_says_so(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="The key in OPENAI_API_KEY holds") as error:
        client("http://127.0.0.1:9/v1")
    assert "sk-" not in str(error.value)


def test_credentials_of_an_address_are_used_and_never_shown(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    caplog.set_level(logging.INFO, "seize")
    sent = []

    class Proxied(Stub):
        def _refused(self, request: web.Request) -> web.Response | None:
            sent.append(request.headers["Authorization"])
            return None

    echo = Fault(400, body="me:hun%40ter2 hun@ter2 " + base64.b64encode(b"me:hun@ter2").decode())
    server = start(Proxied(plan=lambda text, tries: echo if text == "edit 1" else None))
    url = server.url.replace("//", "//me:hun%40ter2@")
    answers = completed(url, 2, concurrency=None)
    assert answers[0].texts == ("EDIT 0",)
    assert set(sent) == {"Basic " + base64.b64encode(b"me:hun@ter2").decode()}
    server.stop()
    with pytest.raises(ModelError, match="There is no server at http://127") as error:
        completed(url)
    said = f"{error.value} {caplog.text} {answers[1].reason}"
    assert "Begins with 8 requests in flight" in said
    assert not any(part in said for part in ("hun", "bWU6"))


def test_served_models_are_named_on_one_line_and_only_some(start: Start) -> None:
    class Many(Stub):
        async def models(self, request: web.Request) -> web.Response:
            names = ["a\nError: b\r" + "x" * 1000, *(f"m{i}" for i in range(199_999))]
            return web.json_response({"data": [{"id": name} for name in names]})

    with pytest.raises(ModelError, match=r"It serves: a Error: b x+, m0, .* and 199,995 more") as e:
        completed(start(Many()).url)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 600


@pytest.mark.parametrize(
    ("images", "answers", "expected"),
    [(0, {}, 256), (1, {"n": 1, "max_tokens": 1}, 256), (1, {"n": 15, "max_tokens": 30}, 218)],
)
def test_an_image_counts_as_its_tokens_not_as_its_characters(
    start: Start,
    caplog: pytest.LogCaptureFixture,
    images: int,
    answers: dict[str, int],
    expected: int,
) -> None:
    caplog.set_level(logging.INFO, "seize")
    labels = 'block_size="16",num_gpu_blocks="20000"'  # 320,000 tokens
    server = start(Stub(metrics=f"vllm:cache_config_info{{{labels}}} 1.0\n"))
    image = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + "A" * 75_000}}
    content = [image] * images + [{"type": "text", "text": "Is it a dog?"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 16} | answers
    list(client(server.url, concurrency=None).complete([(0, body)]))
    count = int(caplog.text.partition("Keeps ")[2].partition(" ")[0])
    assert count == pytest.approx(expected, abs=8)


def test_what_arrived_is_handed_on_before_an_error(start: Start) -> None:
    """Nine are answered, and the tenth refused when the next nine, which never are, were sent."""

    class Late(Stub):
        refused = False

        async def complete(self, request: web.Request) -> web.StreamResponse:
            if (await request.json())["messages"][-1]["content"] == "edit 9":
                while len(self.seen) < 18:
                    await asyncio.sleep(0.01)
                self.refused = True
            return await super().complete(request)

    def plan(text: str, tries: int) -> Fault | None:
        number = int(text.removeprefix("edit "))
        return None if number < 9 else Fault(401) if number == 9 else Fault(hang=True)

    stub, came = Late(plan=plan), list[int]()

    async def slowly() -> None:
        async for batch in client(start(stub).url, concurrency=10).batches(requests(19)):
            came.extend(completion.key for completion in batch)
            while not stub.refused:
                await asyncio.sleep(0.01)  # meanwhile the others arrive, then the error
            await asyncio.sleep(0.2)

    with pytest.raises(ModelError, match="refuses the key"):
        asyncio.run(slowly())
    assert sorted(came) == list(range(9))


@pytest.mark.parametrize(("kept", "connections"), [(600.0, 1), (0.01, 2)])
def test_a_connection_that_the_server_may_be_closing_is_not_used(
    start: Start, monkeypatch: pytest.MonkeyPatch, kept: float, connections: int
) -> None:
    class Noting(Stub):
        async def complete(self, request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            peers.append(request.transport.get_extra_info("peername"))
            return await super().complete(request)

    def slowly() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, asked in requests(2):
            yield number, asked
            time.sleep(0.2)

    monkeypatch.setattr(connection, "UNUSED", kept)
    peers: list[tuple[str, int]] = []
    done = list(client(start(Noting()).url, concurrency=1).complete(slowly()))
    assert len(done) == 2
    assert all(one.texts for one in done)
    assert len(set(peers)) == connections


def test_proxies_of_the_environment_are_not_used(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert completed(start(Stub()).url, 1)[0].texts == ("EDIT 0",)
