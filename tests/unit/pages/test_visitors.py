"""What visitors of the page may read of an error."""

import json
import logging

import pytest

from pipeline import config
from pipeline.errors import (
    ConfigError,
    InputError,
    InstallationError,
    MissingStageError,
    ModelError,
    SeizeError,
    StorageError,
)
from pipeline.pages.visitors import BusyError, for_visitors, is_private
from pipeline.run import dump

SECRETS = (
    "/home/me/photos",
    "~/photos",
    "C:\\Users\\me",
    "http://10.0.0.7:8000/v1",
    "seize index photos",
    "cache/queries/edit/demo-0123456789ab.jsonl",
)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "kind",
    [
        SeizeError,
        ConfigError,
        InputError,
        MissingStageError,
        ModelError,
        StorageError,
        InstallationError,
    ],
)
@pytest.mark.parametrize(
    "text", ["{}", "{} is damaged. Delete it.", "It says '{}'", "cannot read ({}): x", "at={}"]
)
def test_no_error_gives_the_machine_away_and_its_owner_reads_all(
    secret: str, kind: type[SeizeError], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = text.format(secret)
    with caplog.at_level(logging.WARNING, logger="seize"):
        told = for_visitors(kind(whole))
    assert secret not in told
    assert told.endswith((".", "of."))
    assert "log" in told
    assert caplog.messages == [whole]


@pytest.mark.parametrize(
    "told",
    [
        "x.jpg has 12000 x 12000 pixels, more than the 50,000,000 allowed (--max-pixels).",
        "There is no method 'sieze'. Did you mean 'seize'? Known: image, seize.",
        "holidays and/or beach.jpg is not an image that can be read.",
        "3 edited captions do not match 2 captions: each caption has one, or each the same number.",
        "2024/holidays/beach.jpg is gone or was changed.",
    ],
)
def test_what_a_visitor_can_mend_is_told(told: str, caplog: pytest.LogCaptureFixture) -> None:
    assert for_visitors(InputError(told)) == told
    assert for_visitors(BusyError("Try again soon.")) == "Try again soon."
    assert not caplog.messages
    assert for_visitors(InputError(f"{told} Run: seize index /home/me")) == told
    assert caplog.messages == [f"{told} Run: seize index /home/me"]


def test_an_error_is_one_line_that_steers_nothing() -> None:
    told = for_visitors(InputError("a\u202eb\x1b[2J\nc is no image."))
    assert told == "a\\u202eb\\x1b[2J\\nc is no image."


def test_json_has_null_for_what_is_no_number() -> None:
    nan, infinity = float("nan"), float("inf")
    text = dump({"a": [nan, 1.5, (infinity, {"b": -infinity})], "c": "NaN"})

    def never(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(text, parse_constant=never)
    assert found == {"a": [None, 1.5, [None, {"b": None}]], "c": "NaN"}


@pytest.mark.parametrize("preset", config.presets())
def test_a_presets_note_is_for_visitors_too(preset: str) -> None:
    assert not is_private(config.load(preset).note or "")
