"""Verifiers: vision-language models that say whether a candidate fits. One file a kind."""

from typing import Any

from pipeline.config import RuntimeConfig, VerifierConfig
from pipeline.models.kinds import Role
from pipeline.models.prompts import verify as prompts
from pipeline.models.prompts.edit import variables_of
from pipeline.models.verifiers.base import Question, Verdict, Verifier

__all__ = ["ROLE", "Question", "Verdict", "Verifier", "header", "load"]

ROLE: Role[VerifierConfig, Verifier] = Role(
    name="verifier",
    section="verifier",
    option="--verifier",
    package=__name__,
    group="seize.verifiers",
    default="served",
)


def header(settings: VerifierConfig) -> dict[str, Any]:
    """Return everything about the verifier that changes its verdicts."""
    prompt = prompts.load(settings.prompt)
    content = {
        "stage": "verify",
        "prompt": prompt.model_dump(),
        "longest_side": settings.longest_side,
        **ROLE.choose(settings).identity,
    }
    if variables_of(prompt.system):
        content["system_is_template"] = True  # it was sent as it stands before
    return content


def load(settings: VerifierConfig, runtime: RuntimeConfig) -> Verifier:
    """Load the verifier that ``settings`` name, once a process; raises ModelError."""
    return ROLE.load(settings, runtime)
