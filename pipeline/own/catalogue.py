"""A folder of one's own images as a source of triplets, on the features of its index."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.datasets.base import Dataset
from pipeline.datasets.reading import Predictions
from pipeline.errors import InputError
from pipeline.own import folder as folders
from pipeline.own.folder import Folder
from pipeline.own.listing import files_of
from pipeline.records import Query
from pipeline.run import Run
from pipeline.stages.synthesize import Source


class Catalogue(Dataset):
    """The indexed images of a folder, by the hash of their bytes: renamed ones are known again.

    It has no annotations, so it is no benchmark that ``--dataset`` could name.
    """

    folder = ""
    splits = ("images",)
    kinds = ()
    lengths = MappingProxyType({})

    def __init__(self, folder: Folder) -> None:
        self.folder_of_images = folder
        self.name = folder.name  # type: ignore[misc]  # each folder has its own
        self.paths: dict[str, str] = {}
        super().__init__("images", folder.root, follow_links=True)  # the index looked at links

    def read(self) -> None:
        """Take the images."""
        for path, content_hash in self.found():
            self.paths.setdefault(content_hash, path)
        self.images = {name: self.root / path for name, path in self.paths.items()}
        self.galleries = {"all": list(self.images)}
        self.gallery_name = self.folder_of_images.name
        self.queries = [Query(name, name, ()) for name in self.images]

    def found(self) -> Iterable[tuple[str, str]]:
        """Return path and hash of the images whose features the index has."""
        known = self.folder_of_images.features().row
        return (
            (path, name) for path, name in self.folder_of_images.hashes().items() if name in known
        )

    @property
    def gallery_identity(self) -> dict[str, Any]:
        """Nothing: a hash says all about an image. So the index's features are these."""
        return {}

    def parse(self, entry: Any, where: str) -> Query:
        """There are no annotations."""
        raise InputError(f"{where}: a folder of images has no annotations.")

    def values(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        """There is nothing that is right."""
        return {}

    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        """There is no server."""
        raise InputError("A folder of images has no submission.")

    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        """There is no server."""
        raise InputError("A folder of images has no submission.")


class Planned(Catalogue):
    """The images of a folder as they will be once it is indexed, those that are new by their path.

    Of those, equal ones are not known to be.
    """

    def found(self) -> Iterable[tuple[str, str]]:
        """Return path and hash of all images but those that are known to be broken."""
        records = self.folder_of_images.records()
        for path in files_of(self.folder_of_images):
            record = records.get(path)
            if record is None:
                yield path, path
            elif "broken" not in record:
                yield path, record["hash"]


def of_folder(folder: Folder, submissions: Path) -> Source:
    """Index a folder; return its images as a source, whose subfolders are categories.

    Raises InputError if it holds no image that can be read.
    """
    folders.index(folder)
    return _source(Catalogue(folder), folder, submissions)


def planned(folder: Folder, submissions: Path) -> Source:
    """Return the source that ``of_folder`` will be, without indexing; raises InputError as it."""
    source = _source(Planned(folder), folder, submissions)
    if not source.names:
        raise InputError(f"There is no image below {folder.root}.")
    return source


def _source(catalogue: Catalogue, folder: Folder, submissions: Path) -> Source:
    run = Run(catalogue, folder.config, folder.cache, submissions, folder.command)
    first = {name: path.split("/")[0] for name, path in catalogue.paths.items() if "/" in path}
    return Source(run, catalogue.paths, first if len(set(first.values())) > 1 else {})
