"""``import seize``: what a program of one's own calls; the code is the package ``pipeline``.

A name is imported when it is first used (PEP 562), so that ``import seize`` loads no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pipeline import __version__, load

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.errors import SeizeError
    from pipeline.own.gallery import Gallery, Result

__all__ = ["Config", "Gallery", "Result", "SeizeError", "__version__", "load"]

_MODULES = {
    "Config": "pipeline.config",
    "Gallery": "pipeline.own.gallery",
    "Result": "pipeline.own.gallery",
    "SeizeError": "pipeline.errors",
}
"""Where the names are that are not imported yet."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
