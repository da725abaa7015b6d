"""What a query carries of the turn before it."""

import base64

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.pages.questions import Question, text_of, vector_of


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40).filter(any))
def test_a_vector_comes_back_as_it_went(numbers: list[float]) -> None:
    vector = torch.tensor(numbers, dtype=torch.float64)
    unit = vector / vector.norm()
    torch.testing.assert_close(vector_of(text_of(unit)).double(), unit, atol=1e-6, rtol=0)


def packed(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


@pytest.mark.parametrize(
    "text",
    ["", "äöü", "AAA", "AAAA", packed(0, 0), packed(np.nan, 1), packed(np.inf, 1), packed(1) + "!"],
)
def test_what_is_no_vector_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="ask the turn before again"):
        vector_of(text)


def test_a_query_begins_with_its_image_unless_it_says_so() -> None:
    lines = " a dog \n\na cat\na dog"
    assert Question(vector=packed(1), carried_captions=lines).left("seize") is None
    left = Question(state="caption", vector=packed(3, 4), carried_captions=lines).left("seize")
    assert left is not None
    assert left.captions == ("a dog", "a cat")
    assert left.vector.tolist() == pytest.approx([0.6, 0.8])
    with pytest.raises(InputError, match="ask the turn before again"):
        Question(state="query").left("image+text")
    with pytest.raises(InputError, match="by the method seize: choose image or caption"):
        Question(state="query", vector=packed(1)).left("seize")
    with pytest.raises(InputError, match="by the method joint: choose image, or another"):
        Question(state="query", vector=packed(1)).left("joint")
