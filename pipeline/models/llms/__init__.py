"""LLMs: chat models that answer prompts. One file a kind."""

from pipeline.config import LlmConfig, RuntimeConfig
from pipeline.models.kinds import Role
from pipeline.models.llms.base import Answer, Llm, Request

__all__ = ["ROLE", "Answer", "Llm", "Request", "load"]

ROLE: Role[LlmConfig, Llm] = Role(
    name="LLM",
    section="llm",
    option="--llm",
    package=__name__,
    group="seize.llms",
    default="served",
)


def load(settings: LlmConfig, runtime: RuntimeConfig) -> Llm:
    """Load the LLM that ``settings`` name, once a process; raises ModelError."""
    return ROLE.load(settings, runtime)
