"""A server of ``/v1/embeddings`` in vLLM's form that embeds, by the demo's joint embedder.

It takes one form of request alone, that which vLLM's documents and issues give for multimodal
embedders, and says which part another lacks.
"""

import base64
import functools
import hashlib
import io
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiohttp import web
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.models.encoders.base import JointEncoder
from tests.conftest import PROJECT
from tests.stub import Stub

EMBEDDER = str(PROJECT / "data" / "models" / "embedder")
FLAGS = {
    "continue_final_message": True,
    "add_special_tokens": True,
    "encoding_format": "float",
}
Vector = NDArray[np.float32]


@functools.cache
def in_process() -> JointEncoder:
    """Return the demo's joint embedder, loaded once."""
    from pipeline.models.encoders._sentence_transformers import SentenceEncoder

    settings = ClipConfig(model=EMBEDDER, precision="float32")
    return SentenceEncoder(settings, RuntimeConfig(device="cpu"))


def parts(asked: dict[str, Any]) -> tuple[str, str | None, str]:
    """Return instruction, image as a data URL or None, and text; ValueError for another form."""
    system, user, assistant = asked["messages"]
    told = {
        "three turns": [m["role"] for m in asked["messages"]] == ["system", "user", "assistant"],
        "an empty turn of the assistant": assistant["content"] == [{"type": "text", "text": ""}],
        "the flags, and nothing else": asked
        == {"model": asked["model"], "messages": asked["messages"], **FLAGS},
        "an instruction": [part["type"] for part in system["content"]] == ["text"],
        "a text, last": user["content"][-1]["type"] == "text",
    }
    if lacking := [what for what, there in told.items() if not there]:
        raise ValueError(f"the request lacks {lacking[0]}")
    shown = [part["image_url"]["url"] for part in user["content"][:-1]]
    if len(shown) > 1 or not all(url.startswith("data:image/") for url in shown):
        raise ValueError("the request has images of another form")
    image = shown[0] if shown else None
    return system["content"][0]["text"], image, user["content"][-1]["text"]


def embed(instruction: str, image: str | None, text: str) -> Vector:
    """Return the vector (d) of an image, a text or both."""
    model: Any = in_process()
    given: dict[str, Any] = {"text": text} if text or image is None else {}
    if image is not None:
        content = base64.b64decode(image.partition("base64,")[2])
        given = {"image": Image.open(io.BytesIO(content)).convert("RGB"), **given}
    vector: Vector = model._encode([given], instruction)[0]
    return vector


@dataclass
class Embedder(Stub):
    """The demo's joint embedder; ``wrong`` changes what it makes of a request's three parts."""

    wrong: Callable[[str, str | None, str], Vector] = embed
    images: Counter[str] = field(default_factory=Counter)
    """How often each image was sent alone, by a hash of it."""
    asked: int = 0

    def application(self) -> web.Application:
        """Return the server's routes."""
        app = super().application()
        app.router.add_post("/v1/embeddings", self.embeddings)
        return app

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """Answer one conversation with its vector."""
        return await self.serve(request, name_of, self._vector)

    def _vector(self, asked: dict[str, Any]) -> web.Response:
        self.asked += 1
        try:
            instruction, image, text = parts(asked)
        except (ValueError, LookupError, TypeError) as error:
            return web.json_response({"error": {"message": str(error)}}, status=400)
        if image is not None and not text:
            self.images[name_of(asked)] += 1
        with LOCK:
            vector = self.wrong(instruction, image, text).tolist()
        data = [{"index": 0, "object": "embedding", "embedding": vector}]
        return web.json_response({"data": data, "usage": {"total_tokens": 25}})


LOCK = threading.Lock()


def name_of(asked: dict[str, Any]) -> str:
    """Return what a plan knows a request by: the image's hash, a space, and the text."""
    content = asked["messages"][1]["content"]
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    digest = hashlib.sha256("".join(urls).encode()).hexdigest()[:12] if urls else ""
    return f"{digest} {content[-1]['text']}".strip()
