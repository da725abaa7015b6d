"""What composers are trained by: InfoNCE with in-batch and hard negatives, and MTST's terms."""

import torch
from torch import Tensor, nn

from pipeline.models.composers.settings import TEMPERATURE


def info_nce(
    queries: Tensor,
    targets: Tensor,
    labels: Tensor | None = None,
    negatives: Tensor | None = None,
    temperature: float = TEMPERATURE,
    smoothing: float = 0.0,
) -> Tensor:
    """Return the mean of −log softmax(q·x / τ) at a query's own target.

    ``queries`` and ``targets`` are (n, d) at length 1; row i is the target of query i. The other
    targets of the batch are negatives, save those with the same of ``labels`` (n), which are left
    out. ``negatives`` (n, m, d) are each query's own hard ones; rows of zeros are none.
    ``smoothing`` spreads that share of the weight evenly over all that counts (MTST: 0.1).
    """
    logits = queries @ targets.T
    own = torch.arange(len(queries), device=queries.device)
    if labels is not None:
        same = (labels[:, None] == labels[None, :]).fill_diagonal_(False)
        logits = logits.masked_fill(same, -torch.inf)
    if negatives is not None:
        hard = torch.einsum("nd,nmd->nm", queries, negatives)
        logits = torch.cat([logits, hard.masked_fill(~negatives.any(dim=2), -torch.inf)], dim=1)
    log = torch.log_softmax(logits / temperature, dim=1)
    counted = torch.isfinite(log)
    even = log.masked_fill(~counted, 0).sum(dim=1) / counted.sum(dim=1)
    return -((1 - smoothing) * log[own, own] + smoothing * even).mean()


def prototype_loss(forward: Tensor, backward: Tensor) -> Tensor:
    """Return MTST's mean squared error of the prototype on the way there (n, d) and back.

    What comes of the way back is a fixed aim: no gradient flows through it.
    """
    return nn.functional.mse_loss(forward, backward.detach(), reduction="sum") / len(forward)
