"""The demo's world in the layouts of further benchmarks: one file each, to try a reader without the
benchmark's data, from its annotations to its metrics.

``write(name, root)`` needs no download and takes seconds; the figures measured on it say that the
path works, nothing about the benchmark.
"""

import importlib
import random
from pathlib import Path

from pipeline import plugins
from pipeline.errors import ConfigError, nearest


def names() -> list[str]:
    """Return the names of the layouts, which are those of benchmarks."""
    return sorted(name.replace("_", "-") for name in plugins.names(__name__))


def write(name: str, root: Path, queries: int = 12, seed: int = 0) -> Path:
    """Write a world of ``queries`` queries (of each task or category) in a benchmark's layout.

    The same seed gives the same files. Returns ``root``, the folder to give as --data-root. Raises
    ConfigError for a name that is none.
    """
    if name not in names():
        raise ConfigError(f"The demo has no layout {name!r}.{nearest(name, names())}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    module.write(root, random.Random(seed), queries)
    return root
