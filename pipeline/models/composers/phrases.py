"""The entities that a text names: what the ``entities`` head looks at beside the whole text."""

import re

from pipeline.models.inversion.corpus import content_words

ARTICLE = re.compile(r"^(an?|the)(\s+|$)")

MOST = 12
"""Entities of a text; what a longer one names behind them is left to the whole text's feature."""


def entities(*texts: str) -> list[str]:
    """Return the phrases of texts between function words and marks, each once, in order.

    "has a red star and no circles" names "red star" and "circles". Nothing is installed for it,
    where FineCIR parses scene graphs.
    """
    spans = [(text, *span) for text in texts for span in content_words(text)]
    found = (ARTICLE.sub("", text[start:end].lower()) for text, start, end in spans)
    return list(dict.fromkeys(phrase for phrase in found if phrase))[:MOST]
