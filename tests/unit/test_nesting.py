"""JSON of any depth is read or refused, and never at the end of the stack."""

import gc
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import nesting

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\\n é\ud83d', max_size=9),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
)


@given(VALUES)
def test_it_reads_what_json_does(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert nesting.loads(text) == value
        assert nesting.loads(text.encode(errors="surrogatepass")) == value


def test_as_many_brackets_as_one_likes_stand_side_by_side_and_in_strings() -> None:
    for value in ([[]] * 10_000, ["[" * 10_000, '"{' * 10_000], {"a": ["\\[" * 10_000]}):
        assert nesting.loads(json.dumps(value)) == value
    assert nesting.loads("[" * 100 + "]" * 100)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 101 + "]" * 101,
        "[" * 1_000_000,
        '{"a":' * 1_000_000,
        '"' + "[" * 1_000_000,
        '["' + '\\"[' * 300_000,
        "",
        "[}",
    ],
)
def test_what_is_nested_too_deep_or_no_json_is_refused_and_soon(text: str) -> None:
    for content in (text, text.encode()):
        with pytest.raises(ValueError, match=r"within each other|Expecting|Unterminated"):
            nesting.loads(content)


def test_no_finalizer_runs_at_the_end_of_the_stack() -> None:
    left: list[int] = []

    def measure(phase: str, info: object) -> None:
        def deeper(count: int) -> int:
            try:
                return deeper(count + 1)
            except RecursionError:
                return count

        left.append(deeper(0))

    gc.callbacks.append(measure)
    try:
        for count in range(0, 700, 10):
            kept = [[] for _ in range(count)]  # type: ignore[var-annotated]
            with pytest.raises(ValueError, match="within each other"):
                nesting.loads("[" * 200_000)
            del kept
    finally:
        gc.callbacks.remove(measure)
    assert min(left, default=1000) > 300
