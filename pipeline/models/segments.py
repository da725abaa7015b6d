"""Texts that an encoder cannot read whole, in parts that it can."""

import re
from collections.abc import Callable, Sequence

LEVELS = (
    re.compile(r"\s*\n\s*|\s+(?=\(?\d{1,2}[.)]\s)"),  # lines, and points of a numbered list
    re.compile(r"(?<=[.!?;])(?<!\d\.)\s+"),
    re.compile(r"(?<=,)\s+|\s+(?=(?:and|but|while|with)\s)"),
    re.compile(r"\s+"),
)
"""Where a text may be parted, the best places first."""


def segments(
    text: str, fits: Callable[[str], bool], levels: Sequence["re.Pattern[str]"] = LEVELS
) -> list[str]:
    """Return ``text`` in consecutive parts that fit, as few as neighbours can be joined to.

    A text that fits is one part; a single word that does not fit stays as it is.
    """
    if not levels or fits(text):
        return [text]
    found: list[str] = []
    current = ""
    for part in levels[0].split(text.strip()):
        joined = f"{current} {part}".strip()
        if fits(joined):
            current = joined
            continue
        found += [current] if current else []
        current = ""
        *whole, last = segments(part, fits, levels[1:])
        found += whole
        current = last
    return [*found, current] if current else found or [text]
