"""What responses of chat servers hold, and what their refusals mean."""

import json
from typing import Any

import pytest

from pipeline.models.serving.dialect import (
    Dialect,
    Manner,
    complaint,
    merged,
    out_of_money,
    parse,
)

ASKED = {
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
    "max_tokens": 64,
    "temperature": 0.0,
    "seed": 7,
    "stop": ["\n"],
    "response_format": {"type": "json_schema"},
    "logprobs": True,
    "top_logprobs": 20,
    "chat_template_kwargs": {"enable_thinking": False},
}


def body(message: dict[str, Any], **choice: Any) -> bytes:
    return json.dumps(
        {"choices": [{"message": message, "finish_reason": "stop", **choice}]}
    ).encode()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "a dog"}, "a dog"),
        ({"content": None}, ""),
        ({"content": [{"type": "text", "text": "a "}, {"type": "text", "text": "dog"}]}, "a dog"),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "a dog"},
                ]
            },
            "a dog",
        ),
        ({"content": "a dog", "reasoning_content": "hm"}, "a dog"),
        ({"content": "", "reasoning_content": "hm"}, "<think>hm"),
        ({"content": None, "reasoning": "hm"}, "<think>hm"),
        ({"reasoning": "hm"}, "<think>hm"),
        ({"content": "a dog", "reasoning": None}, "a dog"),
        ({"content": None, "refusal": "I cannot"}, "I cannot"),
    ],
)
def test_the_text_of_a_message_of_any_shape(message: dict[str, Any], text: str) -> None:
    assert parse(body(message)).texts == (text,)


def test_a_content_of_thoughts_alone_is_a_thought_that_was_cut_off() -> None:
    reply = parse(body({"content": [{"type": "thinking", "thinking": "hm"}]}))
    assert reply.texts[0].startswith("<think>")
    assert reply.thought


@pytest.mark.parametrize(
    "content",
    [b"[]", b"{}", b"<html>", b'{"choices": []}', body({}), body({"content": 3}),
     body({"content": [3]}), b'{"choices": [{"message": null}]}'],
)  # fmt: skip
def test_what_is_no_completion_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no chat completion"):
        parse(content)


def test_an_error_with_the_status_of_a_success_is_told() -> None:
    with pytest.raises(ValueError, match="the answer was an error: the model is gone"):
        parse(b'{"error": {"message": "the model is gone", "code": 502}}')
    with pytest.raises(ValueError, match="the answer was an error"):
        parse(b'{"error": {"message": "the model is gone"}, "choices": []}')
    assert parse(body({"content": "a dog"})[:-1] + b', "error": null}').texts == ("a dog",)


def tokens(*said: str) -> dict[str, Any]:
    return {
        "content": [{"token": one, "logprob": -i, "top_logprobs": []} for i, one in enumerate(said)]
    }


@pytest.mark.parametrize(
    ("message", "said", "first"),
    [
        ({"content": "Yes."}, ("Yes", "."), "Yes"),
        ({"content": " Yes"}, (" Yes",), " Yes"),
        (
            {"content": "<think>No</think>\n\nYes"},
            ("<think>", "No", "</think>", "\n\n", "Yes"),
            "Yes",
        ),
        ({"content": "No?</think> Yes"}, ("No", "?", "</think>", " Yes"), " Yes"),
        ({"content": "Yes", "reasoning": "No?"}, ("No", "?", "</think>", "Yes"), "Yes"),
        ({"content": "Yes", "reasoning": "No?"}, ("Yes",), "Yes"),
    ],
)
def test_the_first_token_is_the_one_behind_the_thought(
    message: dict[str, Any], said: tuple[str, ...], first: str
) -> None:
    found = parse(body(message, logprobs=tokens(*said))).first_token
    assert found is not None
    assert list(found) == [first]


def test_without_a_token_behind_the_thought_there_are_no_log_probabilities() -> None:
    assert parse(body({"content": "<think>No"}, logprobs=tokens("<think>", "No"))).first_token == {}
    assert parse(body({"content": "Yes"})).first_token is None


REFUSALS = {
    "seed": [
        {"error": {"message": "Unsupported parameter: seed"}},
        {"error": {"message": "Invalid value", "param": "seed"}},
        {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
        {"error": "litellm.UnsupportedParamsError: x does not support parameters: ['seed']"},
        {"object": "error", "message": "seed is not supported"},
    ],
    "stop": [{"error": {"message": "'stop' is not supported with this model"}}],
    "response_format": [
        {"error": {"message": "This response_format type is unavailable now"}},
        {"error": {"message": "json_schema is not supported"}},
        {"error": {"message": "Unsupported: structured outputs"}},
    ],
    "chat_template_kwargs": [
        {"error": {"message": "Unrecognized request argument supplied: chat_template_kwargs"}},
        {"error": {"message": "chat_template is not supported for Mistral tokenizers."}},
    ],
    "temperature": [{"error": {"message": "`temperature` must be strictly positive"}}],
}


@pytest.mark.parametrize(
    ("name", "said"), [(name, said) for name, all_ in REFUSALS.items() for said in all_]
)
def test_a_refused_parameter_is_left_out_and_noted(name: str, said: dict[str, Any]) -> None:
    manner = Manner()
    dialect = Dialect("http://x", manner)
    sent = dialect.body(ASKED, False)
    assert sent == ASKED
    assert dialect.learns(ASKED, sent, False, complaint(json.dumps(said).encode()))
    assert dialect.body(ASKED, False) == {k: v for k, v in ASKED.items() if k != name}
    assert len(manner.notes) == 1
    assert name in manner.notes[0]
    # One that was under way meanwhile is asked again as well; one without it is refused.
    assert dialect.learns(ASKED, sent, False, complaint(json.dumps(said).encode()))
    assert not dialect.learns(ASKED, dialect.body(ASKED, False), False, "context too long")
    assert len(manner.notes) == 1


def test_a_refusal_of_anything_else_is_none_of_a_parameter() -> None:
    dialect = Dialect("http://x", Manner())
    for words in ("maximum context length is 256", "the operating system failed", "bad request"):
        assert not dialect.learns(ASKED, dialect.body(ASKED, False), False, words)


def test_fewer_alternatives_are_asked_for_before_none() -> None:
    dialect = Dialect("http://x", Manner())
    said = "Requested sample logprobs of 20, which is greater than max allowed: 5"
    for expected in ((True, 5), (True, None), (None, None)):
        assert dialect.learns(ASKED, dialect.body(ASKED, False), False, said)
        now = dialect.body(ASKED, False)
        assert (now.get("logprobs"), now.get("top_logprobs")) == expected


def test_a_limit_of_another_name_is_taken() -> None:
    dialect = Dialect("http://x", Manner(room=100))
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    assert dialect.learns(ASKED, dialect.body(ASKED, False), False, said)
    assert dialect.body(ASKED, False)["max_completion_tokens"] == 64
    assert dialect.body(ASKED, True)["max_completion_tokens"] == 164
    assert "max_tokens" not in dialect.body(ASKED, True)


@pytest.mark.parametrize(
    "said",
    [
        "System role not supported",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
        "Developer instruction is not enabled for models/gemma-3-27b-it",
        "Only user and assistant roles are supported, not the role 'system'",
    ],
)
def test_a_system_turn_that_is_refused_is_merged(said: str) -> None:
    dialect = Dialect("http://x", Manner())
    assert dialect.learns(ASKED, dialect.body(ASKED, False), False, said)
    assert dialect.body(ASKED, False)["messages"] == [{"role": "user", "content": "s\n\nu"}]


def test_a_system_turn_is_merged_into_the_first_user_turn() -> None:
    image = {"type": "image"}
    system, first = {"role": "system", "content": "s"}, {"role": "user", "content": [image]}
    assert merged([system, first]) == [
        {"role": "user", "content": [{"type": "text", "text": "s"}, image]}
    ]
    assert merged([first]) == [first]


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (402, "Payment required", True),
        (402, "", True),
        (429, "You exceeded your current quota. insufficient_quota", True),
        (429, "You exceeded your current quota, please check your plan and billing details.", True),
        (429, "Your account balance is too low", True),
        (403, "Sorry, your account balance is insufficient", True),
        (429, "Rate limit reached for requests per minute", False),
        (429, "Quota exceeded for requests. Please retry in 23.1s.", False),
        (429, "the load balancer is busy", False),
        (403, "forbidden", False),
        (400, "quota", False),
        (500, "balance", False),
    ],
)
def test_nobody_pays_any_more(status: int, said: str, expected: bool) -> None:
    assert out_of_money(status, said) is expected


@pytest.mark.parametrize("content", [b"", b"[]", b"<html>", b"3", b'{"error": 3}', b"[" * 9999])
def test_any_error_body_is_read(content: bytes) -> None:
    assert isinstance(complaint(content), str)
