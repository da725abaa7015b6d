"""The embed stage: features of every gallery image and of every distinct text."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import InputError, MissingStageError
from pipeline.images.files import read_image
from pipeline.models import encoders
from pipeline.models.embedding import encode_images, encode_missing, finite
from pipeline.models.identity import begun_features
from pipeline.models.identity import settle as settle_model
from pipeline.processes import current
from pipeline.run import Run, StageReport, log, slug, stage
from pipeline.stages import caption, edit, texts
from pipeline.store.identity import fingerprint
from pipeline.store.shards import Encoded, folder_of

TEXTS = "texts"
"""The folder of the cache that holds the features of texts, one file an encoder."""


def header(run: Run) -> dict[str, Any]:
    """Return everything about the encoder that changes a feature."""
    return identity(run.config)


def identity(config: Config) -> dict[str, Any]:
    """Return everything about the configuration's encoder that changes a feature."""
    return encoders.ROLE.chosen(config).identity


def settle(config: Config, *files: Path) -> tuple[Config, dict[str, Any]]:
    """Return ``config`` with the precision to go on with ``files`` in, and what headers say of it.

    The first of them that is there tells; a server's precision is its own matter.
    """
    if encoders.ROLE.chosen(config).kind.served:
        return config, {}
    parts = ([file, *sorted(folder_of(file).glob("*.safetensors"))] for file in files)
    begun = begun_features(list(itertools.chain.from_iterable(parts)))
    clip, told = settle_model(config.clip, config.runtime, begun)
    return config.model_copy(update={"clip": clip}), told


def image_file(run: Run) -> Path:
    """Where the features of the gallery's images are; splits with one gallery share it."""
    content = header(run) | {"gallery": run.dataset.gallery_fingerprint}
    name = f"{slug(run.config.clip.model)}-{fingerprint(content)}.safetensors"
    return run.cache / run.dataset.gallery_name / "images" / name


def text_file(run: Run) -> Path:
    """Where the features of all texts are that this encoder has embedded, whatever the dataset."""
    content = header(run) | {"stage": "embed texts"}
    name = f"{slug(run.config.clip.model)}-{fingerprint(content)}.safetensors"
    return run.cache / TEXTS / name


def embed(run: Run) -> list[StageReport]:
    """Embed the gallery's images, then the texts that the run's methods need, once they exist."""
    reports = [_embed_images(run)]
    try:
        wanted = texts.embedded(run)
    except MissingStageError as error:
        if current().main:
            log.warning("The gallery is embedded, the texts not yet. %s Then embed again.", error)
        return reports
    return [*reports, _embed_texts(run, wanted)] if wanted else reports


def _embed_images(run: Run) -> StageReport:
    file = image_file(run)
    with stage("embed", run, [run.dataset.root], file, "images") as report:
        config, told = settle(run.config, file)
        kind = header(run) | {"stage": "embed images", "gallery": run.dataset.gallery_fingerprint}
        kind |= told
        images = run.dataset.images
        read = functools.partial(_read, images)
        encode = functools.partial(encode_images, config, read, report=report)
        size = run.config.runtime.shard
        encode_missing(file, list(images), encode, kind, size, report, "image")
    if not file.exists() and report.failed:
        raise InputError(
            f"None of {len(images)} images could be read. The first: "
            f"{next(iter(report.failed.values()))} Is --data-root right?"
        )
    return report


def _read(images: Mapping[str, Path], name: str) -> tuple[Path, bytes]:
    return images[name], read_image(images[name])


def _embed_texts(run: Run, wanted: list[str]) -> StageReport:
    file = text_file(run)
    files = {"caption": caption.record_file, "edit": edit.record_file}
    reads = [files[name](run).file for name in files if name in texts.stages(run)]
    config, told = settle(run.config, file, image_file(run))
    with stage("embed", run, reads, file, "texts") as report:

        def encode(todo: Sequence[str], _: dict[str, str]) -> Iterator[Encoded]:
            with report.step("load the model"):
                model = encoders.load(config.clip, config.runtime)
            size = run.config.runtime.embed_batch
            for start in range(0, len(todo), size):
                batch = list(todo[start : start + size])
                with report.step("model"):
                    features = finite(model.texts(batch), batch, "text")
                yield Encoded(batch, features)

        kind = header(run) | {"stage": "embed texts"} | told
        size = run.config.runtime.shard
        encode_missing(file, wanted, encode, kind, size, report, "text", grows=True)
    return report
