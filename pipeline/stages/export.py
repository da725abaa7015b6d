"""A run's captions and edits in the JSON that SEIZE and LDRE released; see ``released``."""

from pathlib import Path
from typing import Any

from pipeline.models import captioners, llms
from pipeline.run import Run, slug
from pipeline.stages import caption, edit
from pipeline.store.files import write_json


def export(run: Run, folder: Path) -> list[Path]:
    """Write the split's annotation files with the run's captions and edits added, as released.

    Generated captions become ``multi_caption_opt`` (``_t5`` for a T5 captioner) and edits
    ``multi_LLM_opt``; imported ones keep their fields. Returns the files written.
    """
    captions, edited = caption.read(run), edit.read(run)
    caption_field, edit_field = _fields(run)
    written = []
    for name, entries in run.dataset.annotations.items():
        content = []
        for query, entry in zip(run.dataset.match(entries, Path(name)), entries, strict=True):
            if query is not None:
                added: dict[str, list[Any]] = {
                    caption_field: captions.get(query.id, []),
                    edit_field: edited[query.id],
                }
                single = {
                    key: texts[0] if texts else None
                    for key, texts in added.items()
                    if not key.startswith("multi_")
                }
                content.append(entry | added | single)
        file = folder / Path(name).with_suffix(".json").name
        write_json(file, content)
        written.append(file)
    return written


def _fields(run: Run) -> tuple[str, str]:
    """Return the fields that captions and edits are written as; given texts keep theirs."""
    captioner, llm = captioners.ROLE.chosen(run.config), llms.ROLE.chosen(run.config)
    family = "t5" if "t5" in run.config.captioner.model.lower() else "opt"
    caption_field = f"multi_caption_{family}"
    if captioner.kind.given:
        caption_field = caption.header(run)["field"]
        family = caption_field.rpartition("_")[2]
    if llm.kind.given:
        return caption_field, edit.header(run)["field"]
    return caption_field, f"multi_{slug(run.config.llm.model)}_{family}"
