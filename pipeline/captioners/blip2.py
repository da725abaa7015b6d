"""BLIP-2 through transformers, with nucleus sampling that does not depend on the batch."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, Blip2ForConditionalGeneration, LogitsProcessor
from transformers.utils import logging as transformers_logging

from pipeline.captioners import InBatches, prompt_of
from pipeline.config import CaptionerConfig, RuntimeConfig, resolve_device, resolve_precision
from pipeline.loading import SAFELY, failed

transformers_logging.disable_progress_bar()  # the stages have their own


class NucleusSampler(LogitsProcessor):  # type: ignore[misc]
    """Nucleus sampling (Holtzman et al., ICLR 2020) from uniform numbers given in advance.

    ``uniforms`` (rows, steps) holds one number in [0, 1) a row and step; the token is read off the
    cumulative probabilities of the nucleus, so a row's tokens depend on its own numbers alone and
    not on its neighbours in the batch. All other tokens are set to minus infinity.
    """

    def __init__(self, uniforms: NDArray[np.float64], top_p: float, temperature: float) -> None:
        self.uniforms = uniforms
        self.top_p = top_p
        self.temperature = temperature
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Map logits (rows, vocabulary) to logits that leave one token a row."""
        probabilities = torch.softmax(scores.double() / self.temperature, dim=-1)
        ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        cumulative = ordered.cumsum(dim=-1)
        # The nucleus is the smallest set that reaches top_p: its last token is the first to do so.
        last = (cumulative < self.top_p).sum(dim=-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        uniform = torch.from_numpy(self.uniforms[:, self.step, None]).to(scores.device)
        place = torch.searchsorted(cumulative, uniform * cumulative.gather(1, last), right=True)
        chosen = tokens.gather(1, torch.minimum(place, last))
        self.step += 1
        return torch.full_like(scores, float("-inf")).scatter(1, chosen, 0.0)


class Blip2(InBatches):
    """A ``Blip2ForConditionalGeneration`` checkpoint with its processor."""

    def __init__(self, config: CaptionerConfig, runtime: RuntimeConfig) -> None:
        self.config = config
        self.device = resolve_device(runtime.device)
        self.dtype = getattr(torch, resolve_precision(config.precision, self.device))
        try:
            self.processor: Any = AutoProcessor.from_pretrained(
                config.model, revision=config.revision, trust_remote_code=False
            )
            model: Any = Blip2ForConditionalGeneration.from_pretrained(
                config.model, revision=config.revision, dtype=self.dtype, **SAFELY
            )
        except Exception as error:
            advice = "Check the name and the network, or give a BLIP-2's folder with --captioner."
            raise failed(f"The captioner {config.model}", error, advice) from error
        self.model = model.to(self.device).eval()

    @torch.inference_mode()
    def caption(self, ids: Sequence[str], images: Sequence[Image.Image]) -> list[list[str]]:
        """Return ``samples`` captions for each RGB image.

        The image and the prompt are encoded once for all samples of an image.
        """
        config = self.config
        inputs = self.processor(
            images=list(images), text=[prompt_of(config)] * len(images), return_tensors="pt"
        ).to(self.device, self.dtype)
        shape = (config.samples, config.max_new_tokens)
        uniforms = np.concatenate([uniform_numbers(config.seed, name, shape) for name in ids])
        tokens = self._generate(
            inputs,
            do_sample=True,
            top_k=0,  # the sampler below does all the filtering
            top_p=1.0,
            temperature=1.0,
            repetition_penalty=config.repetition_penalty,
            max_new_tokens=config.max_new_tokens,
            min_new_tokens=config.min_new_tokens,
            logits_processor=[NucleusSampler(uniforms, config.top_p, config.temperature)],
        )
        new = tokens[:, inputs["input_ids"].shape[1] :]
        texts = [
            text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)
        ]
        return [texts[i : i + config.samples] for i in range(0, len(texts), config.samples)]

    def _generate(self, inputs: dict[str, Tensor], **settings: Any) -> Tensor:
        """Return the tokens of all samples, (images · samples, length), after the prompt's.

        ``generate`` with ``num_return_sequences`` would run the language model over image and
        prompt once a sample; here it does so once an image, and the samples share the key-value
        cache. Only the prompt's last token is left to them, so it must be a text token.
        """
        samples, prompt = self.config.samples, inputs["input_ids"]
        ends_in_text = bool((prompt[:, -1] != self.model.config.image_token_index).all())
        if not (self.model.config.use_decoder_only_language_model and ends_in_text):
            tokens: Tensor = self.model.generate(**inputs, num_return_sequences=samples, **settings)
            return tokens
        start = {name: inputs[name][:, :-1] for name in ("input_ids", "attention_mask")}
        encoded = self.model(pixel_values=inputs["pixel_values"], use_cache=True, **start)
        shared = encoded.language_model_outputs.past_key_values
        shared.batch_repeat_interleave(samples)
        tokens = self.model.language_model.generate(
            input_ids=prompt.repeat_interleave(samples, 0),
            attention_mask=inputs["attention_mask"].repeat_interleave(samples, 0),
            past_key_values=shared,
            **settings,
        )
        return tokens


def uniform_numbers(seed: int, image: str, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return numbers in [0, 1) of ``shape`` (samples, steps), keyed by seed and image id.

    Each sample has its own generator, so asking for more samples leaves the first ones as they are.
    """
    rows = []
    for sample in range(shape[0]):
        key = hashlib.sha256(f"{seed}\0{image}\0{sample}".encode()).digest()[:16]
        rows.append(np.random.Generator(np.random.Philox(key=int.from_bytes(key))).random(shape[1]))
    return np.stack(rows)
