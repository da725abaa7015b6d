"""What headers and metrics of servers say."""

import email.utils
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from pipeline.models.serving.responses import Allowance, allowance, prefix_cache


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
        ({"x-ratelimit-remaining-tokens": "4", "x-ratelimit-reset-tokens": "9s"}, (None, None)),
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
    assert allowance(headers) == Allowance(*expected)


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
    assert allowance(spelled(1_800_000_090.0)) == Allowance(7, pytest.approx(90, abs=1))
    assert allowance(spelled(1_799_999_990.0)) == Allowance(7, 0)


def test_a_vllms_prefix_cache_is_counted_over_its_engines() -> None:
    metrics = (
        "# TYPE vllm:prefix_cache_queries counter\n"
        'vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1200.0\n'
        'vllm:prefix_cache_queries_total{engine="1",model_name="m"} 800.0\n'
        'vllm:prefix_cache_queries_created{engine="0",model_name="m"} 1.7e+09\n'
        'vllm:prefix_cache_hits_total{engine="0",model_name="m"} 1e3\n'
        'vllm:prefix_cache_hits_total{engine="1",model_name="m"} 500.0\n'
        'vllm:external_prefix_cache_hits_total{engine="1",model_name="m"} 7.0\n'
    )
    assert prefix_cache(metrics) == (2000, 1500)
    assert prefix_cache("") is None
    assert prefix_cache(metrics.replace("1200.0", "inf")) is None
    assert prefix_cache(metrics.replace("1200.0", "many")) is None
