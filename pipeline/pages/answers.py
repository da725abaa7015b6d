"""What requests about queries ask of the gallery, and what is answered of a result."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, TypeVar

from pipeline.errors import InputError
from pipeline.own.gallery import Gallery
from pipeline.own.result import Result
from pipeline.pages.questions import Choices, Question, vector_in
from pipeline.pages.visitors import is_private
from pipeline.printable import printable_all

log = logging.getLogger("seize")

Asked = TypeVar("Asked", bound=Question)


async def until(job: "asyncio.Future[Any]", steps: "asyncio.Queue[str]") -> AsyncIterator[str]:
    """Yield the steps that are told until the job is done."""
    while not job.done() or not steps.empty():
        step = asyncio.ensure_future(steps.get())
        try:
            await asyncio.wait({job, step}, return_when=asyncio.FIRST_COMPLETED)
            if step.done():
                yield step.result()
        finally:
            step.cancel()


def chosen(gallery: Gallery, choices: Choices) -> Gallery:
    """Return the gallery as it is asked for; raises ConditionError for what is no condition."""
    if lines := [line for line in choices.where.splitlines() if line.strip()]:
        gallery = gallery.where(*lines)
    if not choices.group:
        gallery = gallery.grouped(None)
    return gallery.with_search(
        method=choices.method,
        alpha_pos=choices.alpha_pos,
        alpha_neg=choices.alpha_neg,
        top_k=choices.start + choices.top_k,
    )


def weights_of(gallery: Gallery, method: str) -> dict[str, float] | None:
    """Return a method's α⁺ and α⁻ and how far their sliders go; None where it has none."""
    weights = gallery.with_search(method=method).increment
    if weights is None:
        return None
    if weights.name == "rank_increment":
        reach = {"max_pos": 1e-5, "max_neg": 1e-5, "step": 1e-7}
    else:
        reach = {"max_pos": 1.0, "max_neg": 3.0, "step": 0.01}
    return {"alpha_pos": weights.positive, "alpha_neg": weights.negative} | reach


def result_of(result: Result, start: int) -> dict[str, Any]:
    """Return what is sent of a result: its images from place ``start`` on, and no path of here."""
    content = replace(result, images=result.images[start:]).as_json() | vector_in(result)
    del content["gallery"]  # a path of this machine
    if (paths := result.gallery.paths.get(result.reference)) is not None:
        content["path"] = paths[0]
    # Other texts are edited on the page and come back.
    for field in {"images", "notes", "path"} & content.keys():
        content[field] = printable_all(content[field])
    content["notes"] = [_note(note) for note in content["notes"]]
    return content


def _note(text: str) -> str:
    """Return what a visitor may read of a note, which may hold an error's text."""
    if not is_private(text):
        return text
    log.warning("%s", text)
    return "A model failed on a part of this; the server's log says why."


def checked(question: Asked, has_image: bool = False) -> Asked:
    """Return the question; raises InputError where it asks nothing."""
    if not has_image and not question.references and not question.relative_caption.strip():
        raise InputError("There is nothing to search by: give an image, a text, or both.")
    if has_image and question.state != "image":
        raise InputError("A turn that goes on from a query begins with no image: send none.")
    return question
