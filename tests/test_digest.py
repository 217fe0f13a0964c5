"""One notice about many events."""

from __future__ import annotations

from event._formats.digest import digest_of
from event._formats.notice import text_of

EVENTS = [
    {"name": "docs", "outcome": "success", "begin_time": "2026-11-28T12:00:05", "end_time": "2026-11-28T12:01:00"},
    {"name": "tests", "outcome": "failure", "exit_code": 1, "ci": {"branch": "main"}, "end_time": "odd"},
    {"name": "note", "begin_time": "2026-11-28T12:00:05", "end_time": None},
    {"name": "deploy", "outcome": "cancel"},
    {"name": "lint", "outcome": "failure"},
]


def test_a_digest_counts_the_outcomes_and_lists_the_failures_first():
    notice = digest_of(EVENTS)
    assert (notice.title, notice.outcome) == (
        "5 events: 2 failed, 1 cancelled, 1 without an outcome, 1 succeeded",
        "failure",
    )
    assert notice.body.splitlines() == [
        "tests failed on main (exit 1), odd",
        "lint failed",
        "deploy was cancelled",
        "note, 2026-11-28 12:00:05 UTC",
        "docs succeeded (55 s), 2026-11-28 12:01:00 UTC",
    ]
    assert text_of(notice, ["not attached"]) == f"{notice.body}\n\nnot attached\n"


def test_digest_of_successes_is_a_success():
    assert digest_of(EVENTS[:1]).outcome == "success"


def test_digest_above_the_limit_omits_whole_lines():
    body = digest_of(EVENTS, 60).body
    assert body.splitlines() == ["tests failed on main (exit 1), odd", "... and 4 more"]
    assert digest_of(EVENTS * 100, 1000).body.endswith(" more")
    assert len(digest_of(EVENTS * 100, 1000).body) <= 1000
    assert digest_of(EVENTS[3:], 1000).body == "lint failed\ndeploy was cancelled"
