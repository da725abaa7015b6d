"""An LLM behind an OpenAI-compatible server, such as ``vllm serve``."""

from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.config import LlmConfig, RuntimeConfig
from pipeline.models.answers import cut
from pipeline.models.identity import model_identity
from pipeline.models.kinds import Kind
from pipeline.models.llms.base import Answer, Llm, Request
from pipeline.models.serving.dialect import Manner
from pipeline.models.serving.replicas import connect


class ServedLlm:
    """Keeps many requests in flight; see ``ChatClient`` and ``Replicas`` for faults."""

    def __init__(self, config: LlmConfig, runtime: RuntimeConfig) -> None:
        self.manner = Manner(config.thinking, config.thinking_tokens)
        self.client = connect(config.url, config.model, runtime, self.manner)

    @property
    def notes(self) -> list[str]:
        """What the servers do not take, and how often they refused, in words."""
        return [*self.manner.notes, *self.client.notes]

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Yield answers as they arrive; raises ModelError if the server or the model is not there.

        Stopping early (Ctrl-C) cancels what is in flight; what was yielded is the caller's.
        """
        stops: dict[int, tuple[str, ...]] = {}

        def bodies() -> Iterator[tuple[int, dict[str, Any]]]:
            for request in requests:
                stops[request.key] = request.stop
                yield request.key, _body(request) | self.manner.parameters

        for done in self.client.complete(bodies()):
            stop = stops.pop(done.key)
            text = cut(done.texts[0], stop) if done.texts else None
            yield Answer(done.key, text, done.reason, done.truncated)


def _body(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {
        "messages": request.messages,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    if request.schema is not None:
        schema = {"name": "answer", "schema": request.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body | ({"stop": list(request.stop)} if request.stop else {})


KIND: Kind[LlmConfig, Llm] = Kind(
    load=ServedLlm,
    identity=lambda settings: {"model": model_identity(settings.model)},
    served=True,
    threads=True,
)
