"""A model's chat template, rendered in process so that texts stay texts and nobody thinks."""

import re
from collections.abc import Iterable
from typing import Any

from jinja2 import TemplateError

from pipeline.errors import ModelError
from pipeline.models.answers import closing, open_thought
from pipeline.models.serving.dialect import Manner, merged
from pipeline.run import log

Messages = list[dict[str, Any]]


class ChatTemplate:
    """Renders chats for a transformers tokenizer, or a processor with one.

    Control tokens in the texts of a chat are broken up, so that they are read as text. A system
    turn that the template refuses is merged into the user's, from then on.
    """

    def __init__(self, owner: Any, name: str, thinking: bool = False) -> None:
        self._owner = owner
        self._name = name
        self._thinking = thinking
        self._merges_system = False
        self._controls = _pattern(getattr(owner, "tokenizer", owner))
        # A processor takes what its template does not know for settings of its own.
        known = Manner(thinking).parameters["chat_template_kwargs"]
        template = str(owner.chat_template)
        self._parameters = {name: value for name, value in known.items() if name in template}

    def render(self, messages: Messages) -> str:
        """Return the prompt for a chat; raises ModelError where the template refuses it.

        Where thinking is off and the template begins a thought, it is ended at once.
        """
        messages = [{**m, "content": self._plain(m["content"])} for m in messages]
        prompt = self._apply(messages)
        opened = "" if self._thinking else open_thought(prompt)
        return f"{prompt.rstrip()}\n\n{closing(opened)}\n\n" if opened else prompt

    def _apply(self, messages: Messages) -> str:
        if self._merges_system:
            messages = merged(messages)
        try:
            prompt: str = self._owner.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False, **self._parameters
            )
        except TemplateError as error:
            if self._merges_system or messages[0]["role"] != "system":
                raise ModelError(
                    f"The chat template of {self._name} refuses the prompt: {error}. Choose "
                    "another prompt or another model."
                ) from None
            log.warning(
                "The chat template of %s refuses the system role (%s); it is merged into the "
                "user's turn.",
                self._name,
                error,
            )
            self._merges_system = True
            return self._apply(messages)
        return prompt

    def _plain(self, content: Any) -> Any:
        """Return the content of a turn with its control tokens broken up."""
        if isinstance(content, str):
            return plain(content, self._controls)
        return [
            part | {"text": plain(part["text"], self._controls)} if "text" in part else part
            for part in content
        ]


def plain(text: str, controls: "re.Pattern[str] | None") -> str:
    """Return ``text`` with a space in each control token, however they are nested."""
    while controls is not None and controls.search(text):
        text = controls.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)
    return text


def _pattern(tokenizer: Any) -> "re.Pattern[str] | None":
    """Return what matches a tokenizer's control tokens: the special ones, and those like them."""
    marked = (t for t in tokenizer.get_added_vocab() if re.fullmatch(r"[<\[|◁].*[>\]|▷]", t))
    return _any_of({*tokenizer.all_special_tokens, *marked})


def _any_of(tokens: Iterable[str]) -> "re.Pattern[str] | None":
    # One that a space cannot break, or that breaking makes anew, is left as it is.
    texts = sorted((t for t in tokens if len(t) > 1 and " " not in t), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None
