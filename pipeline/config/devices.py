"""What ``auto`` comes to on this machine: the device, and the precision of models on it."""

from typing import TypeVar

from pipeline.config.base import Precision
from pipeline.config.models import CaptionerConfig, ClipConfig, LlmConfig, VerifierConfig
from pipeline.config.sections import RuntimeConfig
from pipeline.processes import current

Computed = TypeVar("Computed", CaptionerConfig, ClipConfig, LlmConfig, VerifierConfig)
"""A section with a model that may run in process."""


def resolve_device(name: str) -> str:
    """Return the device to use: ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Processes that were launched together take one GPU of their machine each, in turn.
    """
    import torch

    if name == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else mps
    if name == "cuda" and current().count > 1:
        return f"cuda:{current().local_index % torch.cuda.device_count()}"
    return name


def resolve_precision(precision: Precision, device: str) -> str:
    """Return the dtype's name: ``auto`` is float16 on CUDA and float32 elsewhere."""
    if precision != "auto":
        return precision
    return "float16" if device.startswith("cuda") else "float32"


def in_precision(model: Computed, runtime: RuntimeConfig) -> Computed:
    """Return a model's section with what ``auto`` comes to on this machine's device."""
    if model.precision != "auto":
        return model
    precision = resolve_precision("auto", resolve_device(runtime.device))
    return model.model_copy(update={"precision": precision})
