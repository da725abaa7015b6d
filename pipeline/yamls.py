"""YAML of others, read safely: bounded, aliases too, with errors that say where."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.errors import ConfigError

LONGEST_FILE = 256 * 1024
"""Bytes of a YAML file."""


MOST_NODES = 100_000
"""Values in a YAML file, those that aliases repeat counted every time."""


def read_yaml(file: Path) -> Any:
    """Return a YAML file's content; raises ConfigError naming the file."""
    try:
        with file.open("rb") as stream:
            content = stream.read(LONGEST_FILE + 1)
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
    if len(content) > LONGEST_FILE:
        raise ConfigError(f"{file} has more than {LONGEST_FILE:,} bytes.")
    return parse_yaml(text, str(file))


def parse_yaml(text: str, where: str) -> Any:
    """Return what YAML holds: plain values only; raises ConfigError that begins with ``where``.

    Aliases may not repeat more than ``MOST_NODES`` values, nor a value within itself.
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return None
            if _size(root, {}) > MOST_NODES:
                raise ValueError(f"it has more than {MOST_NODES:,} values")
            return loader.construct_document(root)
        finally:
            loader.dispose()
    except Exception as error:  # its constructors fail in many ways at odd dates and numbers
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"{where} cannot be read: {reason}") from None


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Return how many values a node stands for; infinity if it holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        if isinstance(node, yaml.ScalarNode):
            node.value.encode()  # fails at halves of surrogate pairs, which escapes can make
        children: list[Any] = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = (child if isinstance(child, tuple) else (child,) for child in children)
        known[id(node)] = 1 + sum(_size(one, known) for pair in pairs for one in pair)
    return known[id(node)]


def first_problem(error: ValidationError) -> str:
    """Return a pydantic error as one line: field, and what is wrong with it."""
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    return f"{field or 'content'}: {words(problem['msg'])}"


def words(message: str) -> str:
    """Return what pydantic says of a field, without the type that it puts before our own words."""
    return message.removeprefix("Value error, ")
