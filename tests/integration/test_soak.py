"""The campaigns of `tests/campaigns/soak`, small."""

from pathlib import Path

from tests.campaigns.soak import llm, page


def test_no_edit_is_lost_or_doubled_however_servers_misbehave() -> None:
    found = llm.soak(600, faults=0.2, servers=2, concurrency=64, timeout=10)
    assert found.problems == []
    assert found.records == found.told[llm.GOOD] == 600
    assert all(found.told[kind] for kind in llm.FAULTS), "every kind of fault must occur"


def test_the_page_serves_several_users_and_keeps_nothing_of_them(small_world: Path) -> None:
    found = page.soak(5, 8, *page.pictures(small_world))
    assert found.problems == []
    assert {"page", "gallery", "small image", "large image", "query", "rank"} <= set(
        found.latencies
    )
