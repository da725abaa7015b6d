"""Environment variables of processes that tests start."""

import os


def without(*names: str) -> dict[str, str]:
    """Return the variables of this process but those of these names."""
    return {name: value for name, value in os.environ.items() if name not in names}
