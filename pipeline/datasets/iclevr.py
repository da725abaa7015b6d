"""i-CLEVR in GeNeVA's layout (El-Nouby et al., ICCV 2019): a canvas that gains an object a turn.

Layout: ``scenes/CLEVR_SPLIT_ID.json`` (``objects`` with ``shape`` and ``color``, one a turn),
``text/CLEVR_SPLIT_ID.txt`` (an instruction a line), ``images/CLEVR_SPLIT_ID_*`` sorted by turn, and
``background.png``, the blank canvas that every session begins with. The gallery is all images of
the split; the canvas is in none.
"""

from pathlib import Path
from typing import Any

from pipeline.datasets.multi_turn import MultiTurn
from pipeline.datasets.reading import Entry, parse_entry
from pipeline.errors import InputError
from pipeline.records import Query

CANVAS = "background"


class _Object(Entry):
    shape: str
    color: str


class _Scene(Entry):
    objects: list[_Object]


class IClevr(MultiTurn):
    """One split. Query ids are ``ID-TURN``, image ids file names without ending."""

    name = "iclevr"
    folder = "i-CLEVR"
    splits = ("val", "test", "train")
    headline = "recall@10"

    def read(self) -> None:
        """Read scenes and instructions; images are matched by the names of their files."""
        scenes, found = self.root / "scenes", f"CLEVR_{self.split}_"
        names = sorted(f.stem for f in _files(scenes) if f.name.startswith(found))
        if not names:
            raise InputError(f"{scenes} holds no {found}ID.json. Is --data-root right?")
        pictures: dict[str, list[Path]] = {}
        for file in sorted(_files(self.root / "images")):
            pictures.setdefault(file.stem.rpartition("_")[0], []).append(file)
        self.queries = []
        self._objects: dict[str, frozenset[str]] = {}
        self.images = {CANVAS: self.inside("background.png", "background.png")}
        self.galleries = {"all": []}
        self.gallery_name = f"iclevr-{self.split}"
        for name in names:
            self._session(name, pictures.get(name, []))
        self.objects = self._objects
        self._listing.update("\n".join(self.images).encode())

    def _session(self, name: str, pictures: list[Path]) -> None:
        scene = self.read_annotations(f"scenes/{name}.json")
        objects = parse_entry(_Scene, scene, f"{self.root / 'scenes' / name}.json").objects
        texts = self.read_lines(f"text/{name}.txt")
        if not len(objects) == len(texts) == len(pictures):
            raise InputError(
                f"{self.root}, {name}: {len(objects)} objects, {len(texts)} instructions and "
                f"{len(pictures)} images should be as many as there are turns."
            )
        shown: frozenset[str] = frozenset()
        before, session = CANVAS, name.removeprefix("CLEVR_")
        for turn, (one, text, file) in enumerate(zip(objects, texts, pictures, strict=True), 1):
            shown |= {f"{one.shape} {one.color}"}
            image = file.stem
            self.images[image] = self.inside(file.name, "images", "images")
            self._objects[image] = shown
            self.galleries["all"].append(image)
            self.queries.append(
                Query(
                    f"{session}-{turn}", before, (text,), target=image, session=session, turn=turn
                )
            )
            before = image

    def parse(self, entry: Any, where: str) -> Query:
        """Refuse: instructions stand in files of text."""
        raise InputError(f"{where}: i-CLEVR has no list of annotations.")


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        why = f"{folder} cannot be read: {error.strerror}. Is --data-root right?"
        raise InputError(why) from None
