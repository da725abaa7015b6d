"""Verifiers: vision-language models that say whether a candidate fits. One file a kind."""

from typing import Any

from pipeline.config import RuntimeConfig, VerifierConfig
from pipeline.errors import ConfigError
from pipeline.models.kinds import Role
from pipeline.models.prompts import verify as prompts
from pipeline.models.prompts.edit import variables_of
from pipeline.models.verifiers.base import Question, Verdict, Verifier

__all__ = ["ROLE", "Question", "Verdict", "Verifier", "check", "header", "load"]

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
        "prompt": prompt.identity,
        "longest_side": settings.longest_side,
        **ROLE.choose(settings).identity,
    }
    if variables_of(prompt.system):
        content["system_is_template"] = True  # it was sent as it stands before
    return content


def check(settings: VerifierConfig) -> None:
    """Raise ConfigError for a prompt that the chosen kind of verifier cannot ask by."""
    choice, prompt = ROLE.choose(settings), prompts.load(settings.prompt)
    asks = getattr(choice.kind, "asks", "question")
    if prompt.form != asks:
        words = {
            "query": "A reranker takes a query, and",
            "question": "A verifier takes a question that yes or no answers, and",
        }
        known = (name for name in prompts.names() if prompts.load(name).form == asks)
        raise ConfigError(
            f"{words[asks]} the prompt {prompt.name!r} is a {prompt.form}. Choose another: "
            f"--question {next(known)}."
        )


def load(settings: VerifierConfig, runtime: RuntimeConfig) -> Verifier:
    """Load the verifier that ``settings`` name, once a process; raises ModelError."""
    return ROLE.load(settings, runtime)
