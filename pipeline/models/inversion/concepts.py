"""Concepts that images are near to, and phrases that name them: what SEARLE regularises with."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from pipeline.models.inversion import corpus
from pipeline.models.inversion.prompts import Prompt, Tokenizer, assemble, encode, token_width
from pipeline.store.identity import fingerprint

MOST = 20_000
"""Concepts at most; SEARLE has Open Images' 20,931 classes."""
PHRASES = 256
"""Phrases of a concept at most, as published."""
TEMPLATES = tuple(
    frame.format(kind, words="{words}")
    for kind in ("photo", "picture", "drawing", "painting", "sketch", "diagram")
    for frame in ("a {} of {words}", "this {} shows {words}", "{words} in a {}", "a {words} {}")
)
"""24 prompts around a concept or a pseudo-word, as many as SEARLE takes from PALAVRA."""

Drawn = tuple[int, int]
"""A concept, and one of its phrases."""


def choose(texts: Sequence[str], listed: Sequence[str] | None) -> dict[str, list[int]]:
    """Return the texts that name each concept as whole words, by their places, at most 256.

    Concepts are those that are ``listed``, else the texts' keywords, the more frequent first.
    A concept that no text names is left out.
    """
    if listed is not None:
        return _named(texts, dict.fromkeys(listed))
    found: dict[str, list[int]] = defaultdict(list)
    for place, text in enumerate(texts):
        for keyword in {text[start:end] for start, end in corpus.content_words(text)}:
            found[keyword].append(place)
    common = sorted(found, key=lambda name: (-len(found[name]), name))[:MOST]
    return {name: found[name][:PHRASES] for name in common}


def _named(texts: Sequence[str], concepts: dict[str, None]) -> dict[str, list[int]]:
    with_word: dict[str, list[int]] = defaultdict(list)
    for place, text in enumerate(texts):
        for word in set(corpus.WORD.findall(text)):
            with_word[word].append(place)
    found = {}
    for concept in concepts:
        words = corpus.WORD.findall(concept)
        rarest = min((with_word.get(word, []) for word in words), key=len, default=[])
        pattern = _whole(concept)
        if places := [place for place in rarest if pattern.search(texts[place])][:PHRASES]:
            found[concept] = places
        if len(found) == MOST:
            break
    return found


def _whole(concept: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(concept)}(?!\w)")


def apart(one: Tensor, other: Tensor) -> Tensor:
    """Return 1 - cosine of rows (n)."""
    return 1 - cosine_similarity(one, other, dim=1)


class Concepts:
    """Concepts and their phrases under one encoder."""

    def __init__(
        self,
        clip: Any,
        texts: list[str],
        chosen: dict[str, list[int]],
        left_out: Counter[str],
        templates: Sequence[str] = TEMPLATES,
    ) -> None:
        self.model, self.tokenizer = clip.model, Tokenizer(clip.tokenizer)
        self.texts, self.names, self.of = texts, list(chosen), list(chosen.values())
        self.left_out = left_out
        self.device = next(iter(clip.model.parameters())).device
        self.width = token_width(clip.model)
        said = [fingerprint(texts), list(templates)]
        self.identity = fingerprint([self.names, self.of, *said])
        self._texts = templates
        self._templates = [assemble(self.tokenizer, one, "", 1) for one in templates]
        self._prompts: dict[Drawn, Prompt] = {}
        self._meant: dict[int, Tensor] = {}
        self.features = self._features(clip)

    def _features(self, clip: Any) -> Tensor:
        """Return the normalised features (concepts, d): means over the templates."""
        found = []
        for start in range(0, len(self.names), 64):
            names = self.names[start : start + 64]
            texts = [one.replace("{words}", name) for name in names for one in self._texts]
            rows = normalize(torch.from_numpy(clip.texts(texts)).float(), dim=1)
            found.append(rows.view(len(names), len(self._texts), -1).mean(dim=1))
        return normalize(torch.cat(found), dim=1)

    def nearest(self, features: Tensor, count: int) -> list[list[int]]:
        """Return the concepts nearest to images by their raw features (n, d), nearest first."""
        parts = torch.split(normalize(features, dim=1), 4096)
        most = min(count, len(self.names))
        chosen: list[list[int]] = []
        for part in parts:
            chosen += (part @ self.features.T).topk(most, dim=1).indices.tolist()
        return chosen

    def draw(self, near: Sequence[int], rng: random.Random) -> Drawn:
        """Return one of the concepts and one of its phrases."""
        concept = rng.choice(near)
        return concept, rng.choice(self.of[concept])

    def named(self, words: Tensor, seeds: Sequence[random.Random]) -> Tensor:
        """Return the features (n, d) of pseudo-words (n, t), each in a template by its seed."""
        prompts = [rng.choice(self._templates) for rng in seeds]
        return encode(self.model, self.tokenizer, prompts, list(words[:, None])).float()

    def phrases(self, drawn: Sequence[Drawn], words: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (n, d) of phrases with pseudo-words in the place of their concepts,
        and those of the phrases as they are."""
        prompts = [self._prompt(one) for one in drawn]
        placed = [
            word[None] if prompt.places else word[:0].reshape(0, self.width)
            for word, prompt in zip(words, prompts, strict=True)
        ]
        said = encode(self.model, self.tokenizer, prompts, placed).float()
        return said, self._as_they_are([text for _, text in drawn])

    def _prompt(self, drawn: Drawn) -> Prompt:
        """Return a phrase with a place for its concept where that stands first."""
        if (found := self._prompts.get(drawn)) is None:
            concept, place = drawn
            text = self.texts[place]
            match = _whole(self.names[concept]).search(text)
            assert match is not None
            before = self.tokenizer.pieces(text[: match.start()])
            after = self.tokenizer.pieces(text[match.end() :])
            word, room = self.tokenizer.pieces("word")[0], self.tokenizer.room
            tokens = tuple([*before, word, *after][:room])
            places = (len(before),) if len(before) < room else ()
            found = self._prompts[drawn] = Prompt(tokens, places)
        return found

    def _as_they_are(self, texts: Sequence[int]) -> Tensor:
        missing = [place for place in dict.fromkeys(texts) if place not in self._meant]
        if missing:
            room = self.tokenizer.room
            rows = [self.tokenizer.pieces(self.texts[place])[:room] for place in missing]
            with torch.no_grad():
                prompts = [Prompt(tuple(row), ()) for row in rows]
                made = encode(self.model, self.tokenizer, prompts, []).float()
            self._meant |= dict(zip(missing, made, strict=True))
        return torch.stack([self._meant[place] for place in texts])
