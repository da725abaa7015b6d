"""Captions that others made, as ``seize import`` took them: ``imported:NAME``."""

from pipeline.config import CaptionerConfig
from pipeline.models import imported
from pipeline.models.captioners.base import Captioner
from pipeline.models.kinds import Given, Kind

KIND: Kind[CaptionerConfig, Captioner] = Kind(
    load=imported.load,
    identity=imported.identity,
    given=Given(imported.caption_file, imported.captions),
)
