"""Passwords and keys stay out of what is shown, and nothing else does."""

import pytest

from pipeline.masking import HIDDEN, hide, masked, secrets_of, without_credentials


@pytest.mark.parametrize(
    ("url", "bare", "credentials"),
    [
        ("http://me:pass@host:8000/v1", "http://host:8000/v1", "me:pass"),
        ("me:pass@host/v1", "host/v1", "me:pass"),
        ("http://me:p@ss@host/v1", "http://host/v1", "me:p@ss"),
        ("http://host/v1?mail=a@b", "http://host/v1?mail=a@b", ""),
        ("http://host/v1", "http://host/v1", ""),
        ("", "", ""),
    ],
)
def test_credentials_are_told_from_the_address(url: str, bare: str, credentials: str) -> None:
    assert without_credentials(url) == (bare, credentials)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("asked http://me:pass@host/v1 twice", f"asked http://{HIDDEN}@host/v1 twice"),
        ("serve --api-key hunter2 --port 8000", f"serve --api-key {HIDDEN} --port 8000"),
        ("serve --hf_token=hunter2", f"serve --hf_token={HIDDEN}"),
        ("serve --api-key one two --port 1", f"serve --api-key {HIDDEN} --port 1"),
        ("serve --API-KEY hunter2", f"serve --API-KEY {HIDDEN}"),
        ("a monkey --keyboard us --port 8000", "a monkey --keyboard us --port 8000"),
    ],
)
def test_addresses_and_options_show_no_secret(said: str, shown: str) -> None:
    assert masked(said) == shown


def test_secrets_among_arguments_are_found_and_hidden_wherever_they_stand() -> None:
    arguments = ["--api-key", "one-long", "one-longer", "--hf_token=two-long", "--port", "8000"]
    secrets = secrets_of(arguments)
    assert secrets == ["one-long", "one-longer", "two-long"]
    assert hide("one-longer, one-long: two-long at 8000", secrets) == (
        f"{HIDDEN}, {HIDDEN}: {HIDDEN} at 8000"
    )
    assert hide("a b c", ["a", "b"]) == "a b c"  # too short: all would be hidden
