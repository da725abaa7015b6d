"""Hostile versions of good files: bytes that are damaged, and structures that are wrong."""

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

LONG = "x" * 5_000
DEEP = 3_000
ODD_TEXTS = (
    "",
    " ",
    "\0",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "C:\\windows",
    "\ud800",
    "\x1b]0;owned\x07",
    "\u202egpj.exe",
    "</script><script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ 'a' * 10**9 }}",
    "imported:",
    "transformers:",
    "local-dir:",
    "nan",
    "12",
    "1" * 5_000,
    LONG,
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(10**30)),
    *(0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), float("-inf")),
    *([], {}, [[]], [{}], {"": None}, [None], [0], ["x"], {"a": {"b": {}}}),
)
BYTES = (
    b"\0",
    b"\xff",
    b"\n",
    b"\r\n",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b"\\",
    b"\xed\xa0\x80",
    b"\xfe",
)
ENCODINGS = ("utf-16", "utf-32", "latin-1", "utf-8-sig")


class Twice(dict[str, Any]):
    """A JSON object one of whose keys comes twice."""


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return ``content`` with some bytes flipped, cut, repeated, moved, put in or left out."""
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        size = len(made)
        place, length = chance.randrange(size + 1), chance.choice((1, 2, 8, 64, 1024))
        match chance.randrange(8):
            case 0 | 1:
                if size:
                    made[min(place, size - 1)] ^= 1 << chance.randrange(8)
            case 2:
                del made[place:]
            case 3:
                del made[place : place + length]
            case 4:
                made[place:place] = made[place : place + length] * chance.choice((1, 2, 100))
            case 5:
                made[place:place] = chance.choice(BYTES)
            case 6:
                made[place : place + length] = chance.randbytes(min(length, 64))
            case 7:
                other = chance.randrange(size + 1)
                made[place : place + length] = made[other : other + length]
    return bytes(made)


def odd(chance: random.Random, like: Any) -> Any:
    """Return a value that may stand where ``like`` stood, and hardly ever should."""
    match chance.randrange(8):
        case 0 | 1:
            return chance.choice(ODD_TEXTS)
        case 2 | 3:
            return copy.deepcopy(chance.choice(ODD_VALUES))
        case 4:
            return str(like) if not isinstance(like, str) else chance.choice((1, 1.5, [like]))
        case 5:
            return [like] if chance.random() < 0.5 else {"x": like}
        case 6:
            if isinstance(like, str):
                return like + chance.choice(ODD_TEXTS)
            if isinstance(like, int | float):
                return -like
            return copy.deepcopy(chance.choice(ODD_VALUES))
        case _:
            return _Deep() if chance.random() < 0.1 else chance.choice(ODD_TEXTS)


class _Deep:
    """Stands for a list within a list within a list."""


def changed(content: Any, chance: random.Random) -> Any:
    """Return JSON-able data with one to three of its values, keys or items changed."""
    content = json.loads(json.dumps(content))
    for _ in range(chance.choice((1, 1, 2, 3))):
        content = _change(content, chance, chance.random() < 0.02)
    return content


def _change(content: Any, chance: random.Random, here: bool) -> Any:
    if here or not isinstance(content, dict | list) or not content:
        return odd(chance, content)
    if isinstance(content, list):
        place = chance.randrange(len(content))
        match chance.randrange(10):
            case 0:
                del content[place]
            case 1:
                content.insert(place, copy.deepcopy(chance.choice(content)))
            case 2:
                content.insert(place, odd(chance, None))
            case _:
                content[place] = _change(content[place], chance, chance.random() < 0.1)
        return content
    key = chance.choice(list(content))
    match chance.randrange(12):
        case 0:
            del content[key]
        case 1:
            content[chance.choice(ODD_TEXTS)] = content.pop(key)
        case 2:
            content[chance.choice(ODD_TEXTS)] = odd(chance, None)
        case 3:
            content = Twice(content)
        case _:
            content[key] = _change(content[key], chance, chance.random() < 0.1)
    return content


def text_of(content: Any) -> str:
    """Return data as JSON, with keys twice and deep nesting where it asks for them."""
    if isinstance(content, _Deep):
        return "[" * DEEP + "]" * DEEP
    if isinstance(content, dict):
        pairs = [f"{json.dumps(key)}: {text_of(value)}" for key, value in content.items()]
        return "{" + ", ".join(pairs + pairs[:1] * isinstance(content, Twice)) + "}"
    if isinstance(content, list):
        return "[" + ", ".join(map(text_of, content)) + "]"
    return json.dumps(content)


def encoded(text: str, chance: random.Random) -> bytes:
    """Return text as UTF-8, seldom in another encoding or with halves of surrogate pairs as is."""
    if chance.random() < 0.02:
        return text.encode(chance.choice(ENCODINGS), "replace")
    if chance.random() < 0.05:
        return json.dumps(json.loads(text), ensure_ascii=False).encode(errors="surrogatepass")
    return text.encode()


def of_json(content: bytes, chance: random.Random) -> bytes:
    """Change the values of a JSON file."""
    return _encoded_or_plain(text_of(changed(json.loads(content), chance)), chance)


def _encoded_or_plain(text: str, chance: random.Random) -> bytes:
    try:
        return encoded(text, chance)
    except (ValueError, RecursionError):  # what cannot be parsed again is hostile as it is
        return text.encode(errors="surrogatepass")


def of_lines(content: bytes, chance: random.Random) -> bytes:
    """Change one line of a file of JSON lines, or their order and number."""
    lines = content.splitlines()
    place = chance.randrange(len(lines)) if chance.random() < 0.8 else 0
    match chance.randrange(8):
        case 0:
            del lines[place]
        case 1:
            lines.insert(place, lines[chance.randrange(len(lines))])
        case 2:
            chance.shuffle(lines)
        case 3:
            lines[place] = damaged(lines[place], chance)
        case _:
            lines[place] = of_json(lines[place], chance)
    return b"\n".join(lines) + b"\n"


def of_safetensors(content: bytes, chance: random.Random) -> bytes:
    """Change the header of a safetensors file, JSON within which may be JSON again; or its length,
    or the bytes behind it."""
    length = int.from_bytes(content[:8], "little")
    start, rest = content[8 : 8 + length], content[8 + length :]
    if chance.random() < 0.3:
        header = json.loads(start)
        facts = header.get("__metadata__", {})
        if facts and chance.random() < 0.5:
            name = chance.choice(list(facts))
            facts[name] = of_json(facts[name].encode(), chance).decode(errors="replace")
            start = json.dumps(header).encode()
        else:
            start = of_json(start, chance)
    elif chance.random() < 0.5:
        rest = damaged(rest, chance)
    else:
        floats = chance.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\1\0\0\0"))
        place = 4 * chance.randrange(max(1, len(rest) // 4))
        rest = rest[:place] + floats + rest[place + 4 :]
    length = len(start) if chance.random() < 0.95 else chance.choice((0, 1, 2**40, 2**63))
    return length.to_bytes(8, "little") + start + rest


def of_text(snippets: Sequence[str]) -> Callable[[bytes, random.Random], bytes]:
    """Return what puts one of ``snippets`` in place of a part of a line, or in between lines."""

    def change(content: bytes, chance: random.Random) -> bytes:
        lines = content.decode(errors="replace").split("\n")
        for _ in range(chance.choice((1, 1, 2))):
            place = chance.randrange(len(lines))
            snippet, line = chance.choice(snippets), lines[place]
            start = line.find(":") + 1 if chance.random() < 0.5 else chance.randrange(len(line) + 1)
            lines[place : place + 1] = chance.choice(
                (
                    [f"{line[:start]} {snippet}"],
                    [snippet, line],
                    [line[:start] + snippet + line[start:]],
                    [],
                )
            )
            lines = lines or [""]
        return "\n".join(lines).encode(errors="surrogatepass")

    return change


YAML = (
    *("&a [*a]", "*a", "<<: *a", "!!python/object/apply:os.system [id]", "!!int ''", "!!float x"),
    *(
        "!!timestamp x",
        "2001-99-99",
        "!!binary x",
        "!!set {a}",
        "!!omap [a]",
        "!!bool x",
        "1:2:3:4",
    ),
    *(
        ".nan",
        ".inf",
        "-.inf",
        "0x",
        "0o9",
        "1_000",
        "~",
        "? [a]",
        "{a: b}",
        "- - - a",
        "\t",
        "%TAG",
    ),
    *("\t", "%TAG", "'", '"', "|", ">-", "#", "---", "...", "@", "`", "[" * 2_000),
    *("&a [x, x]", "preset: demo"),
    *(
        "preset: ../x",
        "user: '{{ x }}'",
        "{{ caption * 9 }}",
        "{% if caption %}",
        "\0",
        "\x07",
        "\ufeff",
    ),
    *(
        "a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\nc: [*b, *b, *b, *b]",
        "transformers:",
        "=" * 300,
    ),
    *(
        "1" * 5_000,
        "y" * 70_000,
        "system: [1]",
        "images: [reference]",
        "max_tokens: -1",
        "model: ''",
    ),
)
"""What is put into YAML files."""
CSV = (*("nan", "inf", "", ",", '"', ",,,,", "1e999", "x", "-", "\0", "α", "mAP@5", "negative"),)
"""What is put into tables."""
TEMPLATES = (
    *(
        "{{ caption }}",
        "{{ relative_caption }}",
        "{{ edited_caption }}",
        "{% if caption %}",
        "{% endif %}",
    ),
    *(
        "{{ caption | upper }}",
        "{{ caption | truncate(relative_caption) }}",
        "{{ 1 / 0 }}",
        "{#",
        "#}",
    ),
    *(
        "{{ caption is divisibleby 0 }}",
        "{{ caption < 3 }}",
        "{{ caption | default }}",
        "{% raw %}",
    ),
    *(
        "{{ caption | truncate('x') }}",
        "{{ caption in 3 }}",
        "{% elif %}",
        "{{ none.x }}",
        "{{",
        "}}",
    ),
    *("{% set a = 1 %}", "{{ caption is sameas }}", "{{ caption | title(1) }}", "{{ -caption }}"),
)
"""What is put into templates, beside plain YAML."""
