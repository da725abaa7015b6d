"""Textual inversion: one text feature a query, and SEIZE's increment on it."""

from pipeline.retrieval.methods.base import Clues, method, same
from pipeline.retrieval.methods.increment import NEEDS, Increment, incremented
from pipeline.retrieval.scoring import Score


@method("lincir", ("lincir",))
def lincir(clues: Clues) -> Score:
    """The reference image as a pseudo-word, by a φ that was trained from texts alone.

    LinCIR (Gu et al., CVPR 2024, arXiv 2312.01998); needs neither captioner nor LLM.
    """
    return same(clues.vectors("lincir"))


@method("searle", ("searle",))
def searle(clues: Clues) -> Score:
    """The reference image as a pseudo-word, by a φ that was distilled from optimised ones.

    SEARLE (Baldrati et al., ICCV 2023, arXiv 2303.15247); needs neither captioner nor LLM.
    """
    return same(clues.vectors("searle"))


@method("pic2word", ("pic2word",))
def pic2word(clues: Clues) -> Score:
    """The reference image as a pseudo-word, by a network that was trained on images alone.

    Pic2Word (Saito et al., CVPR 2023, arXiv 2302.03084); needs neither captioner nor LLM.
    """
    return same(clues.vectors("pic2word"))


@method("fti4cir", ("fti4cir",))
def fti4cir(clues: Clues) -> Score:
    """The reference image as a pseudo-word of its subject and several of its attributes.

    FTI4CIR (Lin et al., SIGIR 2024); needs neither captioner nor LLM.
    """
    return same(clues.vectors("fti4cir"))


@method("seize+lincir", (*NEEDS, "lincir"), (Increment,))
def seize_lincir(clues: Clues, increment: Increment) -> Score:
    """SEIZE's increment on LinCIR's query."""
    return incremented(clues, increment, clues.vectors("lincir"))
