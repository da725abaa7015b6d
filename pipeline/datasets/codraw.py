"""CoDraw in GeNeVA's layout (El-Nouby et al., ICCV 2019): a scene drawn as a dialogue tells it.

Layout: ``output/SPLIT_ID.json`` (``image_id`` and ``dialog``), or all of them as ``data`` of
``CoDraw_1_0.json``; ``images/SceneID_N.png``, the drawing after its N-th change; and
``background.png``. ``extracted_coords.txt``, where it is there, says which of the objects each
drawing shows. Turns without a drawing, or without a new object in it, are joined to the next, as
GeNeVA does. The dialogues are CC BY-NC 4.0.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.datasets.multi_turn import MultiTurn
from pipeline.datasets.reading import Entry, parse_entry
from pipeline.errors import InputError
from pipeline.records import Query

CANVAS = "background"
COORDINATES = "extracted_coords.txt"
CHITCHAT = frozenset(("hi", "done", "ok", "alright", "okay", "thanks", "bye", "hello"))
"""Messages that say nothing about the picture, as GeNeVA counts them."""


class _Said(Entry):
    msg_t: str = ""
    msg_d: str = ""
    abs_d: str = ""


class _Dialogue(Entry):
    image_id: int
    dialog: list[_Said]


class CoDraw(MultiTurn):
    """One split. Query ids are ``ID-TURN``; what teller and drawer say makes the text."""

    name = "codraw"
    folder = "CoDraw"
    splits = ("val", "test", "train")
    headline = "recall@10"

    def read(self) -> None:
        """Read dialogues and, where they are there, the drawings' objects."""
        shown = self._shown()
        self.queries = []
        self.images = {CANVAS: self.inside("background.png", "background.png")}
        self.galleries = {"all": []}
        self.gallery_name = f"codraw-{self.split}"
        for where, content in self._dialogues():
            self._session(parse_entry(_Dialogue, content, where), shown)
        self._listing.update("\n".join(self.images).encode())
        if shown:
            lacking = next((n for n in self.galleries["all"] if n not in shown), None)
            if lacking:
                raise InputError(f"{self.root / COORDINATES} has no line for {lacking}.")
            self.objects = {name: shown[name] for name in self.galleries["all"]}

    def _dialogues(self) -> Iterator[tuple[str, Any]]:
        folder = self.root / "output"
        files = sorted(folder.glob(f"{self.split}_*.json")) if folder.is_dir() else []
        for file in files:
            yield str(file), self.read_annotations(f"output/{file.name}")
        if not files:
            content = self.read_annotations("CoDraw_1_0.json")
            data = content.get("data") if isinstance(content, dict) else None
            if not isinstance(data, dict):
                raise InputError(f"{self.root / 'CoDraw_1_0.json'} must hold dialogues as 'data'.")
            for name, dialogue in data.items():
                if name.startswith(f"{self.split}_"):
                    yield f"{self.root / 'CoDraw_1_0.json'}, {name}", dialogue

    def _shown(self) -> Mapping[str, frozenset[str]]:
        """Return the objects of each drawing, by their numbers."""
        if not (self.root / COORDINATES).exists():
            return {}
        found = {}
        for number, line in enumerate(self.read_lines(COORDINATES), 1):
            name, _, objects = line.partition("\t")
            first = [one.split(",")[0] for one in objects.split()]
            if not set(first) <= {"0", "1"}:
                raise InputError(f"{self.root / COORDINATES}, line {number}: no 0 or 1 an object.")
            found[name] = frozenset(str(i) for i, there in enumerate(first) if there == "1")
        return found

    def _session(self, dialogue: _Dialogue, shown: Mapping[str, frozenset[str]]) -> None:
        before, said, drawn, turn, objects = CANVAS, list[str](), 0, 0, 0
        session = str(dialogue.image_id)
        for one in dialogue.dialog:
            said += [text for text in (one.msg_t, one.msg_d) if text.lower() not in CHITCHAT | {""}]
            if not one.abs_d:
                continue
            image = f"Scene{session}_{drawn}"
            drawn += 1
            more = len(shown[image]) - objects if image in shown else 1
            objects += more
            if more < 1 or not said:
                continue
            turn += 1
            self.images[image] = self.inside(f"{image}.png", image, "images")
            self.galleries["all"].append(image)
            name = f"{session}-{turn}"
            text = " ".join(said)
            self.queries.append(
                Query(name, before, (text,), target=image, session=session, turn=turn)
            )
            before, said = image, []

    def parse(self, entry: Any, where: str) -> Query:
        """Refuse: a turn is known only within its dialogue."""
        raise InputError(f"{where}: CoDraw's turns are read from whole dialogues.")
