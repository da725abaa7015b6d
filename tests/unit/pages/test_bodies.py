"""Reading the bodies of requests."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.errors import InputError
from pipeline.pages.bodies import JSON_STRUCTURE, STRING, file_name, parse_json


class Words(BaseModel):
    words: list[str]


@given(st.lists(st.text(), max_size=20), st.booleans())
def test_good_json_is_read_whatever_its_strings_hold(words: list[str], ascii_only: bool) -> None:
    words = [word.encode(errors="replace").decode() for word in words]
    body = json.dumps({"words": words}, ensure_ascii=ascii_only).encode()
    assert parse_json(Words, body).words == words
    assert STRING.sub(b"", body).count(b",") == max(len(words) - 1, 0), "strings are found whole"


@pytest.mark.parametrize("start", [b'"', b"", b"[", b'{"a":"'])
@pytest.mark.parametrize("many", [b'\\"', b"\\", b'"', b"\\\n", b"[", b"1", b'"",', b" ", b"a"])
def test_four_megabytes_of_anything_are_refused_at_once(start: bytes, many: bytes) -> None:
    body = start + many * ((4 << 20) // len(many))
    began = time.process_time()
    with pytest.raises(InputError):
        parse_json(Words, body)
    assert time.process_time() - began < 2.0


def test_the_largest_good_request_has_room() -> None:
    body = json.dumps({"words": ["[{,:" * 200] * 512}, indent=8).encode()
    assert len(parse_json(Words, body).words) == 512
    assert len(STRING.sub(b"", body)) < JSON_STRUCTURE / 4


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("beach.jpg", "beach.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\me\\x.png", "x.png"),
        ("a\u202egpj.exe", "a\\u202egpj.exe"),
        ("a\r\nError: b", "a\\r\\nError: b"),
        ("", "the image"),
        ("/", "the image"),
        ("x" * 300, "x" * 50 + "…" + "x" * 50),
    ],
)
def test_an_uploads_name_is_plain(given: str, shown: str) -> None:
    assert file_name(given) == shown
