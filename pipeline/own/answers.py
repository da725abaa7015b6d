"""What models said about images and texts of one's own, each asked once: in memory and on disk."""

import contextlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.config import Config
from pipeline.errors import InputError, ModelError
from pipeline.models import captioners, encoders, llms
from pipeline.models.decode import stacked
from pipeline.models.embedding import finite
from pipeline.models.kinds import Choice
from pipeline.own.loaded import Images
from pipeline.run import log, slug
from pipeline.stages import caption, edit, editor, embeddings
from pipeline.stages.editor import Pair
from pipeline.store.features import FeatureFile, write_features
from pipeline.store.identity import fingerprint
from pipeline.store.jsonl import RecordFile
from pipeline.store.schema import CaptionRecord, typed

PREPARED = 64
"""Reference images held in memory as the encoder takes them (10 MB at 224 pixels)."""
REMEMBERED = 20_000
"""Features of texts and reference images held in memory (60 MB at 768 dimensions)."""


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Vector = NDArray[np.float32]


class Kept(Generic[Key, Value]):
    """Records of a file in memory too, read once; what other processes add shows at the next start.

    Every record is appended as it is made, so a kill loses at most the one being written.
    """

    def __init__(
        self, file: Path, header: dict[str, Any], load: Callable[[RecordFile], dict[Key, Value]]
    ) -> None:
        self.file, self.header = file, header
        self._load = load
        self._values: dict[Key, Value] | None = None
        self._lock = threading.Lock()

    @property
    def values(self) -> dict[Key, Value]:
        """What is known; what is damaged is dropped, to be made again."""
        with self._lock:
            if self._values is None:
                records = RecordFile(self.file, self.header)
                try:
                    self._values = self._load(records)
                except InputError:
                    with records:
                        self._values = self._load(records)
            return self._values

    def add(self, key: Key, value: Value, record: dict[str, Any]) -> None:
        """Keep a value under its key, and its record on disk."""
        known = self.values
        with self._lock, RecordFile(self.file, self.header) as records:
            known[key] = value
            records.append(record)


class Shared:
    """What galleries that differ only in search settings share: models, answers and features."""

    def __init__(self, config: Config, cache: Path, index: Path) -> None:
        self.config, self._clip_told = embeddings.settle(config, index)
        self.images: Images | None = None
        self.images_lock = threading.Lock()
        self._cache = cache
        self._features: OrderedDict[str, Vector] = OrderedDict()
        self._features_lock = threading.Lock()
        self._prepared: OrderedDict[str, Tensor] = OrderedDict()
        self._clip = embeddings.identity(config)
        # A clue's model may embed texts by the way, in the same thread.
        self._locks = {model: threading.RLock() for model in ("captioner", "llm", "encoder")}
        settings = caption.settings(config) | {"images": "by content"}
        records = RecordFile(cache / "caption" / _file(config.captioner.model, settings), settings)
        self._captioner = captioners.ROLE.settle(config.captioner, config.runtime, records)
        self._captions: Kept[str, list[str]] = Kept(records.file, records.header, _captions)
        self._why: dict[Pair, str] = {}
        settings = edit.settings(config)
        records = RecordFile(cache / "edit" / _file(config.llm.model, settings), settings)
        self._editing = edit.settle(config, records)
        self._edits: Kept[Pair, str | None] = Kept(records.file, records.header, edit.by_pair)

    @contextlib.contextmanager
    def alone(self, model: Choice[Any, Any]) -> Iterator[None]:
        """Let one thread at a time to a model, but where it takes as many as come."""
        if model.kind.threads:
            yield
        else:
            with self._locks[model.role.section]:
                yield

    def preload(self, needs: set[str]) -> None:
        """Load CLIP, and the models that make the texts which are needed."""
        config = self.config
        with self._locks["encoder"]:
            encoders.load(config.encoder, config.runtime)
        if needs & {"captions", "edits"}:
            with self._locks["captioner"]:
                captioners.load(self._captioner, config.runtime)
        if "edits" in needs:
            with self._locks["llm"]:
                llms.load(self._editing.llm, config.runtime)

    def caption(
        self, reference: str, picture: Callable[[], Image.Image]
    ) -> list[str] | captioners.Failure:
        """Return the captions of an image, made where they are not known."""
        with self.alone(captioners.ROLE.chosen(self.config)):
            known = self._captions.values.get(reference)
            if known is not None:
                return known
            captioner = captioners.load(self._captioner, self.config.runtime)
            (made,) = captioner.caption([reference], [picture()])
            if not isinstance(made, captioners.Failure):
                self._captions.add(reference, made, {"image": reference, "captions": made})
            return made

    def edit(self, captions: Sequence[str], relative_caption: str) -> list[str | None]:
        """Return the captions' edits, made where they are not known; None where the LLM failed.

        A failure is not kept: the next query asks again, as a server may be back by then.
        """
        pairs = editor.make_pairs(captions, [relative_caption], self.config.llm.edits)
        with self.alone(llms.ROLE.chosen(self.config)):
            known = self._edits.values
            # Files of earlier versions hold failures, too.
            todo = [pair for pair in dict.fromkeys(pairs) if known.get(pair) is None]
            for made in editor.ask(self._editing, todo) if todo else ():
                if made.text is not None:
                    self._edits.add(made.pair, made.text, made.record())
                elif made.reason:
                    self._why[made.pair] = made.reason
        return [known.get(pair) for pair in pairs]

    def why_missing(self, captions: Sequence[str], relative_caption: str) -> str | None:
        """Return the most common reason of the captions' edits that this process saw fail."""
        pairs = editor.make_pairs(captions, [relative_caption], self.config.llm.edits)
        missing = (pair for pair in pairs if self._edits.values.get(pair) is None)
        reasons = Counter(self._why[pair] for pair in missing if pair in self._why)
        return max(reasons, key=reasons.__getitem__, default=None)

    def image(self, reference: str) -> Tensor:
        """Return the feature (d) of a reference image that was embedded before; InputError."""
        name = f"image:{reference}"
        found = self._known([name])
        if name not in found:
            raise InputError("The reference image is not known here (any more). Query with it.")
        return torch.from_numpy(found[name])

    def knows(self, texts: Iterable[str]) -> bool:
        """Return whether the features of all texts are in memory."""
        with self._features_lock:
            return all(f"text:{text}" in self._features for text in texts)

    def embed_image(self, reference: str, picture: Callable[[], Image.Image]) -> None:
        """Embed a reference image."""

        def encode() -> Vector:
            model = encoders.load(self.config.encoder, self.config.runtime)
            made = model.images(stacked([model.prepare(picture())]))
            return finite(made, [reference], "image")

        self._embedded([f"image:{reference}"], lambda names: encode(), keep=True)

    def prepared(self, reference: str, picture: Callable[[], Image.Image]) -> Tensor:
        """Return a reference image as the encoder takes it, a batch of one."""
        with self._locks["encoder"]:
            if reference not in self._prepared:
                model = encoders.load(self.config.encoder, self.config.runtime)
                made = stacked([model.prepare(picture())])
                if not isinstance(made, Tensor):
                    raise ModelError("Pseudo-words need an encoder that takes images as tensors.")
                self._prepared[reference] = made
            self._prepared.move_to_end(reference)
            while len(self._prepared) > PREPARED:
                self._prepared.popitem(last=False)
            return self._prepared[reference]

    def pair(
        self, reference: str, text: str, instruction: str, picture: Callable[[], Image.Image]
    ) -> Tensor:
        """Return the feature (d) of a reference image with a text, made where it is not known."""

        def encode() -> Vector:
            model = encoders.load_joint(self.config.encoder, self.config.runtime)
            made = model.pairs(stacked([model.prepare(picture())]), [text], instruction)
            return finite(made, [reference], "image with its text")

        name = f"pair:{reference}:{fingerprint([instruction, text])}"
        return torch.from_numpy(self._embedded([name], lambda _: encode(), keep=True)[name])

    def embed_texts(self, texts: Sequence[str], keep: bool = False) -> Tensor:
        """Return the features (texts, d); ``keep`` stores those of all of them together."""

        def encode(names: Sequence[str]) -> Vector:
            model = encoders.load(self.config.encoder, self.config.runtime)
            own = [name.removeprefix("text:") for name in names]
            size = self.config.runtime.embed_batch
            batches = [own[start : start + size] for start in range(0, len(own), size)]
            return np.concatenate([finite(model.texts(batch), batch, "text") for batch in batches])

        names = [f"text:{text}" for text in texts]
        found = self._embedded(list(dict.fromkeys(names)), encode, keep)
        return torch.from_numpy(np.stack([found[name] for name in names]))

    def _embedded(
        self, names: list[str], encode: Callable[[Sequence[str]], Vector], keep: bool
    ) -> dict[str, Vector]:
        """Return features by name: from memory, from disk, or computed; one thread at a time."""
        found = self._known(names)
        if len(found) == len(names):
            return found
        with self._locks["encoder"]:
            found = self._known(names)
            todo = [name for name in names if name not in found]
            if todo:
                made = dict(zip(todo, encode(todo), strict=True))
                self._remember(made)
                found |= made
                if keep:
                    features = np.stack([found[name] for name in names])
                    header = self._clip | self._clip_told
                    write_features(self._file(names), names, features, header)
        return found

    def _known(self, names: list[str]) -> dict[str, Vector]:
        found = self._recall(names)
        file = self._file(names)
        if len(found) < len(names) and file.exists():
            try:
                stored = FeatureFile(file)
                found = dict(zip(stored.names, stored.all().astype(np.float32), strict=True))
            except InputError as error:
                log.warning("%s This run does so.", error)
            self._remember(found)
        return found

    def _recall(self, names: list[str]) -> dict[str, Vector]:
        with self._features_lock:
            found = {name: self._features[name] for name in names if name in self._features}
            for name in found:
                self._features.move_to_end(name)
            return found

    def _remember(self, made: dict[str, Vector]) -> None:
        with self._features_lock:
            self._features |= made
            while len(self._features) > REMEMBERED:
                self._features.popitem(last=False)

    def _file(self, names: list[str]) -> Path:
        """Where the features of exactly these texts, or of this image, are kept."""
        name = f"{slug(self.config.encoder.model)}-{fingerprint(self._clip | {'names': names})}"
        return self._cache / "features" / f"{name}.safetensors"


def _file(model: str, settings: dict[str, Any]) -> str:
    return f"{slug(model)}-{fingerprint(settings)}.jsonl"


def _captions(records: RecordFile) -> dict[str, list[str]]:
    return {record["image"]: record["captions"] for record in typed(records, CaptionRecord)}
