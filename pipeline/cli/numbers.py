"""Numbers that options take."""

import math
from typing import Any

import click


class Finite(click.types.FloatParamType):
    """A floating-point number that is neither NaN nor infinite."""

    def convert(self, value: Any, *context: Any) -> Any:
        """Return the number; fails for one that is not finite."""
        return _finite(self, super().convert(value, *context), value, *context)


class FiniteRange(click.FloatRange):
    """A range of floating-point numbers, without NaN, which no comparison keeps out."""

    def convert(self, value: Any, *context: Any) -> Any:
        """Return the number; fails for one that is not finite, or out of range."""
        return _finite(self, super().convert(value, *context), value, *context)


def _finite(kind: click.ParamType[Any, Any], number: Any, value: Any, *context: Any) -> Any:
    if not math.isfinite(number):
        kind.fail(f"{value!r} is not a finite number.", *context)
    return number
