"""Prompts with pseudo-words in them, for both of open_clip's text towers.

A pseudo-word is put in by position, not by a token that stands for it: a user's ``$`` or ``*`` is
text like any other.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

KEPT = 50_000
"""Words whose tokens are kept."""
TEMPLATES = 1_000
"""Templates whose parts are kept."""
SLOTS = ("{words}", "{text}")
"""What a template is filled in at."""


@dataclass(frozen=True)
class Prompt:
    """Tokens of a prompt, and where its pseudo-words go."""

    tokens: tuple[int, ...]
    """Without start, end and padding; pseudo-words hold a token that is overwritten."""
    places: tuple[int, ...]
    """The index among ``tokens`` of each pseudo-word, rising."""
    cut: int = 0
    """Tokens of the user's text that were left out."""


class Tokenizer:
    """open_clip's tokenizer, as far as prompts in pieces need it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._kept = functools.lru_cache(KEPT)(self._encoded)
        self.parts = functools.lru_cache(TEMPLATES)(self._parts)
        self.context: int = tokenizer.context_length
        whole = tokenizer([""])[0].tolist()
        inner = getattr(tokenizer, "tokenizer", None)
        if inner is None:  # SimpleTokenizer
            self.start = [tokenizer.sot_token_id]
            self.end = [tokenizer.eot_token_id]
            self.padding = 0
        else:
            ids = inner("").input_ids
            self.start, self.end = ids[:-1], ids[-1:]
            self.padding = next((t for t in reversed(whole) if t not in ids), whole[-1])

    def pieces(self, text: str) -> list[int]:
        """Return the tokens of a piece of text, without start and end."""
        plain = text.isascii() and text.isprintable() and "&" not in text
        if plain and not hasattr(self._tokenizer, "tokenizer"):
            # Byte pairs of CLIP's own tokenizer cross no space, and cleaning changes no such word.
            return [token for word in text.split(" ") for token in self._kept(word)]
        return list(self._kept(text))

    def _encoded(self, text: str) -> tuple[int, ...]:
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is None:
            return tuple(self._tokenizer.encode(text))  # which cleans it, too
        return tuple(inner(self._tokenizer.clean_fn(text), add_special_tokens=False).input_ids)

    def _parts(self, template: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Return a template's pieces, each with its tokens; what is filled in has none."""
        return tuple(
            (piece, () if piece in SLOTS else tuple(self.pieces(piece)))
            for piece in _split(template)
        )

    @property
    def room(self) -> int:
        """Tokens that fit between start and end."""
        return self.context - len(self.start) - len(self.end)

    def rows(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return the token ids int64 (prompts, context) of whole rows."""
        rows = [[*self.start, *prompt.tokens, *self.end] for prompt in prompts]
        whole = [[*row, *[self.padding] * (self.context - len(row))] for row in rows]
        return torch.tensor(whole, dtype=torch.long).view(len(prompts), self.context)


def assemble(tokenizer: Tokenizer, template: str, text: str, words: int | Sequence[int]) -> Prompt:
    """Return ``template`` with ``{words}`` and ``{text}`` filled in.

    Each ``{words}`` takes a run of pseudo-words: ``words`` of them, or one number a place. A prompt
    that is too long loses the end of ``text``, and nothing else, so that it keeps its end token and
    its pseudo-words. Raises ValueError where the template alone does not fit.
    """
    runs = iter([words] * template.count("{words}") if isinstance(words, int) else words)
    ((_, filler),) = tokenizer.parts("word")
    parts: list[Sequence[int] | None] = []  # None stands for the user's text
    marks: list[list[bool]] = []
    for piece, tokens_of in tokenizer.parts(template):
        if piece == "{text}":
            parts.append(None)
            marks.append([])
        elif piece == "{words}":
            count = next(runs)
            parts.append(filler[:1] * count)
            marks.append([True] * count)
        else:
            parts.append(tokens_of)
            marks.append([False] * len(tokens_of))
    said = tokenizer.pieces(text)
    slots = sum(part is None for part in parts)
    fixed = sum(len(part) for part in parts if part is not None)
    if fixed > tokenizer.room:
        raise ValueError(f"the template alone takes {fixed} of {tokenizer.room} tokens")
    kept = min(len(said), (tokenizer.room - fixed) // max(slots, 1))
    tokens: list[int] = []
    places: list[int] = []
    for part, mark in zip(parts, marks, strict=True):
        own = said[:kept] if part is None else part
        places += [len(tokens) + i for i, is_word in enumerate(mark) if is_word]
        tokens += own
    cut = len(said) - kept if slots else 0
    return Prompt(tuple(tokens), tuple(places), cut)


def _split(template: str) -> list[str]:
    pieces: list[str] = []
    rest = template
    while rest:
        at = [i for i in map(rest.find, SLOTS) if i >= 0]
        if not at:
            pieces.append(rest)
            break
        first = min(at)
        if first:
            pieces.append(rest[:first])
        end = rest.index("}", first) + 1
        pieces.append(rest[first:end])
        rest = rest[end:]
    return [piece for piece in pieces if piece.strip()]


def token_embedding(model: nn.Module) -> nn.Module:
    """Return the layer of open_clip's ``model`` that embeds text tokens (CLIP and CustomTextCLIP).

    Raises ValueError for a text tower of another kind.
    """
    for tower in (model, getattr(model, "text", None)):
        found = getattr(tower, "token_embedding", None)
        if isinstance(found, nn.Module):
            return found
    inner = getattr(getattr(model, "text", None), "transformer", None)
    if inner is not None and hasattr(inner, "get_input_embeddings"):
        layer: nn.Module = inner.get_input_embeddings()
        return layer
    raise ValueError(f"{type(model).__name__} has no embedding of text tokens")


def token_width(model: nn.Module) -> int:
    """Return t, the width of the token embeddings of open_clip's ``model``."""
    weight = token_embedding(model).weight
    assert isinstance(weight, Tensor)
    return weight.shape[1]


@contextmanager
def injected(model: nn.Module, rows: Tensor, columns: Tensor, words: Tensor) -> Iterator[None]:
    """Let the text tower see ``words`` (m, t) at rows and columns (m) of the ids it is given."""

    def overwrite(_: nn.Module, __: Any, embedded: Tensor) -> Tensor:
        embedded = embedded.clone()
        embedded[rows, columns] = words.to(embedded)
        return embedded

    hook = token_embedding(model).register_forward_hook(overwrite)
    try:
        yield
    finally:
        hook.remove()


class _Text(nn.Module):
    """The text tower of open_clip's model, as a module that parameters can be swapped in."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(ids)
        return features


def text_features(model: Any, ids: Tensor) -> Tensor:
    """Return text features (rows, d), not normalised, of token ids (rows, context).

    Where a causal tower reads its feature at the end token, what stands behind the ends of all rows
    changes nothing and is left out: short prompts cost less than the context's length.
    """
    tower = getattr(model, "text", model)
    kind = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    mask, places = getattr(tower, "attn_mask", None), getattr(tower, "positional_embedding", None)
    by_end = kind == "argmax" and getattr(tower, "cls_emb", None) is None
    if not by_end or mask is None or places is None:
        features: Tensor = model.encode_text(ids)
        return features
    length = int(ids.argmax(dim=1).max()) + 1
    prefix = "model." if tower is model else "model.text."
    shorter = {
        f"{prefix}attn_mask": mask[:length, :length],
        f"{prefix}positional_embedding": places[:length],
    }
    made: Tensor = torch.func.functional_call(_Text(model), shorter, (ids[:, :length],))
    return made


def encode(
    model: Any, tokenizer: Tokenizer, prompts: Sequence[Prompt], words: Sequence[Tensor]
) -> Tensor:
    """Return text features (prompts, d), not normalised, of prompts with pseudo-words.

    ``words`` holds the prompts' pseudo-words (places, t) in order, a tensor a prompt or of several.
    Gradients flow to them.
    """
    device = next(model.parameters()).device
    ids = tokenizer.rows(prompts).to(device)
    offset = len(tokenizer.start)
    counts = torch.tensor([len(prompt.places) for prompt in prompts])
    rows = torch.repeat_interleave(torch.arange(len(prompts)), counts)
    columns = torch.tensor([offset + place for prompt in prompts for place in prompt.places])
    if not len(rows):
        return text_features(model, ids)
    stacked = torch.cat(list(words)).to(device)
    with injected(model, rows.to(device), columns.to(device), stacked):
        return text_features(model, ids)
