"""BLIP-2 through transformers, with nucleus sampling that does not depend on the batch."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import Blip2ForConditionalGeneration, Blip2Processor, LogitsProcessor
from transformers.modeling_outputs import CausalLMOutputWithPast

from pipeline.config import CaptionerConfig, RuntimeConfig, resolve_device, resolve_precision
from pipeline.errors import ModelError
from pipeline.images.files import two_pictures
from pipeline.models.captioners.base import InBatches, prompt_of
from pipeline.models.loading import failed, pretrained
from pipeline.models.quiet import tame_transformers

IMAGE_TOKEN = "<image>"
"""What the tokenizer calls the token that stands for a part of the image."""

CACHE = "cache"
"""The name of the key-value cache; before transformers 5.24 it was another."""
if CACHE not in {field.name for field in dataclasses.fields(CausalLMOutputWithPast)}:
    CACHE = "past_key_values"


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
    """A ``Blip2ForConditionalGeneration`` checkpoint, in any layout that was ever published.

    The prompt's tokens are made here and not by the processor, which makes none for the image where
    its ``num_query_tokens`` is missing: the captions would then depend on the prompt alone. The
    language model may be a decoder (OPT) or an encoder with a decoder (T5).
    """

    def __init__(self, config: CaptionerConfig, runtime: RuntimeConfig) -> None:
        self.config = config
        self.device = resolve_device(runtime.device)
        self.dtype = getattr(torch, resolve_precision(config.precision, self.device))
        tame_transformers()
        try:
            self.processor: Any = Blip2Processor.from_pretrained(
                config.model, revision=config.revision, trust_remote_code=False
            )
            model: Any = pretrained(
                Blip2ForConditionalGeneration,
                config.model,
                revision=config.revision,
                dtype=self.dtype,
            )
        except Exception as error:
            advice = "Check the name and the network, or give a BLIP-2's folder with --captioner."
            what = f"The captioner {config.model}"
            raise failed(what, error, advice, name=config.model) from error
        self.model = model.to(self.device).eval()
        self.prompt = self._prompt()
        self._check_that_it_sees()

    def _prompt(self) -> Tensor:
        """Return the tokens (1, length) of image and prompt, the image's first.

        Checkpoints from before the image had a token get one: any that the prompt lacks would do,
        since the image takes its place. Raises ModelError where none can be told.
        """
        text: list[int] = self.processor.tokenizer(prompt_of(self.config))["input_ids"]
        settings = self.model.config
        vocabulary = self.model.get_input_embeddings().num_embeddings
        image = settings.image_token_index
        if image is None:
            tokenizer = self.processor.tokenizer
            image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
            if image is None or not image < vocabulary:
                image = tokenizer.pad_token_id
        broken = f"The captioner {self.config.model} cannot be used: "
        if any(token >= vocabulary for token in text):
            raise ModelError(
                f"{broken}its tokenizer.json has tokens beyond the model's vocabulary of "
                f"{vocabulary}. Give the checkpoint its own tokenizer."
            )
        if image is None or not 0 <= image < vocabulary or image in text:
            raise ModelError(
                f"{broken}config.json, image_token_index, is {image}, which is not a token of its "
                f"own among the {vocabulary} that the model knows. Correct it there."
            )
        settings.image_token_index = image
        tokens = [image] * self.model.query_tokens.shape[1] + text
        return torch.tensor([tokens], dtype=torch.long, device=self.device)

    def _check_that_it_sees(self) -> None:
        """Raise ModelError where two images get the same captions, sample by sample, as tokens."""
        few = self.config.model_copy(
            update={"samples": 4, "max_new_tokens": 8, "min_new_tokens": 1}
        )
        one, other = self._sample(few, ["check", "check"], two_pictures()).chunk(2)
        if torch.equal(one, other):
            said = self.processor.decode(one[0], skip_special_tokens=True)
            raise ModelError(
                f"The captioner {self.config.model} says the same of two different images "
                f"({said!r}), so it does not see them: its weights do not fit its config.json, "
                "or are no BLIP-2's. Copy the checkpoint again, or use another with --captioner."
            )

    def caption(self, ids: Sequence[str], images: Sequence[Image.Image]) -> list[list[str]]:
        """Return ``samples`` captions for each RGB image.

        The image and the prompt are encoded once for all samples of an image.
        """
        tokens, samples = self._sample(self.config, ids, images), self.config.samples
        texts = [
            text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)
        ]
        return [texts[i : i + samples] for i in range(0, len(texts), samples)]

    @torch.inference_mode()
    def _sample(
        self, config: CaptionerConfig, ids: Sequence[str], images: Sequence[Image.Image]
    ) -> Tensor:
        """Return the tokens of all captions, (images · samples, length)."""
        pixels = self.processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        prompt = self.prompt.repeat(len(images), 1)
        shape = (config.samples, config.max_new_tokens)
        uniforms = np.concatenate([uniform_numbers(config.seed, name, shape) for name in ids])
        tokens = self._generate(
            pixels.to(self.device, self.dtype),
            prompt,
            config.samples,
            do_sample=True,
            top_k=0,  # the sampler below does all the filtering
            top_p=1.0,
            temperature=1.0,
            repetition_penalty=config.repetition_penalty,
            max_new_tokens=config.max_new_tokens,
            min_new_tokens=config.min_new_tokens,
            logits_processor=[NucleusSampler(uniforms, config.top_p, config.temperature)],
        )
        if self.model.config.use_decoder_only_language_model:  # the others answer without it
            tokens = tokens[:, prompt.shape[1] :]
        return tokens

    def _generate(self, pixels: Tensor, prompt: Tensor, samples: int, **settings: Any) -> Tensor:
        """Return all samples' tokens, (images · samples, length), a decoder's after ``prompt``.

        ``generate`` with ``num_return_sequences`` would run the language model over image and
        prompt once a sample; here it does so once an image, and the samples share the key-value
        cache. Only the prompt's last token is left to them, so it must be a text token.
        """
        attention = torch.ones_like(prompt)
        ends_in_text = bool((prompt[:, -1] != self.model.config.image_token_index).all())
        if not (self.model.config.use_decoder_only_language_model and ends_in_text):
            tokens: Tensor = self.model.generate(
                pixel_values=pixels,
                input_ids=prompt,
                attention_mask=attention,
                num_return_sequences=samples,
                **settings,
            )
            return tokens
        encoded = self.model(
            pixel_values=pixels,
            input_ids=prompt[:, :-1],
            attention_mask=attention[:, :-1],
            use_cache=True,
        )
        shared = getattr(encoded.language_model_outputs, CACHE)
        shared.batch_repeat_interleave(samples)
        tokens = self.model.language_model.generate(
            input_ids=prompt.repeat_interleave(samples, 0),
            attention_mask=attention.repeat_interleave(samples, 0),
            **{CACHE: shared},
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
