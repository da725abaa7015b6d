"""JSON from elsewhere, whose brackets may be nested deeper than the stack is.

Python's parser ends such a text in a RecursionError. At that depth the garbage collector may run
finalizers of whatever else there is, and these then fail for want of stack.
"""

import json
import re
from typing import Any

DEEPEST = 100
"""Brackets within brackets that are read: no answer or annotation has a tenth of them."""
_PARTS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{\]}]', re.DOTALL)
"""Strings, and brackets outside them; a string without an end too, so in linear time."""


def loads(text: str | bytes) -> Any:
    """Return what ``text`` holds; raises ValueError for no JSON, or JSON nested too deep."""
    content = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if content.count(b"[") + content.count(b"{") > DEEPEST:
        depth = 0
        for part in _PARTS.finditer(content):
            depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(part[0], 0)
            if depth > DEEPEST:
                raise ValueError(f"more than {DEEPEST} brackets within each other")
    return json.loads(text)
