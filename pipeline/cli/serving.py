"""The options of commands that start vLLM for what they do."""

import contextlib
import functools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline import config
from pipeline.cli.numbers import FiniteRange

Serve = Callable[[], contextlib.AbstractContextManager[str]]
"""Returns what serves a model while it is entered, and yields its URL. It may be called again."""


def serve_option(when: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return ``--serve MODEL``, which starts a server for ``when``; its value is ``model``."""
    text = f"start `vllm serve MODEL` {when}"
    return click.option("--serve", "model", metavar="MODEL", help=text)


def vllm_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options about how vLLM is started."""
    options = [
        click.option("--vllm-bin", help="the vllm program; the one on PATH by default"),
        click.option(
            "--serve-arg",
            "serve_arguments",
            multiple=True,
            metavar="ARGUMENT",
            help="for `vllm serve`, e.g. --serve-arg='--max-model-len 1024'",
        ),
        click.option(
            "--serve-timeout",
            type=FiniteRange(min=0, min_open=True, max=config.LONGEST_WAIT),
            default=900.0,
            show_default=True,
            help="seconds until the server must be ready",
        ),
    ]
    return functools.reduce(lambda decorated, option: option(decorated), options, function)


def split_arguments(arguments: tuple[str, ...]) -> list[str]:
    return [word for argument in arguments for word in shlex.split(argument)]


def serving(
    cache: Path,
    model: str,
    vllm_bin: str | None,
    serve_arguments: tuple[str, ...],
    serve_timeout: float,
) -> Serve:
    """Return what serves ``model``, with its log in ``cache``; raises ConfigError without vllm."""
    from pipeline.models.serving.vllm import find, serve

    program, arguments = find(vllm_bin), split_arguments(serve_arguments)
    log_file = cache / "vllm.log"
    return lambda: serve(model, log_file, program, arguments, timeout=serve_timeout)


def writing_with(model: str | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return ``overrides`` in which the LLM that writes is the served one, or else --llm's."""
    if model is not None:
        return overrides | {"synthesize.model": model}
    if "llm.model" in overrides:
        return {"synthesize.model": overrides["llm.model"]} | overrides
    return overrides
