"""YAML of others is plain, bounded, and wrong in one line that names the file."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from pipeline.errors import ConfigError
from pipeline.yamls import LONGEST_FILE, MOST_NODES, first_problem, parse_yaml, read_yaml


def test_plain_values_and_aliases_are_read(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: &a [1, ç]\nb: *a\n", encoding="utf-8")
    assert read_yaml(file) == {"a": [1, "ç"], "b": [1, "ç"]}
    file.write_text("")
    assert read_yaml(file) is None


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml does not exist"):
        read_yaml(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read: .*directory"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("ç".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml cannot be read: .*utf-8"):
        read_yaml(tmp_path / "latin.yaml")


def test_as_much_as_is_allowed_is_read_and_one_more_is_not(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("#" * LONGEST_FILE)
    assert read_yaml(file) is None
    file.write_text("#" * (LONGEST_FILE + 1))
    with pytest.raises(ConfigError, match="more than"):
        read_yaml(file)
    count = MOST_NODES // 50 - 1
    repeated = f"- &a [{', '.join('x' * 49)}]\n" + "- *a\n" * (count - 1)
    assert len(parse_yaml(repeated, "it")) == count
    with pytest.raises(ConfigError, match=r"^it cannot be read: it has more than 100,000 values"):
        parse_yaml(repeated + "- *a\n" * 2, "it")


def test_a_wrong_field_is_one_line_with_its_place() -> None:
    class Inner(BaseModel):
        count: int

        @field_validator("count")
        @classmethod
        def _few(cls, count: int) -> int:
            if count > 9:
                raise ValueError("count must be below 10")
            return count

    class Outer(BaseModel):
        inner: Inner

    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": {"count": "many"}})
    assert first_problem(caught.value).startswith("inner.count: Input should be a valid integer")
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": {"count": 10}})
    assert first_problem(caught.value) == "inner.count: count must be below 10"
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate([])
    assert first_problem(caught.value).startswith("content: ")
