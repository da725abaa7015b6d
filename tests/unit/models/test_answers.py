"""What is taken for the edit in answers of models that think, chat and leave marks in."""

import time

import pytest

from pipeline.models import answers
from pipeline.models.answers import CHATTER, CUT_OFF, EMPTY, read

LABEL = "Edited Description:"

SAID = {
    "a dog on a sofa": [
        "a dog on a sofa",
        "<think>\nA dog? Yes.\n</think>\n\na dog on a sofa",
        "Okay, the user wants a dog.\n</think>\n\na dog on a sofa",
        "<think>a <think>b</think> c</think>a dog on a sofa",
        "<thinking>a<reflection>b</reflection>c</thinking>\na dog on a sofa",
        "<THOUGHT>a</THOUGHT> a dog on a sofa",
        "<reasoning>a</reasoning> a dog on a sofa",
        "<seed:think>a</seed:think>a dog on a sofa",
        "[THINK]a[/THINK]a dog on a sofa",
        "◁think▷a◁/think▷a dog on a sofa",
        "<|START_THINKING|>a<|END_THINKING|>a dog on a sofa",
        "<|begin_of_thought|>a<|end_of_thought|>\n<|begin_of_solution|>a dog on a sofa"
        "<|end_of_solution|>",
        "<|channel>thought\nHm.<channel|>a dog on a sofa",
        "<|channel|>analysis<|message|>A dog?<|end|><|start|>assistant<|channel|>final<|message|>"
        "a dog on a sofa<|return|>",
        "analysisThe user wants a dog.assistantfinala dog on a sofa",
        "<|im_start|>assistant\na dog on a sofa<|im_end|>",
        "a dog on a sofa<|im_end|>\n<|im_start|>user\nAnd now?",
        "<|start_header_id|>assistant<|end_header_id|>\n\na dog on a sofa<|eot_id|>",
        "a dog on a sofa</s>",
        "a dog on a sofa<｜end▁of▁sentence｜>",
        "<start_of_turn>model\na dog on a sofa<end_of_turn>",
        "<answer>a dog on a sofa</answer>",
        "Sure! Here is the edited description:\n\na dog on a sofa",
        "Sure! Here is the edited description: a dog on a sofa",
        'Here\'s the edited description:\n\n"a dog on a sofa"\n\nI hope this helps!',
        "Certainly! Here you go:\na dog on a sofa",
        "Certainly!\n\na dog on a sofa",
        "Based on the instruction, the edited description is:\n\na dog on a sofa",
        "The edited description would be: a dog on a sofa",
        "Answer: a dog on a sofa",
        "**Edited Description:** a dog on a sofa",
        "**Edited Description**: **a dog on a sofa**",
        "## Edited Description\n\na dog on a sofa",
        "edited description:\n\n“a dog on a sofa”",
        "Let me think about it.\n\nEdited Description: a dog on a sofa",
        "Sure! Edited Description: a dog on a sofa",
        "Image Content: a cat\nInstruction: x\nEdited Description: a dog on a sofa",
        "Edited Description: a cat\nNo.\nEdited Description: a dog on a sofa",
        "Edited Description: a dog on a sofa\nEdited Description:",
        "```\na dog on a sofa\n```",
        "```text\na dog on a sofa\n```",
        '```json\n{"edited_description": "a dog on a sofa"}\n```',
        "- a dog on a sofa",
        "> *a dog on a sofa*",
    ],
    # What a description may look like is no preamble and no chatter.
    "a sign that reads: STOP": ["a sign that reads: STOP"],
    "OK sign on a wall": ["OK sign on a wall"],
    "The new version of the car is red": ["The new version of the car is red"],
    "I love NY shirt": ["I love NY shirt"],
    "first place medal on a dog": ["first place medal on a dog"],
    "here is a dog": ["here is a dog"],
    "a < b on a blackboard": ["a < b on a blackboard"],
    "analysis of a chart": ["analysis of a chart"],
}
NONE = {
    CUT_OFF: [
        "<think>",
        "<think>\nOkay, the user wants a dog.\n\na dog",
        "<think>a</think><think>b",
        "<think> a <think> b </think> c",
        "<thinking>a<reflection>b</reflection>c",
        "[THINK]a",
        "<|START_THINKING|>a",
        "<|channel|>analysis<|message|>The user wants",
        "<|channel|>",
        "analysisThe user wants",
    ],
    CHATTER: [
        "Okay, the user wants a description of the edited image.\n\nSo",
        "Okay, so I need to edit the description.",
        "Let me see what the instruction asks for.",
        "We need to produce one line.",
        "Hmm, the dog",
        "I'm sorry, but I cannot help with that.",
        "I cannot see any image.",
        "As an AI, I",
        "Please provide the image.",
        "Sure!",
        "Sure! Here is the edited description:",
    ],
    EMPTY: ["", " \n", "<think>a</think>\n", "</think>", "<|im_end|>", LABEL, f"{LABEL}\n{LABEL}"],
}


@pytest.mark.parametrize(
    ("answer", "text"), [(answer, text) for text, said in SAID.items() for answer in said]
)
def test_the_edit_is_found(answer: str, text: str) -> None:
    assert read(answer, LABEL)[:2] == (text, None)


@pytest.mark.parametrize(
    ("answer", "reason"), [(answer, reason) for reason, said in NONE.items() for answer in said]
)
def test_what_is_no_edit_has_its_reason(answer: str, reason: str) -> None:
    assert read(answer, LABEL)[:2] == ("", reason)


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        ("a dog", False),
        ("<think>\na\n</think>\na dog", False),
        ("Sure! Here is the description:\na dog", False),
        ("a dog\nNow I", True),
        ("```\na dog\n```", True),
        ("a dog<|im_end|>", True),
    ],
)
def test_a_text_is_whole_where_more_follows_it(answer: str, ended: bool) -> None:
    assert read(answer, LABEL).ended is ended


@pytest.mark.parametrize(
    "answer",
    [
        "x" + "\n" * 16_000 + "y",
        "<think>" * 40_000,
        "<think>" * 20_000 + "</think>" * 20_000,
        "<think>" * 20_000 + "</reasoning>" * 20_000,
        "<|channel|>" * 20_000,
        "<|channel|>analysis " * 10_000,
        "<|im_end|>" * 20_000,
        LABEL * 10_000,
        f"{LABEL}\n" * 10_000,
        "<" * 200_000,
        "*" * 200_000,
        " " * 199_999 + "x",
        "based on" + " ," * 100_000,
        "sure!" * 40_000,
        "here is the " * 20_000,
        "{" * 200_000,
        "analysisA" * 20_000,
        "<think>a dog" * 10_000_000,
    ],
)
def test_a_looping_model_costs_no_time(answer: str) -> None:
    started = time.process_time()
    read(answer, LABEL)
    answers.muses(answer)
    answers.cut(answer, ["\n", "x"])
    assert time.process_time() - started < 2


def test_a_stop_counts_only_behind_the_thought() -> None:
    assert answers.cut("<think>\na\nb</think>a dog\nNow", ["\n"]) == "a dog"
    assert answers.cut("a dog ### x\ny", ["\n", "###"]) == "a dog "
    assert answers.cut("<think>\na", ["\n"]) == "<think>\na"
    assert answers.cut("a dog", ["\n"]) == "a dog"


@pytest.mark.parametrize(
    ("mark", "end"),
    [
        ("<think>", "</think>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|channel>thought", "<channel|>"),
    ],
)
def test_a_prompt_that_opens_a_thought_is_known_and_can_end_it(mark: str, end: str) -> None:
    assert answers.open_thought(f"<|assistant|>{mark}\n") == mark
    assert answers.closing(mark) == end
    assert answers.open_thought(f"<|assistant|>{mark}\n\n{end}\n\n") == ""
    assert answers.without_thoughts(f"{mark}hm{end}a dog") == "a dog"
    assert answers.open_thought("what is <think> for?") == ""
