"""A vision-language model in this process, by transformers: a hub name or a folder."""

from typing import Any

from pipeline.config import RuntimeConfig, VerifierConfig
from pipeline.models.identity import model_identity
from pipeline.models.kinds import Kind
from pipeline.models.loading import hub
from pipeline.models.verifiers.base import Verifier


def _load(settings: VerifierConfig, runtime: RuntimeConfig) -> Verifier:
    from pipeline.models.verifiers._transformers import LocalVerifier

    with hub(settings.model):
        return LocalVerifier(settings, runtime)


def _identity(settings: VerifierConfig) -> dict[str, Any]:
    return {
        "model": f"transformers:{model_identity(settings.model)}",
        "thinking": False,  # a model's thought was taken for its answer before
        "precision": settings.precision,
    }


KIND: Kind[VerifierConfig, Verifier] = Kind(
    load=_load, identity=_identity, files=lambda settings: (settings.model,)
)
