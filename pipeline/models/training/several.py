"""What the processes of one training tell each other; used only where there are several."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from pipeline.processes import current


@functools.cache
def _group(kind: str) -> Any:
    """Return the processes' group: gloo, which connects them all, or NCCL for GPUs."""
    return distributed.new_group(backend="nccl") if kind == "cuda" else distributed.group.WORLD


def mean(tensors: Sequence[Tensor]) -> None:
    """Replace ``tensors``, of one device and dtype, by their means over all processes."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat, group=_group(flat.device.type))
    flat /= current().count
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def gathered(tensor: Tensor) -> Tensor:
    """Return the rows of all processes (processes·n, d), in their order; gradients flow to all.

    A loss over all of them, computed by each process, has the gradient of one large batch once the
    gradients are averaged.
    """
    if current().count == 1:
        return tensor
    rows: Tensor = _Gathered.apply(tensor)
    return rows


class _Gathered(torch.autograd.Function):
    """Rows of all processes; each process's gradient of its own rows is the sum of what all say."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(current().count)]
        distributed.all_gather(parts, tensor.contiguous(), group=_group(tensor.device.type))
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total, group=_group(total.device.type))
        return total.chunk(current().count)[current().index]
