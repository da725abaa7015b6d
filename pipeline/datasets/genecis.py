"""GeneCIS (Vaze et al., CVPR 2023): four tasks, whose queries each have a gallery of their own.

Layout (facebookresearch/genecis: DOWNLOAD.md, datasets/vaw_dataset.py and coco_dataset.py):
``{focus,change}_{attribute,object}.json``, COCO's images in ``val2017/`` for the object tasks, all
of Visual Genome's in ``VG_100K_all/`` for the attribute tasks, whose images are objects: crops.

The released evaluation puts the target first and sorts stably, so that equal scores are hits; here
the target is behind all images of its score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import Field

from pipeline.datasets.base import Dataset
from pipeline.datasets.metrics import behind_ties, recall_at_k
from pipeline.datasets.reading import Entry, Predictions, parse_entry, read_predictions
from pipeline.records import Crop, Query, Ranking

TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
CUTOFFS = (1, 2, 3)
DILATION = 0.7
ALL = "all"


class _Object(Entry):
    image_id: int
    instance_bbox: tuple[float, float, float, float]


class _Image(Entry):
    val_image_id: int


class _Attribute(Entry):
    condition: str = Field(min_length=1)
    reference: _Object
    target: _Object
    gallery: list[_Object] = Field(min_length=1)


class _Whole(Entry):
    condition: str = Field(min_length=1)
    reference: _Image
    target: _Image
    gallery: list[_Image] = Field(min_length=1)


class GeneCis(Dataset):
    """One task, or all four of them. Query ids are ``TASK-NUMBER``; the target is in the gallery.

    An image of an attribute task is named by its file's number and its box.
    """

    name = "genecis"
    folder = "GeneCIS"
    splits = (ALL, *TASKS)
    lengths = MappingProxyType({"recall": max(CUTOFFS)})
    averages = MappingProxyType(
        {f"recall@{k}": tuple(f"recall@{k}/{task}" for task in TASKS) for k in CUTOFFS}
    )
    headline = "recall@1"
    parts = "task"

    def read(self) -> None:
        """Read the split's tasks; galleries are the distractors and, last, the target."""
        self.queries, self.images, self.galleries = [], {}, {}
        self.gallery_name = f"genecis-{self.split}"
        for task in TASKS if self.split == ALL else (self.split,):
            file = f"{task}.json"
            self.read_listing(file)
            for number, query in enumerate(self.entries(file)):
                own = f"{task}-{number}"
                self.queries.append(replace(query, id=own, gallery=own, aspects=(task,)))
                gallery = [name for name in query.group if name != query.target]
                self.galleries[own] = [*dict.fromkeys(gallery), query.target or ""]
        self._listing.update(self._annotations.digest())  # the annotations are the listing, too
        doubled = sum(q.target in q.group[:-1] for q in self.queries)
        shown = sum(q.reference in q.group for q in self.queries)
        if doubled:
            self.notes.append(f"{doubled} queries have their target among the distractors, too")
        if shown:
            self.notes.append(f"{shown} queries have their reference image in the gallery")
        self.queries = [replace(q, group=()) for q in self.queries]

    def parse(self, entry: Any, where: str) -> Query:
        """Return an annotation's query, without an id, its gallery as ``group``; InputError."""
        found: _Attribute | _Whole
        if "_attribute.json" in where:
            found = parse_entry(_Attribute, entry, where)
        else:
            found = parse_entry(_Whole, entry, where)
        gallery = [self._image(one, where) for one in (*found.gallery, found.target)]
        return Query(
            id="",
            reference=self._image(found.reference, where),
            relative_captions=(found.condition,),
            target=gallery[-1],
            group=tuple(gallery),
        )

    def _image(self, shown: _Object | _Image, where: str) -> str:
        """Return the id of an image, and keep where it is."""
        if isinstance(shown, _Image):
            name = str(shown.val_image_id)
            if name not in self.images:
                file = f"{shown.val_image_id:012d}.jpg"
                self.images[name] = self.inside(file, where, "val2017")
            return name
        name = f"{shown.image_id}@{','.join(f'{side:g}' for side in shown.instance_bbox)}"
        if name not in self.images:
            file_ = self.inside(f"{shown.image_id}.jpg", where, "VG_100K_all")
            self.images[name] = Crop(file_, shown.instance_bbox, DILATION)
        return name

    def stratum(self, query: Query) -> str:
        """The task: each query is alone in its gallery."""
        return query.aspects[0]

    def values(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        """Return recall@1/2/3, of each task where the split is all of them."""
        lists = predictions["recall"]
        ending = {task: f"/{task}" if self.split == ALL else "" for task in TASKS}
        return {
            f"recall@{k}{ending[task]}": {
                q.id: recall_at_k(lists[q.id], q.target or "", k)
                for q in self.queries
                if q.aspects == (task,)
            }
            for k in CUTOFFS
            for task in TASKS
            if self.split in (ALL, task)
        }

    def predictions(self, rankings: Sequence[Ranking]) -> dict[str, Predictions]:
        """Return the rankings with each target behind the images of its score."""
        target = {query.id: query.relevant for query in self.queries}
        return {"recall": {r.query: behind_ties(r, target.get(r.query, ())) for r in rankings}}

    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        """Return query id to its first three images. GeneCIS has no server."""
        return {name: list(images[: max(CUTOFFS)]) for name, images in predictions.items()}

    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        """Read such an object."""
        return "recall", read_predictions(content, file)
