"""The quick mode: what a folder is searched by where captioner or LLM are not at hand.

Nobody who wants to look through photos should first fetch 20 GB or start a server: where the
method is not named, one is taken that needs the encoder alone, and what is missing is said.
"""

import socket
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.config import OWN_IMAGES, Config
from pipeline.errors import SeizeError

if TYPE_CHECKING:
    from pipeline.models.kinds import Choice

QUICK = ("lincir", "image+text")
"""Methods that need the encoder alone, the best first; the first needs weights that are named."""
ANSWERS_WITHIN = 1.0
"""Seconds in which a server must take a connection, to be at hand."""
METHOD = "search.method"
ASKED_FOR = ("captioner.", "llm.")
"""What overrides begin with whose user wants captions and edits."""


@dataclass(frozen=True)
class Named:
    """Settings as a user named them, before a method is chosen that can be used now."""

    config: Config
    fields: tuple[str, ...] = ()
    """The fields that options name."""
    alpha_pos: float | None = None
    alpha_neg: float | None = None

    def ungrouped(self) -> "Named":
        """Return the same settings, but near-duplicates are results of their own."""
        return replace(self, config=self.config.with_own(group_at=None))

    def settled(self) -> tuple[Config, str | None]:
        """Return the settings to search by, and what is missing for another method.

        Raises ConfigError where the method has no α⁺ and α⁻, and they are named.
        """
        if self.alpha_pos is None and self.alpha_neg is None:
            return settle(self.config, self.fields)
        from pipeline.retrieval import methods

        weights = self.alpha_pos, self.alpha_neg
        return methods.with_increment(self.config, OWN_IMAGES, *weights), None


def settle(config: Config, overrides: Collection[str]) -> tuple[Config, str | None]:
    """Return the settings with a method that can be used now, and what is missing for another.

    A method that somebody named (an option, a file, a preset) is kept, as are captioner and LLM
    that options name.
    """
    named = METHOD in overrides or "method" in config.search.model_fields_set
    if named or any(name.startswith(ASKED_FOR) for name in overrides):
        return config, None
    missing = _missing(config)
    if not missing:
        return config, None
    method = next(name for name in QUICK if _usable(config, name))
    note = (
        f"Searches by {method}, with the encoder alone: {' and '.join(missing)}. With both, the "
        "image is described and the description edited, which finds more. To ask for "
        f"it: --method {config.search.method}."
    )
    return config.with_search(method=method), note


def _missing(config: Config) -> list[str]:
    from pipeline.models import captioners, llms

    roles: list[tuple[str, Any]] = [("captioner", captioners.ROLE), ("LLM", llms.ROLE)]
    return [
        f"the {name} {getattr(config, role.section).model} is not at hand"
        for name, role in roles
        if not is_at_hand(role.chosen(config))
    ]


def _usable(config: Config, method: str) -> bool:
    from pipeline.own import checks
    from pipeline.retrieval import methods

    try:
        chosen = config.with_search(method=method)
        checks.method(chosen, method)
        for clue in methods.clues_of(method).values():
            clue.check(chosen, OWN_IMAGES)
    except SeizeError:
        return False
    return True


def is_at_hand(model: "Choice[Any, Any]") -> bool:
    """Whether a model can be used without fetching it: its files are here, or its server is."""
    from pipeline.models import weights

    if model.kind.served:
        urls = getattr(model.settings, "url", None) or []
        return any(map(_answers, [urls] if isinstance(urls, str) else urls))
    return all(Path(name).exists() or weights.cached(name) is not None for name in model.files)


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), ANSWERS_WITHIN):
            return True
    except OSError:
        return False
