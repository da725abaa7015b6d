"""A vision model (Qwen-VL and the like) behind an OpenAI-compatible server as captioner."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from pipeline.answers import without_thoughts
from pipeline.captioners import SERVED, Failure, prompt_of
from pipeline.config import CaptionerConfig, RuntimeConfig
from pipeline.dialect import Manner
from pipeline.images import data_url
from pipeline.replicas import connect

LONGEST_SIDE = 768
"""Pixels that an image is scaled down to before it is sent."""


class ServedCaptioner:
    """Asks for all samples of an image in one request, so that the server encodes it once."""

    def __init__(self, config: CaptionerConfig, runtime: RuntimeConfig) -> None:
        self.config = config
        self.manner = Manner()  # a thought is no caption
        self.client = connect(config.url, config.model.removeprefix(SERVED), runtime, self.manner)

    def caption(
        self, ids: Sequence[str], images: Sequence[Image.Image]
    ) -> list[list[str] | Failure]:
        """Return ``samples`` captions for each RGB image, or why the server gave none.

        The seed sent is made from the configured one and the image's id. Raises ModelError.
        """
        captions: dict[int, list[str] | Failure] = {}
        for done in self.client.complete(self._requests(ids, images)):
            texts = [" ".join((without_thoughts(text) or "").split()) for text in done.texts]
            captions[done.key] = texts
            if done.reason or len(texts) != self.config.samples or not all(texts):
                said = f"{sum(map(bool, texts))} of {self.config.samples} captions came"
                captions[done.key] = Failure(done.reason or said)
        return [captions[key] for key in range(len(ids))]

    def _requests(
        self, ids: Sequence[str], images: Sequence[Image.Image]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.config
        for key, (name, image) in enumerate(zip(ids, images, strict=True)):
            seed = int.from_bytes(hashlib.sha256(f"{config.seed} {name}".encode()).digest()[:4])
            content = [
                {"type": "image_url", "image_url": {"url": data_url(image, LONGEST_SIDE)}},
                {"type": "text", "text": prompt_of(config)},
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
