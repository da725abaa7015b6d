"""Sampling of tokens that does not depend on what else is in the batch."""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor


class Sampler(LogitsProcessor):  # type: ignore[misc]
    """Sampling at a temperature from uniform numbers given in advance.

    ``uniforms`` (rows, steps) holds one number in [0, 1) a row and step; the token is read off the
    cumulative probabilities in the order of the vocabulary, so a row's tokens depend on its own
    numbers and logits alone. All other tokens are set to minus infinity.
    """

    def __init__(self, uniforms: NDArray[np.float64], temperature: float) -> None:
        self.uniforms = uniforms
        self.temperature = temperature
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Map logits (rows, vocabulary) to logits that leave one token a row."""
        place = "cpu" if scores.device.type == "mps" else scores.device  # MPS has no float64
        probabilities = torch.softmax(scores.to(place).double() / self.temperature, dim=-1)
        cumulative = probabilities.cumsum(dim=-1)
        uniform = torch.from_numpy(self.uniforms[:, self.step, None]).to(place)
        chosen = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        chosen = chosen.clamp(max=scores.shape[-1] - 1).to(scores.device)
        self.step += 1
        return torch.full_like(scores, float("-inf")).scatter(1, chosen, 0.0)


def uniform_numbers(seed: int, prompt: str, steps: int) -> NDArray[np.float64]:
    """Return numbers in [0, 1) of shape (steps), keyed by seed and prompt; more steps go on."""
    key = hashlib.sha256(f"{seed}\0{prompt}".encode(errors="replace")).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key))).random(steps)
