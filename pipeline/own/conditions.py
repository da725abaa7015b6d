"""Conditions on images of one's own, as `--where` takes them: `colour=red`, `price<50`.

A condition is a field, an operator and a value. Numbers compare as numbers and dates as dates; a
date that is not told to the second stands for all of its time, so `taken=2024-05` is that month.
"""

import calendar
import fnmatch
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, cast

from pipeline.errors import ConditionError
from pipeline.printable import one_line

Kind = Literal["number", "date", "text", "folder", "attribute"]
"""What a field's values are; those of an attribute are texts that may be numbers or dates."""
Value = float | datetime | str
Predicate = Callable[[Value | None], bool]
"""Tells whether a field's value meets a condition; None is no value."""

PATTERN = re.compile(r"\s*([^<>=~!]+?)\s*(>=|<=|!=|!~|=|<|>|~)\s*(.*?)\s*", re.DOTALL)
OPERATORS = "= != < <= > >= ~ !~"
ORDER = ("<", "<=", ">", ">=")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
DATE = re.compile(
    r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2})(?:[T ](\d{1,2}):(\d{2})(?::(\d{2}))?)?)?)?", re.ASCII
)
MOST = 32
"""Conditions of one query."""
LONGEST = 500
"""Characters of one."""


@dataclass(frozen=True)
class Condition:
    """One condition; an image has to meet all of a query's."""

    field: str
    """In lower case."""
    operator: str
    value: str

    def __str__(self) -> str:
        return one_line(f"{self.field}{self.operator}{self.value}")


@dataclass(frozen=True)
class Range:
    """All that a value stands for, both ends included: a number itself, a date all of its time."""

    low: Any
    high: Any

    def holds(self, operator: str, other: Any) -> bool:
        """Return whether ``other``, of the same kind, is as the operator says."""
        above, below = bool(other >= self.low), bool(other <= self.high)
        return {
            "<": not above,
            "<=": below,
            ">": not below,
            ">=": above,
            "=": above and below,
        }[operator]


def parse(text: str) -> Condition:
    """Return a condition; raises ConditionError for a text that is none."""
    found = PATTERN.fullmatch(text) if len(text) <= LONGEST else None
    if found is None:
        shown = one_line(text if len(text) <= 60 else f"{text[:60]}…")
        raise ConditionError(
            f"{shown!r} is no condition: give a field, one of {OPERATORS} and a value, as in "
            "'price<50'."
        )
    return Condition(found[1].casefold(), found[2], found[3])


def parse_all(texts: Sequence[str]) -> tuple[Condition, ...]:
    """Return conditions, each once; raises ConditionError as ``parse``, and for too many."""
    made = tuple(dict.fromkeys(map(parse, texts)))
    if len(made) > MOST:
        raise ConditionError(f"{len(made)} conditions are more than the {MOST} allowed.")
    return made


def number(text: str) -> float | None:
    """Return the number that a text is, None for any other."""
    value = float(text) if NUMBER.fullmatch(text.strip()) else math.inf
    return value if math.isfinite(value) else None


def date(text: str) -> Range | None:
    """Return the time that a text such as 2024, 2024-05 or 2024-05-03 12:30 stands for, or None."""
    found = DATE.fullmatch(text.strip())
    if found is None:
        return None
    parts = [int(part) for part in found.groups() if part is not None]
    year, month, *rest = [*parts, *[0, 1, 1, 0, 0, 0][len(parts) :]]
    try:
        day, hour, minute, second = rest
        low = datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
    length = {
        1: timedelta(days=366 if calendar.isleap(year) else 365),
        2: timedelta(days=calendar.monthrange(year, month)[1]),
        3: timedelta(days=1),
        5: timedelta(minutes=1),
        6: timedelta(seconds=1),
    }[len(parts)]
    return Range(low, low + (length - timedelta(microseconds=1)))


def exactly(value: float) -> Range:
    """Return the range that a number alone is in."""
    return Range(value, value)


def predicate(condition: Condition, kind: Kind, cells: Collection[str] = ()) -> Predicate:
    """Return what tells whether an image meets a condition on a field of a kind.

    ``cells`` are all values of an attribute: what it can be compared as. Unlike every other
    operator, != and !~ are met by images without a value. Raises ConditionError where the value is
    not what the field's are, or the operator says nothing about them.
    """
    operator = condition.operator
    if operator.startswith("!"):
        met = predicate(Condition(condition.field, operator[1:], condition.value), kind, cells)
        return lambda value: not met(value)
    if kind in ("number", "date"):
        return _ordered(condition, kind)
    if operator in ORDER:
        return _attribute_ordered(condition, cells) if kind == "attribute" else _no_order(condition)
    wanted = condition.value.casefold()
    if operator == "~":
        return lambda value: isinstance(value, str) and wanted in value.casefold()
    return _equal(condition.value, kind)


def _ordered(condition: Condition, kind: Kind) -> Predicate:
    """Compare a field that is a number or a date of every image."""
    if condition.operator == "~":
        raise ConditionError(
            f"{condition}: {condition.field} is a {kind}, which is compared by = != < <= > >=."
        )
    if kind == "number":
        given = number(condition.value)
        wanted = None if given is None else exactly(given)
    else:
        wanted = date(condition.value)
    if wanted is None:
        example = "1000" if kind == "number" else "2024, 2024-05 or 2024-05-03"
        raise ConditionError(f"{condition}: {condition.value!r} is no {kind} such as {example}.")
    operator = condition.operator
    return lambda value: (
        value is not None and not isinstance(value, str) and wanted.holds(operator, value)
    )


def _no_order(condition: Condition) -> Predicate:
    raise ConditionError(
        f"{condition}: {condition.field} is a text, which is compared by = != ~ !~."
    )


def _attribute_ordered(condition: Condition, cells: Collection[str]) -> Predicate:
    """Compare attributes as numbers or, where the value or none of them is one, as dates."""
    operator = condition.operator
    given, day = number(condition.value), date(condition.value)
    if given is None and day is None:
        raise ConditionError(f"{condition}: {condition.value!r} is neither a number nor a date.")
    if given is not None and any(number(cell) is not None for cell in cells):
        wanted = exactly(given)
        return lambda value: (own := as_number(value)) is not None and wanted.holds(operator, own)
    if day is not None and any(date(cell) is not None for cell in cells):
        return lambda value: (own := as_date(value)) is not None and day.holds(operator, own)
    what = "number" if given is not None else "date"
    raise ConditionError(f"{condition}: no value of {condition.field} is a {what}.")


def _equal(value: str, kind: Kind) -> Predicate:
    """Compare texts, in which * and ? stand for any characters and one; attributes in two more
    ways, as numbers and as dates."""
    pattern = glob(value.rstrip("/") if kind == "folder" else value)
    if kind == "folder":
        return lambda own: isinstance(own, str) and any(map(pattern.fullmatch, _with_parents(own)))
    given, day = (number(value), date(value)) if kind == "attribute" else (None, None)

    def met(own: Value | None) -> bool:
        text = own if isinstance(own, str) else ""  # what has no value equals an empty one
        if pattern.fullmatch(text):
            return True
        if given is not None and number(text) == given:
            return True
        own_day = as_date(text) if day is not None else None
        return day is not None and own_day is not None and day.holds("=", own_day)

    return met


def _with_parents(path: str) -> list[str]:
    """Return a path and every folder that it lies in."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def glob(value: str) -> re.Pattern[str]:
    """Return the pattern of a text in which * stands for any characters and ? for one.

    Python's own translation takes no more than the product of both lengths.
    """
    plain = value.replace("[", "[[]")
    return re.compile(fnmatch.translate(plain), re.IGNORECASE)


def as_number(value: Value | None) -> float | None:
    """Return the number that an attribute is, or None."""
    return number(value) if isinstance(value, str) else None


def as_date(value: Value | None) -> datetime | None:
    """Return the time at which the date that an attribute is begins, or None."""
    found = date(value) if isinstance(value, str) else None
    return None if found is None else cast("datetime", found.low)
