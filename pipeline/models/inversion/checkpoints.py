"""Released weights of φ, as they are: no file runs code, and a wrong backbone is refused.

Layouts (INVERSION facts, by the projects' own files): LinCIR and SEARLE keep a state dict under
``Phi``; Pic2Word under ``state_dict_img2text`` with ``module.`` before every name; FTI4CIR pickles
the whole module, of which only the tensors are read here.
"""

import hashlib
import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.errors import ConfigError, ModelError
from pipeline.models.inversion.networks import FineGrained, Network, Phi, Pic2Word
from pipeline.models.training.files import write_weights

PLACES = ("Phi", "state_dict_img2text", "state_dict")
"""Keys under which projects keep the state dict of φ."""
METHODS = {Phi: "lincir or searle", Pic2Word: "pic2word", FineGrained: "fti4cir"}
"""The methods that a network is for: LinCIR's and SEARLE's are of one kind."""


def load(file: Path, d: int | None, t: int | None, v: int | None = None) -> Network:
    """Return the network whose weights ``file`` holds, for an encoder of widths d, t and v.

    A width of None is not known yet and fits.
    Reads safetensors and PyTorch files; of a pickled module only its tensors, running none of its
    code. Raises ModelError for a file that holds no φ, and for one of another backbone, with both
    shapes.
    """
    weights = tensors(file)
    network = _build(weights, file)
    _check(network, file, d, t, v)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{file} does not fit its own layout: {reason}") from None
    return network.float().eval().requires_grad_(False)


def convert(file: Path, out: Path, half: bool = False) -> dict[str, Any]:
    """Write the φ of ``file`` to ``out`` as safetensors, and return what the file says of it.

    Raises ModelError for a file that holds no φ, ConfigError for another kind of ``out``.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out}: φ is written as safetensors; end the name so.")
    network = load(file, None, None)
    d, t, *_ = _widths_of(network)
    found = {
        "method": METHODS[type(network)],
        "source": {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()},
        "d": d,
        "t": t,
        "parameters": sum(tensor.numel() for tensor in network.parameters()),
    }
    write_weights(out, network.state_dict(), found, half)
    return found


def tensors(file: Path) -> dict[str, Tensor]:
    """Return the state dict of φ in ``file``; raises ModelError where there is none."""
    if not file.is_file():
        raise ModelError(f"There is no file {file} with the weights of φ.")
    try:
        if file.suffix == ".safetensors":
            content: Any = load_file(file)
        else:
            content = _read(file)
    except (KeyError, EOFError, IndexError) as error:  # which say a byte, or nothing
        raise _unreadable(file, "it is damaged, or no file of torch.save") from error
    except (SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise _unreadable(file, str(error)) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(file, str(error) or type(error).__name__) from None
    for place in PLACES:
        if isinstance(content, Mapping) and isinstance(content.get(place), Mapping):
            content = content[place]
            break
    if not isinstance(content, Mapping):
        raise ModelError(f"{file} holds no weights of φ, but {type(content).__name__}.")
    found = {
        re.sub(r"^(?:module\.)+", "", str(name)): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }
    if not found:
        raise ModelError(f"{file} holds no weights of φ: no tensor under {', '.join(PLACES)}.")
    return found


def _unreadable(file: Path, why: str) -> ModelError:
    return ModelError(f"{file} cannot be read as weights of φ: {' '.join(why.split())[:200]}")


def _read(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return _tensors_of_module(file)


class _Inert:
    """Stands for every class that a pickle names: takes what it is given and does nothing."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *arguments: Any, **named: Any) -> "_Inert":
        return _Inert()


def _rebuilt(storage: Tensor, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    return torch.as_strided(storage, tuple(size), tuple(stride), int(offset)).clone()


SAFE = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_parameter"): lambda data, *rest: data,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
}
"""What a pickle may call; everything else becomes inert."""
DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


class _TensorsOnly(pickle.Unpickler):
    """Reads a pickle's structure, making tensors and containers and nothing else."""

    def __init__(self, content: bytes, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(content))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        # A class of its own for each, since a pickle may set attributes on what it builds.
        return SAFE.get((module, name)) or type(name, (_Inert,), {})

    def persistent_load(self, identity: Any) -> Tensor:
        _, dtype, key, _, count = identity
        name = f"{self._root}/data/{key}"
        stored = bytearray(self._archive.read(name))
        if not isinstance(dtype, torch.dtype) or not stored:
            raise pickle.UnpicklingError(f"a storage of {dtype}")
        return torch.frombuffer(stored, dtype=dtype, count=int(count))


def _tensors_of_module(file: Path) -> dict[str, Tensor]:
    """Return the parameters of a pickled module by name, as its ``state_dict`` would."""
    with zipfile.ZipFile(file) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        root = name.removesuffix("/data.pkl")
        module = _TensorsOnly(archive.read(name), archive, root).load()
    found: dict[str, Tensor] = {}
    _collect(module, "", found)
    return found


def _collect(module: Any, prefix: str, found: dict[str, Tensor]) -> None:
    state = getattr(module, "state", None)
    if not isinstance(state, Mapping):
        return
    for kind in ("_parameters", "_buffers"):
        for name, value in (state.get(kind) or {}).items():
            if isinstance(value, Tensor):
                found[prefix + name] = value
    for name, child in (state.get("_modules") or {}).items():
        _collect(child, f"{prefix}{name}.", found)


def _build(weights: Mapping[str, Tensor], file: Path) -> Network:
    try:
        if "templates" in weights:
            layers = {name.split(".")[2] for name in weights if name.startswith("transformer.")}
            _, count, v = weights["templates"].shape
            d = weights["local_atte_fc.0.weight"].shape[0]
            t = weights["phi_s.layers.6.weight"].shape[0]
            return FineGrained(d, v, len(layers), count, t=t)
        if "fc_out.weight" in weights:
            hidden, d = weights["layers.0.0.weight"].shape
            return Pic2Word(d, weights["fc_out.weight"].shape[0], hidden)
        hidden, d = weights["layers.0.weight"].shape
        return Phi(d, weights["layers.6.weight"].shape[0], hidden)
    except (KeyError, ValueError, IndexError):
        raise ModelError(
            f"{file} holds no φ of LinCIR, SEARLE, Pic2Word or FTI4CIR. Its first names: "
            f"{', '.join(list(weights)[:4])}."
        ) from None


def _widths_of(network: Network) -> tuple[int, ...]:
    """Return d and t of a network, and v of one that needs the image tower's tokens."""
    if isinstance(network, FineGrained):
        return (*_widths_of(network.phi_s), network.templates.shape[2])
    linear = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    return linear[0].in_features, linear[-1].out_features


def _check(network: Network, file: Path, d: int | None, t: int | None, v: int | None) -> None:
    """Raise ModelError unless the network takes and gives what the encoder has."""
    theirs = _widths_of(network)
    needed = (d, t, v)[: len(theirs)]
    if any(width not in (None, own) for own, width in zip(theirs, needed, strict=True)):
        names = ", ".join(("image feature", "text token", "image token")[: len(theirs)])
        raise ModelError(
            f"{file} was trained for another backbone: its widths ({names}) are "
            f"{_widths(theirs)}, this encoder's {_widths(needed)}. Choose the weights of this "
            "encoder, or the encoder of these weights."
        )


def _widths(widths: tuple[Any, ...]) -> str:
    return " x ".join("?" if width is None else str(width) for width in widths)
