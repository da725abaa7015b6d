"""One run's configuration: what to compute (enters fingerprints), and how (``runtime``)."""

from pipeline.config.base import Precision
from pipeline.config.devices import Computed, in_precision, resolve_device, resolve_precision
from pipeline.config.loading import (
    CONSENT,
    DEFAULT,
    ENDINGS,
    PRESETS,
    check_stays_here,
    load,
    presets,
    shipped,
)
from pipeline.config.models import (
    CaptionerConfig,
    ClipConfig,
    Kind,
    LlmConfig,
    VerifierConfig,
    weights_family,
)
from pipeline.config.names import AT, CLIP, VERIFIED, encoder_of, without_encoder
from pipeline.config.sections import (
    LONGEST_WAIT,
    MAX_PIXELS,
    DatasetConfig,
    IndexConfig,
    OwnConfig,
    RuntimeConfig,
    SearchConfig,
    SynthesizeConfig,
)
from pipeline.config.whole import OWN_IMAGES, Config

__all__ = [
    "AT",
    "CLIP",
    "CONSENT",
    "DEFAULT",
    "ENDINGS",
    "LONGEST_WAIT",
    "MAX_PIXELS",
    "OWN_IMAGES",
    "PRESETS",
    "VERIFIED",
    "CaptionerConfig",
    "ClipConfig",
    "Computed",
    "Config",
    "DatasetConfig",
    "IndexConfig",
    "Kind",
    "LlmConfig",
    "OwnConfig",
    "Precision",
    "RuntimeConfig",
    "SearchConfig",
    "SynthesizeConfig",
    "VerifierConfig",
    "check_stays_here",
    "encoder_of",
    "in_precision",
    "load",
    "presets",
    "resolve_device",
    "resolve_precision",
    "shipped",
    "weights_family",
    "without_encoder",
]
