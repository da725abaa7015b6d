"""Edits that others made, as ``seize import`` took them: ``imported:NAME``."""

from pipeline.config import LlmConfig
from pipeline.models import imported
from pipeline.models.kinds import Given, Kind
from pipeline.models.llms.base import Llm

KIND: Kind[LlmConfig, Llm] = Kind(
    load=imported.load,
    identity=imported.identity,
    given=Given(imported.edit_file, imported.edits),
)
