"""A chat model in this process, by transformers: a hub name or a folder."""

from typing import Any

from pipeline.config import LlmConfig, RuntimeConfig
from pipeline.models.identity import model_identity
from pipeline.models.kinds import Kind
from pipeline.models.llms.base import Llm
from pipeline.models.loading import hub


def _load(settings: LlmConfig, runtime: RuntimeConfig) -> Llm:
    from pipeline.models.llms._transformers import LocalLlm

    with hub(settings.model):
        return LocalLlm(settings, runtime)


def _identity(settings: LlmConfig) -> dict[str, Any]:
    model = f"transformers:{model_identity(settings.model)}"
    return {"model": model, "precision": settings.precision}


KIND: Kind[LlmConfig, Llm] = Kind(
    load=_load, identity=_identity, files=lambda settings: (settings.model,)
)
