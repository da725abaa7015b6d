"""``import seize``: what a program of one's own calls; the code is the package ``pipeline``.

A name is imported when it is first used (PEP 562), so that ``import seize`` loads no torch.

- ``load`` a folder of one's own images as a ``Gallery``; a query gives a ``Result``;
- ``open`` a benchmark as a ``Benchmark``: run, search, evaluate, compare;
- ``rank`` features made elsewhere;
- ``configure`` gives a preset's or a file's settings as a ``Config``;
- ``SeizeError`` is what goes wrong.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pipeline import __version__, load

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.config import load as configure
    from pipeline.errors import SeizeError
    from pipeline.own.gallery import Gallery
    from pipeline.own.result import Result
    from pipeline.retrieval.files import rank
    from pipeline.study.benchmark import Benchmark
    from pipeline.study.benchmark import open_benchmark as open

__all__ = [
    "Benchmark",
    "Config",
    "Gallery",
    "Result",
    "SeizeError",
    "__version__",
    "configure",
    "load",
    "open",
    "rank",
]

_PLACES = {
    "Benchmark": ("pipeline.study.benchmark", "Benchmark"),
    "Config": ("pipeline.config", "Config"),
    "Gallery": ("pipeline.own.gallery", "Gallery"),
    "Result": ("pipeline.own.result", "Result"),
    "SeizeError": ("pipeline.errors", "SeizeError"),
    "configure": ("pipeline.config", "load"),
    "open": ("pipeline.study.benchmark", "open_benchmark"),
    "rank": ("pipeline.retrieval.files", "rank"),
}
"""Where the names are that are not imported yet."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, own = _PLACES[name]
    found = globals()[name] = getattr(importlib.import_module(module), own)
    return found


def __dir__() -> list[str]:
    return __all__
