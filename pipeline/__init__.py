"""Training-free composed image retrieval after SEIZE (ACM MM 2024) and LDRE (SIGIR 2024)."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.own.gallery import Gallery

__version__ = "0.1.0"


def load(
    folder: "Path | str",
    config: "Config | str | None" = None,
    cache: "Path | str | None" = None,
    attributes: "Path | str | None" = None,
) -> "Gallery":
    """Return the images of a folder tree as a gallery to index and query.

    ``config`` is a preset's name, a YAML file or a ``Config``; without one it is found as `seize
    index` finds it (``seize.yaml``, what the folder was indexed with, the preset ``laptop``).
    Features and answers are kept in the folder ``cache``, or the user's own. ``attributes`` is a
    CSV in place of the folder's ``attributes.csv``. Raises InputError if there is no such folder,
    ConfigError for settings.

    >>> import seize
    >>> gallery = seize.load("photos", config="demo")
    >>> report = gallery.index()  # embeds what is new or changed
    >>> result = gallery.query("dog.jpg", "has a dark background")
    >>> len(result.captions) == len(result.edited_captions) == 15
    True
    >>> best = result.images[0]  # path, score, absolute similarity and increment
    >>> best.score >= result.images[1].score
    True

    Other weights, another method or a text of one's own rank again without the models (CLIP alone
    reads texts that are new):

    >>> result.rerank(alpha_neg=0.0).images[0].score >= best.score
    True
    >>> own = result.rerank(edited_captions=["three large red circles"] * 15)
    >>> own.paths != result.paths
    True
    """
    from pipeline.own import quick, settings
    from pipeline.own.gallery import Gallery

    place, root = settings.cache_folder(Path(cache) if cache is not None else None), Path(folder)
    note = None
    if config is None or isinstance(config, str):
        config, note = quick.settle(settings.load(root, config, place, {}), {})
    table = None if attributes is None else Path(attributes)
    return Gallery(root, config, place, note=note, attributes=table)
