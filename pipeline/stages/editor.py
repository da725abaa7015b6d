"""What the edit stage asks an LLM, and what it makes of the answers."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from pipeline.config import Config
from pipeline.models import llms
from pipeline.models.llms import Answer
from pipeline.models.prompts import edit as prompts
from pipeline.models.prompts.edit import Prompt
from pipeline.stages import asking, together


class Pair(NamedTuple):
    """What one edit is made from; records are keyed by it, so equal pairs are edited once."""

    caption: str
    relative_caption: str
    shared_concept: str = ""
    """CIRCO's, where the configuration asks for it."""
    sample: int = 0
    """The number of the edit, where there are several a caption."""

    def record(self) -> dict[str, Any]:
        """Return the pair as fields of a record; the rare ones only where they are set."""
        rare = {"shared_concept": self.shared_concept, "sample": self.sample}
        return {
            "caption": self.caption,
            "relative_caption": self.relative_caption,
            **{name: value for name, value in rare.items() if value},
        }


def make_pairs(
    captions: Sequence[str], relative_captions: Sequence[str], edits: int, concept: str = ""
) -> list[Pair]:
    """Return the pairs that ``captions`` are edited by, captions innermost."""
    return [
        Pair(caption, relative, concept, sample)
        for relative in relative_captions
        for sample in range(edits)
        for caption in captions
    ]


class Edited(NamedTuple):
    """A pair with its edited caption, or None and the reason."""

    pair: Pair
    text: str | None
    reason: str | None
    roles: dict[str, list[str]] | None = None
    """What the LLM said of each role, where it was asked for them."""

    def record(self) -> dict[str, Any]:
        """Return it as a record of the edit stage's file."""
        made = self.pair.record() | {"edited_caption": self.text}
        if self.roles is not None:
            made |= {role: self.roles[role] for role in prompts.ROLES}
        return made if self.reason is None else made | {"reason": self.reason}


@dataclass(frozen=True)
class Editor:
    """An LLM with the prompt that it edits by, as an ``asking.Asker``."""

    config: Config
    groups: Sequence[together.Group] = ()
    """What a prompt that edits together asks for at a time; by default what it is asked about."""

    @functools.cached_property
    def prompt(self) -> Prompt:
        """What the LLM is asked with."""
        return prompts.load(self.config.llm.prompt)

    def requests(self, todo: Sequence[Pair], attempt: int = 0) -> Iterator[llms.Request]:
        """Yield the request of each pair; attempts differ by seed, and then by heat."""
        for key, pair in enumerate(todo):
            yield self._request(key, (pair,), attempt)

    def answers(
        self, llm: llms.Llm, todo: Sequence[Pair], attempt: int = 0
    ) -> Iterator[llms.Answer]:
        """Yield what the LLM says of each pair; after the first time each is asked for alone."""
        if self.prompt.answer != "together" or attempt:
            yield from llm.answer(self.requests(todo, attempt))
            return
        places = {pair: place for place, pair in enumerate(todo)}
        calls = together.calls(self.groups or together.groups(todo), places)
        asked = (self._request(number, call.group) for number, call in enumerate(calls))
        for answer in llm.answer(asked):
            for pair, part in together.split(self.prompt, calls[answer.key], answer):
                yield replace(part, key=places[pair])

    def _request(self, key: int, group: together.Group, attempt: int = 0) -> llms.Request:
        config, prompt, pair = self.config.llm, self.prompt, group[0]
        warm = max(config.temperature, asking.RETRY_TEMPERATURE)
        captions = [one.caption for one in group]
        return llms.Request(
            key=key,
            messages=prompt.messages_of(captions, pair.relative_caption, pair.shared_concept),
            max_tokens=prompt.tokens_of(len(group)),
            stop=tuple(prompt.stop),
            temperature=config.temperature if attempt == 0 else warm,
            seed=config.seed + attempt + pair.sample * config.attempts,
            schema=prompt.schema_of(len(group)),
        )

    def judge(self, pair: Pair, answer: Answer) -> asking.Judged[Pair, Edited]:
        """Return the edited caption in an answer, with the roles that it names."""
        text, reason = judge(self.prompt, pair, answer)
        with_roles = text is not None and self.prompt.answer == "roles"
        roles = self.prompt.fields(answer.text or "") if with_roles else None
        return asking.Judged(pair, Edited(pair, text, reason, roles), text, reason)

    def failure(self, pair: Pair, why: str) -> Edited:
        """Return a pair without an edit."""
        return Edited(pair, None, why)

    def named(self, pair: Pair) -> str:
        """Return both texts."""
        return " | ".join(pair[:2])

    def change(self, pair: Pair) -> str:
        """Return the relative caption."""
        return pair.relative_caption


def ask(config: Config, todo: Sequence[Pair]) -> Iterator[Edited]:
    """Yield each pair with what the LLM made of it, as answers come; raises as ``asking.ask``."""
    return (judged.made for judged in asking.ask(Editor(config), todo))


def judge(prompt: Prompt, pair: Pair, answer: Answer) -> tuple[str | None, str | None]:
    """Return the edited caption in an LLM's answer, or None and what is wrong with it."""
    if answer.text is None:
        return None, answer.reason or "no answer"
    text, reason, ended = prompt.read(answer.text)
    if reason:
        return None, reason
    if answer.truncated and not ended:
        return None, f"the answer was longer than {prompt.max_tokens} tokens"
    if prompt.repeated(text, pair.caption, pair.relative_caption, pair.shared_concept):
        return None, "the answer repeats the prompt"
    return text, None
