"""Texts that φ is trained from: read from files of others, and masked where they say what is seen.

A keyword is what a picture could show: with spaCy's ``en_core_web_sm`` a run of nouns, proper
nouns, adjectives and determiners, as LinCIR has it; without it a run of words that are in no small
list of function words. Keywords are matched as whole words, not inside others.
"""

import codecs
import functools
import importlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import ConfigError, InputError
from pipeline.store.identity import fingerprint

LONGEST_LINE = 1 << 20
"""Bytes of a line; longer ones are left out without being held in memory."""
LONGEST_TEXT = 2_000
"""Characters of a text: no encoder reads more."""
JSON_ENDINGS = (".jsonl", ".ndjson")

SPACY = "en_core_web_sm"
"""The pipeline that LinCIR tags with."""
Pair = tuple[str, str]
"""Subject and attributes of a caption."""
Spans = list[tuple[int, int]]
"""Where keywords begin and end in a text, rising."""

WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_FUNCTION_WORDS = """
    about above across after against along also am among and are around as at away back be because
    been before behind being below beneath beside between beyond but by can could did do does
    during each for from had has have having he her hers him his how i if in inside into is it its
    just like me more my near next no not of off on onto or our out outside over own she should so
    some such than that their them then there these they this those through to together too toward
    towards under until up upon us very was we were what when where which while who whose will with
    within without would you your left right top bottom
    """
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that no picture shows by themselves: they stay where there is no tagger."""
TAGS = {"NOUN", "PROPN", "ADJ", "DET"}
"""spaCy's tags of what LinCIR masks."""


@dataclass
class Corpus:
    """Texts to train from, and what of their file was left out, counted by its kind."""

    texts: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def identity(self) -> str:
        """A fingerprint of the texts in their order."""
        return fingerprint(self.texts)


def read(file: Path) -> Corpus:
    """Return the texts of a file: one a line, or JSON lines with ``text`` or ``captions``.

    A caption stage's file is of the second kind. Empty lines, lines that are no UTF-8 or too long,
    and records without a text are counted. Raises InputError for a file that cannot be read, is of
    another encoding, or holds no text at all.
    """
    if not file.is_file():
        raise InputError(f"{file} is no file of texts.")
    corpus = Corpus()
    of_line = _of_json if file.suffix in JSON_ENDINGS else _of_text
    try:
        with file.open("rb") as stream:
            _check_encoding(file, stream.read(4))
            stream.seek(0)
            for line in _lines(stream, corpus):
                try:
                    texts = of_line(line.decode("utf-8-sig"))
                except UnicodeDecodeError:
                    corpus.left_out["not UTF-8"] += 1
                    continue
                except (ValueError, RecursionError):
                    corpus.left_out["no JSON"] += 1
                    continue
                for text in texts:
                    _add(corpus, text)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None
    if not corpus.texts or corpus.left_out["not UTF-8"] > len(corpus.texts):
        raise InputError(
            f"{file} holds {len(corpus.texts):,} texts that can be used ({said(corpus.left_out)}). "
            "Give UTF-8 with one text a line, or JSON lines with `text` or `captions` "
            f"({', '.join(JSON_ENDINGS)})."
        )
    return corpus


def said(left_out: Counter[str]) -> str:
    """Return what was left out in words."""
    return ", ".join(f"{count:,} {kind}" for kind, count in left_out.items()) or "nothing left out"


def _check_encoding(file: Path, start: bytes) -> None:
    for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if start.startswith(mark):
            raise InputError(
                f"{file} is UTF-16, not UTF-8. Convert it: iconv -f utf-16 -t utf-8 {file}"
            )


def _lines(stream: BinaryIO, corpus: Corpus) -> Iterator[bytes]:
    while line := stream.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(LONGEST_LINE)
            corpus.left_out["too long"] += 1
        else:
            yield line


def _of_text(line: str) -> list[Any]:
    return [line]


def _of_json(line: str) -> list[Any]:
    """Return the texts of a record; raises ValueError for no JSON."""
    if not line.strip():
        return [""]
    record = json.loads(line)
    if not isinstance(record, dict):
        return [None]
    if "header" in record:  # the first line of a stage's file
        return []
    texts = record.get("captions", record.get("text"))
    return texts if isinstance(texts, list) else [texts]


def _add(corpus: Corpus, text: Any) -> None:
    if not isinstance(text, str):
        corpus.left_out["without a text"] += 1
    elif len(text) > LONGEST_TEXT:
        corpus.left_out["too long"] += 1
    elif not (clean := " ".join(text.replace("<PERSON>", "person").lower().split())):
        corpus.left_out["empty"] += 1
    elif not WORD.search(clean):
        corpus.left_out["without a word"] += 1
    else:
        corpus.texts.append(clean)


def masker(kind: str) -> tuple[str, Callable[[str], Spans]]:
    """Return a way to find keywords and its name.

    ``words`` needs nothing; ``spacy`` tags with en_core_web_sm and ``spacy:PIPELINE`` with another
    one, installed or in a folder; ``auto`` takes spaCy where both are installed. Raises ConfigError
    for a pipeline that is not there or does not tag.
    """
    if kind == "words":
        return "words", content_words
    name = kind.partition(":")[2] or SPACY
    try:
        tagger = tagging(name)
    except ConfigError:
        if kind == "auto":
            return "words", content_words
        raise
    said = f"spacy {tagger.meta['name']} {tagger.meta['version']}"
    return said, lambda text: _tagged(tagger, text)


@functools.cache
def tagging(name: str = SPACY) -> Any:
    """Return spaCy's pipeline of that name or folder, which tags parts of speech.

    Raises ConfigError where spaCy or the pipeline is not there, or it sets no part of speech.
    """
    try:
        spacy: Any = importlib.import_module("spacy")  # an extra: nothing requires it
        tagger = spacy.load(name, exclude=["ner", "lemmatizer", "parser"])
    except ImportError:
        raise ConfigError(
            "spaCy is not installed. Run: pip install spacy; or leave it to --masking words."
        ) from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"spaCy cannot load the pipeline {name!r} ({reason}). Run: python -m spacy download "
            f"{SPACY}; or name a folder with spacy:FOLDER, or leave it to --masking words."
        ) from None
    if not any(token.pos_ for token in tagger("a red cat on the table")):
        raise ConfigError(
            f"The spaCy pipeline {name!r} tags no parts of speech. Give one with a tagger and an "
            "attribute ruler, or a morphologizer."
        )
    return tagger


def splitter(kind: str) -> tuple[str, Callable[[str], Pair | None]]:
    """Return a way to split a caption into subject and attributes, and its name; see ``masker``.

    FTI4CIR's subject ends with the first noun that spaCy tags; without spaCy it ends with the first
    run of words that are no function words. None stands for a caption of less than four words, or
    without a second part.
    """
    if kind != "words":
        try:
            tagger = tagging(kind.partition(":")[2] or SPACY)
        except ConfigError:
            if kind != "auto":
                raise
        else:
            meta = tagger.meta
            return f"spacy {meta['name']} {meta['version']}", lambda t: _split(t, _noun(tagger, t))
    return "words", lambda text: _split(text, [end for _, end in content_words(text.lower())])


def _noun(tagger: Any, text: str) -> list[int]:
    return [token.idx + len(token.text) for token in tagger(text) if token.pos_ == "NOUN"]


def _split(text: str, ends: list[int]) -> Pair | None:
    if not ends or len(text.split()) < 4:
        return None
    subject, attribute = text[: ends[0]].strip(), text[ends[0] :].strip(" ,.;")
    return (subject, attribute) if attribute else None


def _tagged(tagger: Any, text: str) -> Spans:
    spans: Spans = []
    before = None
    for token in tagger(text):
        if token.pos_ in TAGS:
            end = token.idx + len(token.text)
            if before is not None and spans:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((token.idx, end))
            before = token
        else:
            before = None
    return spans


def content_words(text: str) -> Spans:
    """Return runs of words that are no function words, with nothing but spaces between them."""
    spans: Spans = []
    for word in WORD.finditer(text):
        if word.group() in FUNCTION_WORDS:
            continue
        start, end = word.span()
        if spans and not text[spans[-1][1] : start].strip():
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def any_word(text: str, rng: random.Random) -> tuple[int, int]:
    """Return where a random word of ``text`` stands."""
    return rng.choice([word.span() for word in WORD.finditer(text)])


def masked(text: str, spans: Spans) -> list[str | None]:
    """Return ``text`` in pieces, None for each keyword, wherever one stands as whole words."""
    keywords = {text[start:end] for start, end in spans}
    found = {place for keyword in keywords for place in _places(text, keyword)}
    pieces: list[str | None] = []
    at = 0
    for start, end in sorted(found, key=lambda place: (place[0], -place[1])):
        if start >= at:  # of keywords that overlap the first, and the longest there
            pieces += [text[at:start], None]
            at = end
    pieces.append(text[at:])
    return [piece for piece in pieces if piece is None or piece.strip()]


def _places(text: str, keyword: str) -> Spans:
    """Return where a keyword stands as whole words: a pattern for each text would take longer."""
    places, start = [], text.find(keyword)
    while start >= 0:
        end = start + len(keyword)
        if not (_is_word(text[start - 1 : start]) or _is_word(text[end : end + 1])):
            places.append((start, end))
        start = text.find(keyword, start + 1)
    return places


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
