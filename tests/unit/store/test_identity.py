"""What is the same has the same fingerprint."""

from pipeline.store.identity import fingerprint

HEADER = {"stage": "test", "seed": 0}


def test_fingerprint_depends_on_content_not_on_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
