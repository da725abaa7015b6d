"""Requests spread over several servers, some of which go away."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.config import RuntimeConfig
from pipeline.errors import ModelError
from pipeline.models.serving.chat import Completion
from pipeline.models.serving.replicas import Replicas, connect
from tests.stub import Fault, Running, Stub

RUNTIME = RuntimeConfig(retries=1, concurrency=4)


class Held(Stub):
    """Answers its n-th request once ``hold(n)`` is over."""

    hold: Callable[[int], bool] = staticmethod(lambda number: False)
    begun = 0

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.begun += 1
        number = self.begun
        while self.hold(number):
            await asyncio.sleep(0.005)
        return await super().complete(request)


@pytest.fixture
def servers() -> Iterator[list[Any]]:
    """Two servers of one model."""
    started = [Running(Held(delay=0.01)) for _ in range(2)]
    yield started
    for server in started:
        server.stop()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off by milliseconds."""
    monkeypatch.setattr("pipeline.models.serving.chat._backoff", lambda times: 0.01 * times)


def requests(count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for key in range(count):
        yield key, {"messages": [{"role": "user", "content": f"edit {key}"}], "max_tokens": 16}


def texts(completions: list[Completion]) -> dict[int, str]:
    assert len({completion.key for completion in completions}) == len(completions)
    return {completion.key: completion.texts[0] for completion in completions}


def asked(*servers: Running) -> "Counter[str]":
    return sum((server.stub.tries for server in servers), Counter())


def test_each_server_gets_its_own_number_of_requests_in_flight(servers: list[Any]) -> None:
    one, other = (server.stub for server in servers)
    one.crowd = other.crowd = 4
    # At first neither gets ahead of the other, however the machine runs them.
    one.hold = lambda number: other.begun < min(number, 24) - 4
    other.hold = lambda number: one.begun < min(number, 24) - 4
    client = connect([server.url for server in servers], "echo", RUNTIME)
    assert texts(list(client.complete(requests(200)))) == {i: f"EDIT {i}" for i in range(200)}
    assert [server.stub.most for server in servers] == [4, 4]
    assert set(asked(*servers).values()) == {1}
    assert all(len(server.stub.seen) > 20 for server in servers)


def test_a_quicker_server_takes_more(servers: list[Any]) -> None:
    servers[0].stub.hold = lambda number: servers[1].stub.begun < 60
    client = connect([server.url for server in servers], "echo", RUNTIME)
    assert len(list(client.complete(requests(100)))) == 100
    assert len(servers[0].stub.seen) < len(servers[1].stub.seen)


def test_a_server_stopped_midway_loses_nothing_and_only_its_own_is_asked_again(
    servers: list[Running], caplog: pytest.LogCaptureFixture
) -> None:
    client = connect([server.url for server in servers], "echo", RUNTIME)
    arriving = client.complete(requests(400))
    came = [next(arriving) for _ in range(60)]
    servers[0].stop()
    came += arriving
    assert texts(came) == {i: f"EDIT {i}" for i in range(400)}
    twice = [text for text, times in asked(*servers).items() if times > 1]
    assert len(twice) <= 4  # what it had in flight
    assert caplog.text.count("Goes on without the server") == 1
    assert texts(list(client.complete(requests(5)))) == {i: f"EDIT {i}" for i in range(5)}
    assert caplog.text.count("Goes on without the server") == 1  # it is told once


def test_what_the_last_requests_server_had_goes_to_one_that_was_done(
    servers: list[Running],
) -> None:
    # The first server hangs on what it takes, while the second answers all the rest and is done.
    servers[0].stub.plan = lambda text, tries: Fault(hang=True)
    client = connect([s.url for s in servers], "echo", RuntimeConfig(retries=0, concurrency=4))
    arriving = client.complete(requests(50))
    came = [next(arriving) for _ in range(46)]
    servers[0].stop()
    assert texts([*came, *arriving]) == {i: f"EDIT {i}" for i in range(50)}


def test_a_server_that_is_not_there_is_passed_over_and_none_is_the_usual_error(
    servers: list[Running],
) -> None:
    nowhere = "http://127.0.0.1:9/v1"
    client = connect([nowhere, servers[0].url], "echo", RUNTIME)
    assert len(list(client.complete(requests(20)))) == 20
    servers[0].stop()
    with pytest.raises(ModelError, match=r"There is no server at .*What was answered is kept"):
        list(client.complete(requests(20)))


def test_servers_that_were_all_away_are_tried_again_by_the_next_call(servers: list[Any]) -> None:
    client = connect([server.url for server in servers], "echo", RUNTIME)
    for server in servers:
        server.stop()
    for _ in range(2):  # an error each time, and no loop without an end
        with pytest.raises(ModelError, match="There is no server at"):
            list(client.complete(requests(20)))
    for place in (1, 0):  # first one of them comes back, then the other too
        servers[place] = Running(Held(), servers[place].port)
        servers[1].stub.hold = lambda number, place=place: servers[place].stub.begun == 0
        assert len(list(client.complete(requests(100)))) == 100
    assert all(server.stub.seen for server in servers)


def test_threads_may_share_servers_that_go_away(servers: list[Running]) -> None:
    client = connect([server.url for server in servers], "echo", RUNTIME)
    came: list[list[Completion]] = []
    threads = [
        threading.Thread(target=lambda: came.append(list(client.complete(requests(60)))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    while not all(server.stub.seen for server in servers):
        threading.Event().wait(0.01)
    servers[0].stop()
    for thread in threads:
        thread.join(60)
    assert [texts(one) for one in came] == [{i: f"EDIT {i}" for i in range(60)}] * 8


def test_what_arrived_is_handed_on_before_the_error_that_ends_it(servers: list[Running]) -> None:
    answered: list[str] = []

    def plan(text: str, tries: int) -> Fault | None:
        if len(answered) >= 50:
            return Fault(401)
        answered.append(text)
        return None

    for server in servers:
        server.stub.plan = plan
    client = connect([server.url for server in servers], "echo", RUNTIME)
    came: list[Completion] = []
    with pytest.raises(ModelError, match="refuses the key"):
        came.extend(client.complete(requests(400)))
    # What is on its way in the very moment may be lost: at most what is in flight.
    assert len(came) >= 50 - 8
    assert all(text.startswith("EDIT") for text in texts(came).values())


def test_stopping_early_cancels_what_is_in_flight(servers: list[Running]) -> None:
    client = connect([server.url for server in servers], "echo", RUNTIME)
    arriving = client.complete(requests(10_000))
    next(arriving)
    arriving.close()
    assert len(asked(*servers)) < 100


def test_the_option_may_be_repeated_or_a_list_in_a_file() -> None:
    def url(*options: str) -> str:
        shown = CliRunner().invoke(main, ["config", "show", "demo", *options])
        assert shown.exit_code == 0, shown.output
        return shown.output.partition("\nllm:")[2].partition("prompt:")[0]

    assert "url: http://a/v1\n" in url("--llm-url", "http://a/v1")
    both = url("--llm-url", "http://a/v1", "--llm-url", "http://b/v1")
    assert "  - http://a/v1\n  - http://b/v1\n" in both
    assert both == url("--set", "llm.url=[http://a/v1, http://b/v1]")
    assert isinstance(connect(["http://a/v1", "http://b/v1"], "m", RUNTIME), Replicas)
    assert not isinstance(connect(["http://a/v1"], "m", RUNTIME), Replicas)
