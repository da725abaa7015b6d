"""Trying an edit prompt on one image or text, without a cache."""

from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import ModelError
from pipeline.images.files import open_image
from pipeline.models import captioners, llms
from pipeline.models.prompts import edit as prompts
from pipeline.stages.editor import Editor, Pair, judge


def try_prompt(
    config: Config,
    image: Path | None,
    text: str | None,
    relative_caption: str,
    shared_concept: str = "",
) -> list[dict[str, Any]]:
    """Edit each caption of one image (or ``text``) once, without a cache; to try a prompt.

    Returns messages, raw answer, edited caption and reason of each. Raises InputError for an image
    that cannot be read, ModelError for models that cannot be used.
    """
    texts = [text or ""]
    if image is not None:
        opened = open_image(image, max_pixels=config.runtime.max_pixels)
        captioner = captioners.load(config.captioner, config.runtime)
        (captions,) = captioner.caption([image.name], [opened])
        if isinstance(captions, captioners.Failure):
            raise ModelError(f"{image} cannot be captioned: {captions.reason}")
        texts = captions
    prompt = prompts.load(config.llm.prompt)
    asked = [Pair(caption, relative_caption, shared_concept) for caption in dict.fromkeys(texts)]
    found: dict[int, dict[str, Any]] = {}
    llm = llms.load(config.llm, config.runtime)
    together = prompt.answer == "together"
    for answer in Editor(config).answers(llm, asked):
        edited, reason = judge(prompt, asked[answer.key], answer)
        shown = asked if together else [asked[answer.key]]
        captions = [pair.caption for pair in shown]
        messages = prompt.messages_of(captions, relative_caption, shared_concept)
        found[answer.key] = {
            "messages": messages,
            "raw": answer.text,
            "edited_caption": edited,
            "roles": prompt.fields(answer.text or "") if prompt.answer == "roles" else None,
            "reason": reason,
        }
    return [found[key] for key in sorted(found)]
