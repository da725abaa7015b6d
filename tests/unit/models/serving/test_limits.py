"""What headers of servers say about limits, and what is sent by it."""

import email.utils
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from pipeline.models.serving.limits import Allowance, Limits, allowances


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1s"}, (59, 1)),
        ({"X-RateLimit-Remaining-Requests": "0", "X-RateLimit-Reset-Requests": "6m0s"}, (0, 360)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": "2m59.5s"}, (7, 179.5)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": "20ms"}, (7, 0.02)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": "1d1h"}, (7, 90_000)),
        ({"RateLimit-Limit": "20", "RateLimit-Remaining": "5", "RateLimit-Reset": "30"}, (5, 30)),
        ({"RateLimit": "limit=20, remaining=5, reset=30"}, (5, 30)),
        ({"RateLimit": '"default";r=5;t=30'}, (5, 30)),
        ({"x-ratelimit-remaining": "4, 4;w=60", "x-ratelimit-reset": "0"}, (4, 0)),
        ({"x-ratelimit-limit-requests": "20"}, (None, None)),
        ({"x-ratelimit-remaining": "many", "x-ratelimit-reset": "soon"}, (None, None)),
        ({"x-ratelimit-remaining": "-1", "x-ratelimit-reset": "-5"}, (None, None)),
        ({"x-ratelimit-remaining": "9" * 5000, "x-ratelimit-reset": "9" * 5000}, (None, None)),
        ({"x-ratelimit-reset": "1m" * 5000 + "!"}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_a_limit_is_read_in_the_spellings_of_servers(
    headers: dict[str, str], expected: tuple[int | None, float | None]
) -> None:
    assert allowances(headers).get("requests", Allowance()) == Allowance(*expected)


@pytest.mark.parametrize(
    "spelled",
    [
        lambda at: {"x-rate-limit-remaining": "7", "x-rate-limit-reset": f"{at:.0f}"},
        lambda at: {"x-ratelimit-remaining": "7", "x-ratelimit-reset": f"{1000 * at:.0f}"},
        lambda at: {
            "anthropic-ratelimit-requests-remaining": "7",
            "anthropic-ratelimit-requests-reset": datetime.fromtimestamp(at, UTC).isoformat(),
        },
        lambda at: {
            "x-ratelimit-remaining": "7",
            "x-ratelimit-reset": email.utils.formatdate(at, usegmt=True),
        },
    ],
)
def test_a_date_counts_from_now(
    spelled: Callable[[float], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    told = allowances(spelled(1_800_000_090.0))["requests"]
    assert told == Allowance(7, pytest.approx(90, abs=1))
    assert allowances(spelled(1_799_999_990.0)) == {"requests": Allowance(7, 0)}


SAID = [
    ({"x-ratelimit-remaining-tokens": "900", "x-ratelimit-reset-tokens": "6m0s"}, "tokens", 360),
    ({"x-ratelimit-remaining-tokens": "900", "x-ratelimit-renewalperiod-tokens": "60"},
     "tokens", 60),
    ({"x-ratelimit-remaining-tokens-minute": "900", "x-ratelimit-reset-tokens-minute": "30.2"},
     "tokens-minute", 30.2),
    ({"anthropic-ratelimit-tokens-remaining": "900", "anthropic-ratelimit-tokens-reset": "9s"},
     "tokens", 9),
    ({"Anthropic-RateLimit-Output-Tokens-Remaining": "900",
      "Anthropic-RateLimit-Output-Tokens-Reset": "9"}, "output-tokens", 9),
    ({"ratelimitbysize-remaining": "900", "ratelimitbysize-reset": "28"}, "tokens", 28),
    ({"x-tokenlimit-remaining": "900", "x-tokenlimit-reset": "28"}, "tokens", 28),
    ({"x-ratelimit-remaining-tokens": "900"}, "tokens", None),
    ({"x-ratelimit-remaining-req-minute": "900", "x-ratelimit-reset-req-minute": "7"},
     "req-minute", 7),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "name", "seconds"), SAID)
def test_each_limit_is_read_by_its_name(
    headers: dict[str, str], name: str, seconds: float | None
) -> None:
    assert allowances(headers) == {name: Allowance(900, seconds)}


def test_limits_side_by_side_are_kept_apart() -> None:
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6m0s",
        "x-ratelimit-tokens-query-cost": "12",
        "retry-after": "3",
    }
    assert allowances(headers) == {
        "requests": Allowance(59, 1),
        "tokens": Allowance(149_984, 360),
    }


def test_what_a_server_does_not_limit_is_no_limit() -> None:  # Azure's, where it does not tell
    unlimited = {"x-ratelimit-remaining-tokens": "-1", "x-ratelimit-reset-tokens": "0"}
    limits = Limits()
    limits.told(allowances(unlimited), 0, now=5.0)
    assert limits.until(5.0, in_flight=9) <= 5.0


def test_the_limit_that_is_spent_first_is_waited_for() -> None:
    limits = Limits()
    told = {"requests": Allowance(50, 10.0), "tokens": Allowance(350, 30.0)}
    limits.told(told, others=1, now=0.0, tokens=100)
    for _ in range(2):  # of three requests' tokens, one's may be in flight
        assert limits.until(1.0, in_flight=2) <= 1.0
        limits.send()
    assert limits.until(1.0, in_flight=2) == 30.0
    assert limits.until(30.0, in_flight=1) == math.inf  # it tells how many more
    assert limits.until(30.0, in_flight=0) <= 30.0


def test_tokens_are_counted_by_the_largest_of_the_last_requests() -> None:
    limits = Limits()
    allowed = {"tokens": Allowance(1000, 30.0)}
    limits.told(allowed, others=0, now=0.0, tokens=1000)
    limits.told(allowed, others=0, now=0.0, tokens=10)
    limits.send()
    assert limits.until(0.0, in_flight=1) == 30.0
    for _ in range(400):  # it was long ago
        limits.told(allowed, others=0, now=0.0, tokens=10)
    limits.send()
    assert limits.until(0.0, in_flight=1) <= 0.0


def test_a_limit_of_a_month_is_not_waited_for() -> None:
    limits = Limits(longest=600)
    limits.told({"tokens-month": Allowance(0, 86_400.0)}, others=0, now=0.0)
    assert limits.until(0.0, in_flight=0) <= 0.0
