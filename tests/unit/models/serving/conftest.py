"""Servers that a test starts, and that stop when it ends."""

from collections.abc import Iterator

import pytest

from tests.stub import Running, Start, Stub


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts a server."""
    started = []

    def begin(stub: Stub) -> Running:
        started.append(Running(stub))
        return started[-1]

    yield begin
    for server in started:
        server.stop()
