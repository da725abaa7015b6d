"""What is never shown: passwords in addresses, and values of options that are keys.

Errors repeat what was given, logs name servers, and a bug's traceback file is meant to be sent.
"""

import re
from collections.abc import Iterable, Sequence

HIDDEN = "(hidden)"

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*://)?(?:([^/?#]*)@)?(.*)", re.IGNORECASE | re.DOTALL)
_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#]*@")
_SECRET = ("key", "token", "password", "secret")
"""End the names of options whose values are secrets."""
_OPTION = re.compile(
    rf"(?<![\w-])(--[\w-]*(?:{'|'.join(_SECRET)})(?:=|[ \t]+))[^\s-]\S*(?:[ \t]+[^\s-]\S*)*",
    re.IGNORECASE,
)


def without_credentials(url: str) -> tuple[str, str]:
    """Return a URL without the ``user:password@`` in it, and that (as written, without @)."""
    found = _ADDRESS.fullmatch(url)
    assert found is not None  # it matches any text
    scheme, credentials, rest = found.groups(default="")
    return scheme + rest, credentials


def masked(text: str) -> str:
    """Return ``text`` without credentials in URLs and values of options like ``--api-key``."""
    return _OPTION.sub(rf"\1{HIDDEN}", _CREDENTIALS.sub(f"{HIDDEN}@", text))


def secrets_of(arguments: Sequence[str]) -> list[str]:
    """Return the values of options like ``--api-key`` among a command's arguments."""
    found, secret = [], False
    for argument in arguments:
        value = argument
        if argument.startswith("-"):
            name, _, value = argument.partition("=")
            secret = name.lower().endswith(_SECRET)
        if secret and value:
            found.append(value)
    return found


def hide(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` without these secrets, however they got into it, and ``masked``.

    Secrets of one to three characters stay: without them, nothing could be read.
    """
    for secret in sorted(secrets, key=len, reverse=True):  # some may be parts of others
        if len(secret) > 3:
            text = text.replace(secret, HIDDEN)
    return masked(text)
