"""What is never shown: passwords in addresses, and values of options that are keys.

Errors repeat what was given, logs name servers, and a bug's traceback file is meant to be sent.
"""

import re

HIDDEN = "(hidden)"

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*://)?(?:([^/?#]*)@)?(.*)", re.IGNORECASE | re.DOTALL)
_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#]*@")
_OPTION = re.compile(
    r"(?<![\w-])(--[\w-]*(?:key|token|password|secret)(?:=|[ \t]+))[^\s-]\S*(?:[ \t]+[^\s-]\S*)*",
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
