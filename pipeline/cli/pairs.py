"""Values of options that are pairs."""

from typing import Any

import click


class Pair(click.ParamType[tuple[str, str], str]):
    """Two texts joined by an equals sign, such as ``NAME=FILE``."""

    name = "pair"

    def convert(self, value: Any, *context: Any) -> tuple[str, str]:
        """Return the two texts; fails where one of them is missing."""
        first, equals, second = value.partition("=")
        if not (first and equals and second):
            form = getattr(context[0] if context else None, "metavar", None) or "NAME=VALUE"
            self.fail(f"{value!r} is not {form}.", *context)
        return first, second
