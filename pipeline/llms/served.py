"""An LLM behind an OpenAI-compatible server, such as ``vllm serve``."""

from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.config import LlmConfig, RuntimeConfig
from pipeline.llms import Answer, Request
from pipeline.replicas import connect


class ServedLlm:
    """Keeps many requests in flight; see ``ChatClient`` and ``Replicas`` for faults."""

    def __init__(self, config: LlmConfig, runtime: RuntimeConfig) -> None:
        self.client = connect(config.url, config.model, runtime)

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Yield answers as they arrive; raises ModelError if the server or the model is not there.

        Stopping early (Ctrl-C) cancels what is in flight; what was yielded is the caller's.
        """
        for done in self.client.complete((request.key, _body(request)) for request in requests):
            text = done.texts[0] if done.texts else None
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
