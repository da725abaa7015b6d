"""What a turn leaves to the next."""

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.retrieval import turns
from pipeline.retrieval.scoring import Ends, RankEnds


def test_the_vector_is_the_query_before_its_increment():
    one = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.manual_seed(0)), dim=1)
    torch.testing.assert_close(turns.fused(Ends(one, one)), one)
    other = torch.zeros_like(one)
    torch.testing.assert_close(turns.fused(RankEnds(other, one, 0.1, 0.1)), one)


def test_a_turn_whose_edits_failed_keeps_its_captions():
    vector = torch.ones(2)
    first = turns.carried(["a", "b"], vector, ["red", None, "red", "blue"], None)
    assert (first.image, first.captions) == ("a", ("red", "blue"))
    assert turns.carried([], vector, [None, None], first).captions == ("red", "blue")
    assert turns.carried([], vector, [], None).image is None


def test_states_go_with_what_methods_read():
    assert turns.possible("image+text") == ["given", "image", "query"]
    assert turns.possible("composer") == ["given", "image", "query"]
    assert turns.possible("seize") == ["given", "image", "caption"]
    assert turns.possible("joint") == ["given", "image"]
    assert turns.possible("lincir") == ["given", "image", "query"]
    for looking in ("joint", "fti4cir", "seize+joint"):
        assert turns.possible(looking) == ["given", "image"]
        for state in ("query", "caption"):
            with pytest.raises(ConfigError, match="looks at the image itself"):
                turns.check(looking, state)
    for told in ("planned", "seize+roles"):  # what an LLM says of the first image's captions
        assert turns.possible(told) == ["given", "image"]
        with pytest.raises(ConfigError, match=r"reads (desired|retrievals).* captions alone"):
            turns.check(told, "caption")
    with pytest.raises(ConfigError, match="reads captions, which a query's vector has none of"):
        turns.check("seize", "query")
    with pytest.raises(ConfigError, match="There is no state 'imge'"):
        turns.check("seize", "imge")
