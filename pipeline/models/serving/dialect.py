"""How chat servers differ: what a response holds, and which parameters a server takes.

The protocol is OpenAI's ``/chat/completions``; vLLM, SGLang, llama.cpp, Ollama, LiteLLM and hosted
servers each take and give a little more or less of it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline import nesting
from pipeline.models.answers import muses, without_thoughts
from pipeline.models.serving import responses
from pipeline.models.serving.responses import ODD
from pipeline.run import log

ROOM = 2048
"""Tokens that a thought may take, beside the answer's own, where it cannot be switched off."""

FEW_LOGPROBS = 5
"""Alternatives of a token that are asked for where a server refuses to give more."""

_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
_TEXT_PARTS = ("text", "output_text")

_PARAMETERS = {
    "chat_template_kwargs": r"chat_template(?:_kwargs)?|enable_thinking",
    "seed": r"seed",
    "stop": r"stop(?:[ _](?:sequence|word|string)s?)?",
    "response_format": r"response_format|json[_ ]schema|guided_\w+|structured[_ ]outputs?|grammar",
    "top_logprobs": r"(?:top_|sample )?log_?probs?|log[- ]probabilit\w+",
    "logprobs": r"log_?probs?|log[- ]probabilit\w+",
    "temperature": r"temperature",
    "top_p": r"top_p",
}
"""What can be left out of a request, and by which words a server refuses it."""
_COMPLAINT = re.compile(
    r"support|n[o']t |unrecogni|unknown|unexpected|extra|forbidden|invalid|illegal|unavailable"
    r"|disabled|refuse|require|must|greater|at most|cannot|too (?:many|large)|deprecated|only",
    re.IGNORECASE,
)
_SYSTEM_ROLE = re.compile(
    r"\bsystem\b.{0,30}\b(?:role|message|prompt|instruction)|\brole\b.{0,40}\bsystem\b"
    r"|does not support ['\"]system|developer instruction|roles must alternate",
    re.IGNORECASE,
)
_NO_MONEY = re.compile(
    r"insufficient[_ ](?:quota|balance|funds|credits?)\b|(?<!load )\bbalance\b", re.IGNORECASE
)
_QUOTA = re.compile(r"quota|billing", re.IGNORECASE)
_RATE = re.compile(
    r"retry (?:in|after)|try again|rate.?limit|per[ _-]?(?:second|minute|hour)", re.IGNORECASE
)


class Reply(NamedTuple):
    """What a chat completion holds."""

    texts: tuple[str, ...]
    """One a choice. A thought that the server keeps apart is only there, as one that is cut off,
    where it gives no answer."""
    truncated: bool
    """Whether a text was cut off at ``max_tokens``."""
    first_token: Mapping[str, float] | None
    """Log-probabilities of the first text's first token behind the thought; empty where there is
    none, None where the server gives none at all."""
    tokens: int
    """Tokens of prompt and texts, as the server counts them; 0 where it does not tell."""
    thought: bool
    """Whether the model thought before it answered."""
    content: Any = None
    """What an endpoint answers that is no text, such as a vector."""


def parse(content: bytes) -> Reply:
    """Return what a response's body holds; raises ValueError where it is no chat completion."""
    words = "the answer was no chat completion"
    try:
        parsed = nesting.loads(content)
        if isinstance(parsed, dict) and parsed.get("error"):  # some say so with HTTP 200
            words = f"the answer was an error: {complaint(content)[:300]}"
        choices = parsed["choices"]
        messages = [choice["message"] for choice in choices]
        # Escapes can make halves of surrogate pairs, which no file could hold.
        texts = tuple(_text(message).encode(errors="replace").decode() for message in messages)
        thought = any(
            _thought(m) or without_thoughts(t) != t.strip()
            for m, t in zip(messages, texts, strict=True)
        )
        first_token = _first_token(choices[0], texts[0], thought)
        tokens = responses.count((parsed.get("usage") or {}).get("total_tokens"))
        truncated = any(choice.get("finish_reason") == "length" for choice in choices)
    except ODD:
        raise ValueError(words) from None
    return Reply(texts, truncated, first_token, tokens, thought)


def _text(message: dict[str, Any]) -> str:
    """Return a message's text; raises TypeError or KeyError where it has none of any shape."""
    thought = _thought(message)
    content = message.get("content") if thought or "refusal" in message else message["content"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") in _TEXT_PARTS)
    content = content or ""
    if not isinstance(content, str):
        raise TypeError("a content that is no text")
    if content.strip():
        return content
    return f"<think>{thought}" if thought else str(message.get("refusal") or "")


def _thought(message: dict[str, Any]) -> str:
    """Return the thought that a message keeps apart from its text."""
    for name in _THOUGHT_FIELDS:
        if isinstance(value := message.get(name), str) and value.strip():
            return value
    content = message.get("content")
    apart = content if isinstance(content, list) else []
    return " ".join(json.dumps(part) for part in apart if part.get("type") not in _TEXT_PARTS)


def _first_token(choice: dict[str, Any], text: str, thought: bool) -> dict[str, float] | None:
    """Return the log-probabilities of the answer's first token and of its alternatives."""
    listed = (choice.get("logprobs") or {}).get("content")
    if not listed:
        return None
    place = _answers_at([one["token"] for one in listed], text) if thought else 0
    if place is None:
        return {}
    first = listed[place]
    alternatives = [first, *(first.get("top_logprobs") or [])]
    return {one["token"]: float(one["logprob"]) for one in alternatives}


def _answers_at(tokens: list[str], text: str) -> int | None:
    """Return the number of the token with which the answer behind a thought begins."""
    answer = without_thoughts(text)
    start = "".join(tokens).rfind(answer) if answer else -1
    length = 0
    for number, token in enumerate(tokens):
        length += len(token)
        if 0 <= start < length:
            return number
    return None


def merged(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return chat messages with the system turn put before the first user's text."""
    system = [m["content"] for m in messages if m["role"] == "system"]
    others = [m for m in messages if m["role"] != "system"]
    if not system or not others:
        return messages
    first, *rest = others
    content = first["content"]
    if isinstance(content, str):
        content = "\n\n".join([*system, content])
    else:
        content = [*({"type": "text", "text": text} for text in system), *content]
    return [{**first, "content": content}, *rest]


def complaint(content: bytes) -> str:
    """Return all that an error's body says about the request, without what it repeats of it."""
    text = content.decode(errors="replace")
    try:
        parsed = nesting.loads(text)
        error = parsed.get("error") or parsed
        detail = parsed.get("detail")
        fields = [error] if isinstance(error, dict) else []
        fields += (
            [one for one in detail if isinstance(one, dict)] if isinstance(detail, list) else []
        )
        said = [error if isinstance(error, str) else "", detail if isinstance(detail, str) else ""]
        said += [
            " ".join(map(str, value)) if isinstance(value, list) else str(value)
            for one in fields
            for name in ("message", "msg", "param", "code", "type", "loc")
            if (value := one.get(name))
        ]
        text = " ".join(said)
    except ODD:
        pass
    return " ".join(text[:10_000].split())


def out_of_money(status: int, said: str) -> bool:
    """Whether a server refuses every request because nobody pays for them."""
    if status == 402:
        return True
    if status not in (403, 429):
        return False
    if _NO_MONEY.search(said):
        return True
    return status == 429 and bool(_QUOTA.search(said)) and not _RATE.search(said)


def refuses_system(said: str) -> bool:
    """Whether a server's template takes no system turn; some say so as if it was their fault."""
    return bool(_SYSTEM_ROLE.search(said))


@dataclass
class Manner:
    """How a model is asked, whichever of its servers answers."""

    thinking: bool = False
    """Whether it is to think; else that is switched off where its template allows it."""
    room: int = ROOM
    """Tokens given to a thought, beside the answer's own."""
    notes: list[str] = field(default_factory=list)
    """What its servers do not take, in words."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What a request says about thinking: names that templates know; others ignore them."""
        names = ("enable_thinking", "thinking")
        return {"chat_template_kwargs": dict.fromkeys(names, self.thinking)}


class Dialect:
    """What one server takes, learnt from what it refuses; each is asked anew only once."""

    def __init__(self, url: str, manner: Manner) -> None:
        self.url = url
        self.manner = manner
        self.thinks = manner.thinking
        """Whether every request needs room for a thought."""
        self._left_out: set[str] = set()
        self._few_logprobs = False
        self._merges_system = False
        self._renames_limit = False

    def body(self, asked: Mapping[str, Any], roomy: bool) -> dict[str, Any]:
        """Return the body to send for a request; ``roomy``: with room for a thought."""
        body = {name: value for name, value in asked.items() if name not in self._left_out}
        if self._merges_system:
            body["messages"] = merged(body["messages"])
        if self._few_logprobs and "top_logprobs" in body:
            body["top_logprobs"] = min(body["top_logprobs"], FEW_LOGPROBS)
        if roomy and "max_tokens" in body:
            body["max_tokens"] += self.manner.room
            body.pop("stop", None)  # it would end the thought; answers are cut behind it
        if self._renames_limit and "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
        return body

    def learns(
        self, asked: Mapping[str, Any], sent: Mapping[str, Any], roomy: bool, said: str
    ) -> bool:
        """Learn from a refusal in the words of ``complaint``; return whether to ask again."""
        if refuses_system(said) and any(m["role"] == "system" for m in sent["messages"]):
            if not self._merges_system:
                self._note("the system role", said, "it is merged into the user's turn")
            self._merges_system = True
        elif "max_tokens" in sent and "max_completion_tokens" in said:
            self._renames_limit = True
        elif (name := _refused(sent, said)) is not None:
            if sent.get("top_logprobs", 0) > FEW_LOGPROBS and name == "top_logprobs":
                self._few_logprobs = True
            else:
                self._leave_out(name, said)
        return self.body(asked, roomy) != sent

    def needs_room(self, reply: Reply, roomy: bool) -> bool:
        """Return whether to ask again with room for a thought, and remember it for this server."""
        cut_off = any(without_thoughts(text) is None for text in reply.texts)
        if roomy:
            if reply.thought and not self.thinks:
                self._thinks()
            return False
        if cut_off:
            self._thinks()
            if not reply.truncated:  # some parsers take an answer without a thought for one
                self._left_out.add("chat_template_kwargs")
        return cut_off or (reply.truncated and any(map(muses, reply.texts)))

    def _thinks(self) -> None:
        if not self.thinks:
            self._note(
                "to answer without thinking", "", f"thoughts get {self.manner.room:,} tokens more"
            )
        self.thinks = True

    def _leave_out(self, name: str, said: str) -> None:
        if name not in self._left_out:
            self._note(name, said, "it is left out from now on")
        self._left_out.add(name)

    def _note(self, what: str, said: str, instead: str) -> None:
        reason = f" ({said[:200]})" if said else ""
        note = f"The server at {self.url} refuses {what}{reason}; {instead}."
        self.manner.notes.append(note)
        log.warning("%s", note)


def _refused(sent: Mapping[str, Any], said: str) -> str | None:
    """Return the parameter that a server's words refuse, None where they name none."""
    if not _COMPLAINT.search(said):
        return None
    for name, words in _PARAMETERS.items():
        if name in sent and re.search(rf"(?<!\w)(?:{words})(?!\w)", said, re.IGNORECASE):
            return name
    return None
