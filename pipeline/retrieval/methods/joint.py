"""Joint embedding: image and text in one vector, and SEIZE's increment on it."""

from pipeline.retrieval.methods.base import Clues, method, same
from pipeline.retrieval.methods.increment import NEEDS, Increment, incremented
from pipeline.retrieval.scoring import Score


@method("joint", ("joint",))
def joint(clues: Clues) -> Score:
    """Reference image and relative caption in one vector, by an encoder trained for it.

    Universal multimodal embedders (VLM2Vec, GME, Qwen3-VL-Embedding); needs an encoder that embeds
    an image with a text, and neither captioner nor LLM.
    """
    return same(clues.vectors("joint"))


@method("seize+joint", (*NEEDS, "joint"), (Increment,))
def seize_joint(clues: Clues, increment: Increment) -> Score:
    """SEIZE's increment on the joint embedder's query."""
    return incremented(clues, increment, clues.vectors("joint"))
