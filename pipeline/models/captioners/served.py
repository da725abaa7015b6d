"""A vision model (Qwen-VL and the like) behind an OpenAI-compatible server as captioner."""

import hashlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

from PIL import Image

from pipeline.config import CaptionerConfig, RuntimeConfig
from pipeline.images.files import data_url
from pipeline.models.answers import without_thoughts
from pipeline.models.captioners.base import Captioned, Captioner, Failure, Named, prompt_of
from pipeline.models.identity import model_identity
from pipeline.models.kinds import Kind
from pipeline.models.serving.dialect import Manner
from pipeline.models.serving.replicas import connect

PROMPT = "Describe this image in one sentence of at most 20 words. Answer with it alone."
LONGEST_SIDE = 768
"""Pixels that an image is scaled down to before it is sent."""


class ServedCaptioner:
    """Asks for all samples of an image in one request, so that the server encodes it once."""

    def __init__(self, config: CaptionerConfig, runtime: RuntimeConfig) -> None:
        self.config = config
        self.manner = Manner()  # a thought is no caption
        self.client = connect(config.url, config.model, runtime, self.manner)

    def caption(
        self, ids: Sequence[str], images: Sequence[Image.Image]
    ) -> list[list[str] | Failure]:
        """Return ``samples`` captions for each RGB image, or why the server gave none.

        The seed sent is made from the configured one and the image's id. Raises ModelError.
        """
        captions = dict(self.stream(zip(ids, images, strict=True), len(ids)))
        return [captions[name] for name in ids]

    def stream(self, images: Iterable[Named], batch: int) -> Generator[Captioned, None, None]:
        """Yield captions as they arrive; as many requests are in flight as the server takes."""
        waiting: dict[int, str] = {}
        for done in self.client.complete(self._requests(images, waiting)):
            texts = [" ".join((without_thoughts(text) or "").split()) for text in done.texts]
            name = waiting.pop(done.key)
            if done.reason or len(texts) != self.config.samples or not all(texts):
                said = f"{sum(map(bool, texts))} of {self.config.samples} captions came"
                yield name, Failure(done.reason or said)
            else:
                yield name, texts

    def _requests(
        self, images: Iterable[Named], waiting: dict[int, str]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield a request an image, noting in ``waiting`` which image each is about."""
        config = self.config
        for key, (name, image) in enumerate(images):
            waiting[key] = name
            seed = int.from_bytes(hashlib.sha256(f"{config.seed} {name}".encode()).digest()[:4])
            content = [
                {"type": "image_url", "image_url": {"url": data_url(image, LONGEST_SIDE)}},
                {"type": "text", "text": prompt_of(config, PROMPT)},
            ]
            yield (
                key,
                {
                    "messages": [{"role": "user", "content": content}],
                    "n": config.samples,
                    "max_tokens": config.max_new_tokens,
                    "temperature": config.temperature,
                    "top_p": config.top_p,
                    "seed": seed,
                    **self.manner.parameters,
                },
            )


def _identity(settings: CaptionerConfig) -> dict[str, Any]:
    return {
        **settings.model_dump(exclude={"url", "precision"}),
        "prompt": prompt_of(settings, PROMPT),
        "model": model_identity(f"served:{settings.model}"),
    }


KIND: Kind[CaptionerConfig, Captioner] = Kind(
    load=ServedCaptioner, identity=_identity, served=True, threads=True
)
