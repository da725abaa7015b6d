"""Keywords by a real spaCy pipeline, trained here in seconds: the published one is not at hand."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.models.inversion import corpus
from pipeline.recipes.lincir import Settings

spacy = pytest.importorskip("spacy", reason="spaCy is an extra")

TAGGED = [
    ("a red star and two blue hearts", "DET ADJ NOUN CCONJ NUM ADJ NOUN"),
    ("the dog runs on grass", "DET NOUN VERB ADP NOUN"),
    ("two cats sit on the old sofa", "NUM NOUN VERB ADP DET ADJ NOUN"),
    ("a blue dog and the red hearts", "DET ADJ NOUN CCONJ DET ADJ NOUN"),
    ("the star sits on a sofa", "DET NOUN VERB ADP DET NOUN"),
]


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with a morphologizer, trained until it knows these sentences, in a folder."""
    from spacy.tokens import Doc
    from spacy.training import Example

    language: Any = spacy.blank("en")
    language.meta["name"] = "tiny"
    language.add_pipe("morphologizer")
    examples = []
    for text, tags in TAGGED:
        words = text.split()
        told = Doc(language.vocab, words=words, pos=tags.split())
        examples.append(Example(language.make_doc(text), told))
    optimizer = language.initialize(lambda: examples)
    for _ in range(40):
        language.update(examples, sgd=optimizer)
    folder = tmp_path_factory.mktemp("spacy") / "tiny"
    language.to_disk(folder)
    return folder


def test_keywords_are_runs_of_nouns_adjectives_and_determiners(tagger: Path) -> None:
    name, find = corpus.masker(f"spacy:{tagger}")
    assert name == "spacy tiny 0.0.0"
    text = TAGGED[0][0]
    assert [text[a:b] for a, b in find(text)] == ["a red star", "blue hearts"]
    text = TAGGED[1][0]
    assert [text[a:b] for a, b in find(text)] == ["the dog", "grass"]


def test_a_captions_subject_ends_with_the_first_noun(tagger: Path) -> None:
    name, split = corpus.splitter(f"spacy:{tagger}")
    assert name == "spacy tiny 0.0.0"
    assert split(TAGGED[2][0]) == ("two cats", "sit on the old sofa")
    assert split(TAGGED[0][0]) == ("a red star", "and two blue hearts")


def test_a_pipeline_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    blank: Any = spacy.blank("en")
    blank.to_disk(tmp_path / "blank")
    with pytest.raises(ConfigError, match="tags no parts of speech"):
        corpus.masker(f"spacy:{tmp_path / 'blank'}")
    with pytest.raises(ConfigError, match="cannot load the pipeline"):
        corpus.masker("spacy:/nowhere")


def test_without_a_pipeline_the_fallback_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "SPACY", "no_such_pipeline")
    assert corpus.masker("auto") == ("words", corpus.content_words)
    assert corpus.splitter("auto")[0] == "words"
    with pytest.raises(ConfigError, match="masking words"):
        corpus.masker("spacy")


def test_the_command_trains_with_a_pipeline_of_a_folder(tagger: Path, tmp_path: Path) -> None:
    from tests.integration.test_train import TEXTS, lincir, told

    result = lincir(tmp_path, "--masking", f"spacy:{tagger}")
    assert result.exit_code == 0, result.output
    configuration = told(tmp_path / "phi.safetensors")
    assert configuration["masking"] == "spacy tiny 0.0.0"
    assert configuration["texts"] == len(TEXTS)
    assert Settings(masking=f"spacy:{tagger}").masking
