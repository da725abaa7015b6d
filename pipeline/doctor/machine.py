"""The checks of this machine: packages, devices, the cache's folder and its disk.

Imports are inside the checks, since any of them may be what is broken.
"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline import installation
from pipeline.doctor.findings import Finding, Patient, in_words
from pipeline.errors import SeizeError
from pipeline.installation import INSTALL

LITTLE_DISK = 1 << 30
"""Bytes of free disk that are few whatever is planned."""
LITTLE_MEMORY = 2 << 30
"""Bytes of free memory that are few for any model."""


def packages(_: Patient | None) -> Iterator[Finding]:
    """Compare what is installed with what was tested, and import it."""
    version, wanted = platform.python_version(), installation.python_wanted()
    found = installation.installed()
    if installation.in_range(version, wanted):
        yield Finding("installation", "python", "ok", f"{version} at {sys.executable}")
    else:
        fix = f"make the environment with Python {wanted}"
        yield Finding("installation", "python", "problem", f"{version}, not {wanted}", fix)
    errors = installation.import_errors(
        module for package in found if package.version for module in package.modules
    )
    good = []
    for package in found:
        broken = [module for module in package.modules if module in errors]
        fix = f"pip install --force-reinstall '{package.name}{package.wanted}'"
        if package.version is None:
            yield Finding("installation", package.name, "problem", "is not installed", INSTALL)
        elif broken:
            said = f"{package.version} cannot be imported ({errors[broken[0]]})"
            yield Finding("installation", package.name, "problem", said, fix)
        elif not package.in_range:
            said = f"{package.version}; tested with {package.wanted}"
            yield Finding("installation", package.name, "warning", said, INSTALL)
        else:
            good.append(f"{package.name} {package.version}")
    if good:
        said = f"{len(good)} of {len(found)} as tested: {', '.join(good)}"
        yield Finding("installation", "packages", "ok", said)


def device(patient: Patient) -> Iterator[Finding]:
    """Look at processor, memory and GPUs, and use the device that is chosen."""
    import psutil
    import torch

    from pipeline.config import resolve_device, resolve_precision

    threads, cores = torch.get_num_threads(), os.cpu_count()
    yield Finding("device", "CPU", "ok", f"{cores} cores, {threads} threads of torch")
    memory = psutil.virtual_memory()
    said = f"{in_words(memory.available)} free of {in_words(memory.total)}"
    if memory.available < LITTLE_MEMORY:
        fix = "end other programs, or use smaller models: seize config list"
        yield Finding("device", "memory", "warning", said, fix)
    else:
        yield Finding("device", "memory", "ok", said)
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        yield Finding(
            "device", f"cuda:{number}", "ok", f"{name}, {in_words(free)} of {in_words(total)}"
        )
    if patient.config is None:
        return
    asked = patient.config.runtime.device
    device = resolve_device(asked)
    try:
        torch.ones(1, device=device)
    except (RuntimeError, AssertionError) as error:
        said = f"{asked} cannot be used ({' '.join(str(error).split())[:200]})"
        fix = "--device cpu, or install a torch for your GPU: https://pytorch.org/get-started"
        yield Finding("device", "chosen", "problem", said, fix)
        return
    precision = resolve_precision(patient.config.encoder.precision, device)
    if device == "cpu" and not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        fix = "install a torch for CUDA: https://pytorch.org/get-started"
        yield Finding("device", "chosen", "warning", "cpu, though there is an NVIDIA driver", fix)
    else:
        yield Finding("device", "chosen", "ok", f"{device}, CLIP in {precision}")


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that there is."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def cache(patient: Patient) -> Iterator[Finding]:
    """Write, lock and lock again, in a folder that is gone afterwards."""
    from pipeline.store.files import lock, write_text

    place, name = _existing(patient.cache), str(patient.cache)
    fix = "choose another folder with --cache, or make room and give yourself the right to write"
    if not place.is_dir():
        yield Finding("cache", name, "problem", f"{place} is no folder", fix)
        return
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".seize-doctor-") as folder:
            file = Path(folder) / "file"
            write_text(file, "x" * (1 << 20))
            with lock(file), lock(file, wait=False) as twice:
                locks = not twice
    except (OSError, SeizeError) as error:
        said = f"cannot be written: {getattr(error, 'strerror', None) or error}"
        yield Finding("cache", name, "problem", said, fix)
        return
    if locks:
        yield Finding("cache", name, "ok", "can be written, and locks work there")
    else:
        said = "can be written, but locks do not work there: two processes could damage a file"
        fix = "choose a folder on a local disk with --cache, or run one process at a time"
        yield Finding("cache", name, "warning", said, fix)


def disk(patient: Patient) -> Iterator[Finding]:
    """Compare the free disk with what the features still to be computed take."""
    place = _existing(patient.cache)
    free = shutil.disk_usage(place).free
    needed = _bytes_to_do(patient)
    said = f"{in_words(free)} free at {place}"
    if needed is not None:
        said += f", the features still to be computed take {in_words(needed)}"
    fix = "make room, or choose --cache on another disk"
    if free < (needed or 0):
        yield Finding("disk", "free", "problem", said, fix)
    elif free < (needed or 0) + LITTLE_DISK:
        yield Finding("disk", "free", "warning", said, fix)
    else:
        yield Finding("disk", "free", "ok", said)


def _bytes_to_do(patient: Patient) -> int | None:
    """Return the bytes that `seize plan` says are to be written; None where it cannot say."""
    if patient.config is None or not patient.datasets:
        return None
    from pipeline.run import Run
    from pipeline.stages.plan import plan

    total, galleries = 0, set()
    for dataset in patient.datasets:
        for line in plan(Run(dataset, patient.config, patient.cache, patient.cache)):
            shared = (
                line.quantity == "bytes of image features" and dataset.gallery_name in galleries
            )
            if line.quantity.startswith("bytes") and not shared:
                total += line.todo
        galleries.add(dataset.gallery_name)
    return total
