"""Which method is taken where captioner or LLM are not at hand."""

import socket

import pytest

from pipeline import config
from pipeline.own import quick

SERVED = {"captioner.model": "served:a", "llm.model": "b"}


def test_models_that_are_here_keep_the_method() -> None:
    asked = config.load("demo")
    assert quick.settle(asked, {}) == (asked, None)


def test_without_captioner_the_encoder_alone_is_used_and_what_is_missing_is_said() -> None:
    missing = {"captioner.model": "nobody/has-this", "search.lincir": {}}
    settled, note = quick.settle(config.load("demo", missing), {})
    assert settled.search.method == "image+text"
    assert note is not None
    assert "captioner nobody/has-this is not at hand" in note
    assert "LLM" not in note.partition("With both")[0]
    assert "--method seize" in note


def test_weights_for_textual_inversion_are_used_where_they_are_named() -> None:
    settled, _ = quick.settle(config.load("demo", {"captioner.model": "nobody/has-this"}), {})
    assert settled.search.method == "lincir"


@pytest.mark.parametrize(
    "asked", [{"search.method": "seize"}, {"captioner.model": "nobody/has-this"}]
)
def test_what_somebody_named_is_kept(asked: dict[str, str]) -> None:
    chosen = config.load("demo", {"captioner.model": "nobody/has-this"} | asked)
    assert quick.settle(chosen, asked) == (chosen, None)


def test_a_server_is_at_hand_where_it_takes_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        there = config.load("demo", SERVED | {"captioner.url": url, "llm.url": url})
        assert quick.settle(there, {}) == (there, None)
    _, note = quick.settle(there, {})
    assert note is not None
    assert "LLM b is not at hand" in note
