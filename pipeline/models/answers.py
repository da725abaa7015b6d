"""What an LLM's answer says, without its thoughts, its chatter and marks that it left in.

Everything here takes time linear in the answer: a looping model makes odd ones.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline import nesting

LONGEST = 200_000
"""Characters of an answer that are looked at."""

CUT_OFF = "the answer was cut off while thinking"
EMPTY = "the answer was empty"
CHATTER = "the answer cannot be told from chatter"

_KINDS = "think|thinking|thoughts?|reason|reasoning|analysis|reflection|scratchpad"
_MARK = re.compile(
    # <think>, <seed:think>, [THINK] (Mistral), a lozenge (Kimi)
    rf"(?:<|◁|\[(?=/?THINK\]))(?P<end>/?)(?:\w{{1,20}}:)?(?P<kind>{_KINDS})(?:>|▷|\])"
    # <|START_THINKING|> (Command A), <|end_of_thought|> (OpenThinker)
    rf"|<\|(?P<edge>start|begin|end)_(?:of_)?(?P<name>{_KINDS})\|>"
    # <|channel>thought … <channel|> (Gemma 4)
    r"|(?P<opening><\|channel>thought)|(?P<closing><channel\|>)",
    re.IGNORECASE,
)
_CHANNEL = re.compile(
    r"<\|channel\|>\s{0,9}(\w{1,20})[^<]{0,80}(?:<\|\w{1,20}\|>[^<]{0,80})?<\|message\|>"
)
"""Where gpt-oss begins a message: in channel ``analysis`` it thinks, in ``final`` it answers."""
_CHANNEL_TOKENS = {"<|channel|>", "<|message|>", "<|channel>", "<channel|>"}
_BARE_CHANNEL = re.compile(r"\s*analysis(?=[A-Z\"“'])")
"""The same where special tokens were dropped: ``analysisThe user … assistantfinalA dog``."""
_TOKEN = re.compile(
    r"<[|｜][^<>|｜\s]{1,40}[|｜]>|</?s>|<(?:end_of_turn|start_of_turn|eos|bos|pad)>|\[/?INST\]"
    r"|</?(?:answer|output|response|solution|final)>"
)
_ROLES = {"assistant", "model", "user", "system", "bot"}

_AROUND = "\"'“”‘’`*_ \t"
"""What stands around a text and is no part of it."""
_BULLET = re.compile(r"(?:[-•>]|\*(?!\*)|#{1,6})\s+")
_OPENER = re.compile(
    r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|alright|no problem|yes)"
    r"(?:\s?[!,.:]+|$)\s*",
    re.IGNORECASE,
)
_ADJECTIVES = (
    "a|an|the|my|your|one|possible|short|simple|concise|brief|edited|new|modified|updated|revised"
    "|resulting|final|target|image|image's"
)
_NOUNS = "description|caption|answer|output|result|response|edit|version"
_INTRODUCTION = re.compile(
    r"(?:(?:here(?:['’]s| is| are)|below is|this is|(?:based on|given|after|following|applying)\b"
    rf"[^:]{{0,120}}[, ])\s*)?(?:(?:{_ADJECTIVES})\s+)*(?:{_NOUNS})s?\b"
    r"(?:[^:]{0,80}:[\s*_]*|[\s*_]*$)",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"here (?:you (?:go|are)|it is|goes)\b.{0,40}$|(?:i hope this helps|let me know)\b",
    re.IGNORECASE,
)
_MUSING = re.compile(
    r"(?:(?:okay|ok|alright|hmm+|wait|so|well|now|first|next),?\s+"
    r"(?:i|i['’]\w+|we|let|let['’]s|the (?:user|image content|instruction|task|question))"
    r"|hmm+|let(?:['’]s| me| us)|we (?:need|have|are|should|must|can|want)|as an ai"
    r"|i(?:['’](?:m|ll|ve|d)| need| will| can| cannot| can['’]t| would| should| must| have| am| was"
    r"| think| apologi[sz]e| understand| don['’]t| do not)|sorry,|unfortunately,|the user"
    r"|the (?:question|task|instruction|prompt|user) (?:is|asks|says|wants|requires)"
    r"|to (?:edit|generate|create|solve|answer) (?:the|this)|please provide|thank you for"
    r"|you (?:want|asked|provided|would like|have asked))\b",
    re.IGNORECASE,
)
"""How one begins who speaks about the task: a thought without marks, a question, a refusal."""
_FIRST_WORD = re.compile(r"(?:okay|ok|alright|hmm+|so|first|let|we|i)\W*$", re.IGNORECASE)


class Reading(NamedTuple):
    """The text that an answer gives, or "" and why there is none."""

    text: str
    reason: str | None = None
    ended: bool = True
    """Whether more followed the text, so that it is whole though the answer was cut off."""


def read(answer: str, label: str = "") -> Reading:
    """Return the first line of what ``answer`` says, without label, preamble, quotes and Markdown.

    Where the answer repeats the question first, what follows the last ``label`` counts. An answer
    that speaks about the task, and has no label, is none.
    """
    thought_through = without_thoughts(answer)
    if thought_through is None:
        return Reading("", CUT_OFF)
    said, stopped = _without_tokens(thought_through)
    if not said:
        return Reading("", EMPTY)
    if (quoted := _only_value(said)) is not None:
        return Reading(quoted.strip(_AROUND), None if quoted.strip(_AROUND) else EMPTY)
    lines, labelled = _after_label(said.splitlines(), label)
    lines = [line.strip() for line in lines if line.strip()]
    for place, line in enumerate(lines):
        text = line if labelled and place == 0 else _without_preamble(line)
        if text is None or not text.strip(_AROUND):
            continue
        if not labelled and _MUSING.match(text):
            return Reading("", CHATTER)
        return Reading(text.strip(_AROUND), None, stopped or place + 1 < len(lines))
    return Reading("", CHATTER if lines else EMPTY)


def without_thoughts(answer: str) -> str | None:
    """Return what an answer says beside its thoughts; None where it ends within one.

    Thoughts may be nested. A closing mark alone ends one that the chat template had opened.
    """
    text = answer[:LONGEST]
    channels = list(_CHANNEL.finditer(text))
    if channels:
        final = channels[-1][1].casefold() == "final"
        return text[channels[-1].end() :].strip() if final else None
    if "<|channel|>" in text:
        return None
    if _BARE_CHANNEL.match(text):
        _, found, after = text.rpartition("assistantfinal")
        return after.strip() if found else None
    return _outside(text)


def json_object(text: str) -> Any:
    """Return the JSON between an answer's first and last brace, whatever stands around it.

    Raises ValueError where there is none.
    """
    return nesting.loads(text[text.index("{") : text.rindex("}") + 1])


def object_schema(**fields: Any) -> dict[str, Any]:
    """Return the JSON schema of an object that has exactly these fields, each with its schema."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def _outside(text: str) -> str | None:
    """Return the text behind the last thought, or before it where nothing follows."""
    opened: list[str] = []
    depth: Counter[str] = Counter()
    outside: list[str] = []
    start = 0
    for mark in _MARK.finditer(text):
        kind, opens = _kind(mark)
        if not opened:
            outside.append(text[start : mark.start()])
        start = mark.end()
        if opens:
            opened.append(kind)
            depth[kind] += 1
        elif depth[kind]:
            while (last := opened.pop()) != kind:
                depth[last] -= 1
            depth[kind] -= 1
        elif not opened:
            outside.clear()
    if opened:
        return None
    said = [part for part in (*outside, text[start:]) if part.strip()]
    return said[-1].strip() if said else ""


def _kind(mark: re.Match[str]) -> tuple[str, bool]:
    """Return what a mark is about, and whether it opens a thought."""
    if mark["opening"] or mark["closing"]:
        return "channel", bool(mark["opening"])
    kind = (mark["kind"] or mark["name"]).casefold()
    return kind, not (mark["end"] or (mark["edge"] or "").casefold() == "end")


def open_thought(prompt: str) -> str:
    """Return the mark by which a rendered prompt ends within a thought, "" where it does not."""
    tail = prompt[-100:].rstrip()
    marks = [mark for mark in _MARK.finditer(tail) if mark.end() == len(tail)]
    return marks[-1][0] if marks and _kind(marks[-1])[1] else ""


def closing(mark: str) -> str:
    """Return the mark that ends a thought which ``mark`` opened."""
    if mark.casefold().startswith("<|channel>"):
        return "<channel|>"
    if mark.startswith("<|"):
        return re.sub(
            "start|begin",
            lambda edge: "END" if edge[0].isupper() else "end",
            mark,
            count=1,
            flags=re.IGNORECASE,
        )
    return f"{mark[0]}/{mark[1:]}"


def is_mark(token: str) -> bool:
    """Whether a token tells thoughts from answers, so that it may not be dropped."""
    return bool(_MARK.fullmatch(token)) or token in _CHANNEL_TOKENS


def muses(answer: str) -> bool:
    """Whether an answer begins like a thought whose marks the server dropped or never had."""
    text = answer[:LONGEST].strip()
    return bool(_FIRST_WORD.match(text) or _MUSING.match(text) or _MUSING.match(_opened(text)))


def cut(answer: str, stops: Sequence[str]) -> str:
    """Return an answer up to the first of ``stops`` that stands behind its thoughts."""
    said = without_thoughts(answer)
    if said is None or not any(stop in said for stop in stops):
        return answer
    for stop in stops:
        said = said.split(stop, 1)[0]
    return said


def _without_tokens(text: str) -> tuple[str, bool]:
    """Return the text up to the first special token after it, and whether there is one."""
    start = 0
    for token in _TOKEN.finditer(text):
        if part := _without_role(text[start : token.start()]):
            return part, True
        start = token.end()
    return _without_role(text[start:]), False


def _without_role(part: str) -> str:
    """Return the text of a turn without the name of who speaks in it."""
    first, _, rest = part.strip().partition("\n")
    return rest.strip() if first.strip().casefold() in _ROLES else part.strip()


def _only_value(said: str) -> str | None:
    """Return the one text of an answer that is a JSON object, None where it is anything else."""
    bare = said.removeprefix("```json").strip("`\n\t ")
    if not bare.startswith("{"):
        return None
    try:
        found = nesting.loads(bare)
    except ValueError:
        return None
    texts = [value for value in found.values() if isinstance(value, str)]
    return texts[0] if len(texts) == 1 else None


def _after_label(lines: list[str], label: str) -> tuple[list[str], bool]:
    """Return the lines behind the last label, and whether there is one with something behind it."""
    name = label.strip().rstrip(":")
    if not name:
        return lines, False
    pattern = re.compile(re.escape(name), re.IGNORECASE)
    found = None
    bare = []
    for number, line in enumerate(lines):
        ends = list(_labels(pattern, line))
        if ends:
            found = number, ends[-1]
        leading = ends[0] if ends and not re.search(r"\w", line[: ends[0] - len(name)]) else 0
        bare.append(line[leading:].lstrip(_AROUND + ":") if leading else line)
    if found is None:
        return lines, False
    number, end = found
    after = [lines[number][end:].lstrip(_AROUND + ":"), *lines[number + 1 :]]
    after = [line for line in after if line.strip(_AROUND)]
    return (after, True) if after else (bare, False)


def _labels(pattern: re.Pattern[str], line: str) -> list[int]:
    """Return where labels end in a line: one that begins it, or one that a colon follows."""
    ends = []
    for place, match in enumerate(pattern.finditer(line)):
        begins = place == 0 and not re.search(r"\w", line[: match.start()])
        if begins or re.match(r"[\s*_\"'`]{0,4}:", line[match.end() : match.end() + 5]):
            ends.append(match.end())
    return ends


def _without_preamble(line: str) -> str | None:
    """Return a line without what only announces an answer; None where it is nothing else."""
    bullet = _BULLET.match(line)
    text = line[bullet.end() :] if bullet else line
    if set(text) <= set("`~-=*_# ") or re.fullmatch(r"(?:```|~~~)\w*", text):
        return None
    opened = _opened(text.lstrip(_AROUND))
    if not opened or _FILLER.match(opened):
        return None
    head = opened[:300]
    introduction = _INTRODUCTION.match(head)
    if introduction is None:
        return opened if opened != text.lstrip(_AROUND) else text
    return opened[introduction.end() :] or None


def _opened(text: str) -> str:
    """Return a text without an interjection that begins it."""
    opener = _OPENER.match(text)
    return text[opener.end() :] if opener else text
