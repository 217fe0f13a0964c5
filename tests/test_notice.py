"""Notices: the text of an event for its recipients, in mail and chat."""

from __future__ import annotations

import re

import pytest

from event._formats.notice import (
    CHAT_MAX,
    VALUES_MAX,
    Notice,
    chat_tail,
    chat_text,
    duration_text,
    notice_of,
    plain_data,
    text_of,
    title_of,
    with_templates,
)
from event._formats.notice_html import chat_html, html_of
from event._formats.template import Templates, fill

FAILED = {
    "uid": "u-1",
    "name": "tests",
    "begin_time": "2026-11-28T12:00:05",
    "end_time": "2026-11-28T12:04:17",
    "outcome": "failure",
    "exit_code": 1,
    "signal": None,
    "duration": 252.4,
    "error": {"type": "OSError", "message": "no room"},
    "output_tail": "one\n\n<two> & three",
    "ci": {"system": "github", "build_url": "https://ci.test/7", "branch": "main", "commit": "4f1c", "actor": "ann"},
    "traceparent": "00-1-2-01",
    "target": "arm",
    "parts": ["a", 1],
    "matrix": [{"os": "linux"}, [2]],
}

TEXT = """\
tests failed on main (exit 1, 4 min 12 s)

OSError: no room

Last lines of the output:

    one

    <two> & three

https://ci.test/7

by: ann
branch: main
commit: 4f1c
began: 2026-11-28 12:00:05 UTC
ended: 2026-11-28 12:04:17 UTC

ci.system: github
target: arm
parts: a, 1
matrix.1.os: linux
matrix.2: 2
uid: u-1

attached: log.txt
"""


def test_text_has_failure_reason_and_place_in_order():
    assert text_of(notice_of(FAILED), ["attached: log.txt"]) == TEXT


@pytest.mark.parametrize(
    ("data", "title"),
    [
        pytest.param({}, "event", id="no data"),
        pytest.param({"name": "nightly"}, "nightly", id="no outcome"),
        pytest.param({"name": "nightly", "branch": "main"}, "nightly", id="no outcome, but a branch"),
        pytest.param({"name": "nightly", "outcome": "odd"}, "nightly: odd", id="unknown outcome"),
        pytest.param({"name": "nightly", "outcome": ["x"]}, 'nightly: ["x"]', id="outcome that is not text"),
        pytest.param({"name": "deploy", "command": "sh", "end_time": None}, "deploy started", id="open event"),
        pytest.param({"name": "deploy", "command": "sh", "end_time": "x"}, "deploy", id="an end without an outcome"),
        pytest.param({"name": "a", "outcome": "success", "duration": 0.42}, "a succeeded (0.4 s)", id="success"),
        pytest.param({"name": "a", "outcome": "success"}, "a succeeded", id="no duration"),
        pytest.param(
            {"name": "a", "outcome": "failure", "exit_code": 137, "signal": "SIGKILL"},
            "a failed (SIGKILL)",
            id="signal",
        ),
        pytest.param({"name": "a", "outcome": "cancel", "signal": "SIGTERM"}, "a was cancelled (SIGTERM)", id="cancel"),
        pytest.param({"name": "a", "outcome": "failure", "branch": "fix"}, "a failed on fix", id="branch"),
        pytest.param({"name": "a", "outcome": "failure", "duration": -1}, "a failed", id="negative duration"),
        pytest.param(
            {"name": "a", "outcome": "failure", "begin_time": "2026-11-28T12:00:05", "end_time": "2026-11-28T14:05:05"},
            "a failed (2 h 5 min)",
            id="a duration from dates",
        ),
        pytest.param(
            {"name": "a", "outcome": "failure", "begin_time": "2026-11-28T12:00:05", "end_time": "2026-11-28T12:00:05"},
            "a failed",
            id="dates of the same second",
        ),
        pytest.param(
            {"name": "a", "outcome": "failure", "tests": 9, "failures": 2, "errors": 1},
            "a failed (3 of 9 tests)",
            id="tests",
        ),
        pytest.param({"name": "a\nb\x1b", "outcome": "failure"}, "a b failed", id="control characters"),
    ],
)
def test_title_has_name_and_outcome(data, title):
    assert title_of(data) == title


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (12, "12 s"), (60, "1 min 0 s"), (7500, "2 h 5 min")]
)
def test_duration_is_written_with_units(seconds, words):
    assert duration_text(seconds) == words


def test_tests_that_failed_are_listed():
    data = {"name": "t", "tests": 9, "failures": 2, "errors": 0, "skipped": 1, "failing_tests": ["a::b", "c\nd"]}
    assert notice_of(data).tests == ["9 tests, 2 failures, 1 skipped", "- a::b", "- c d"]
    assert notice_of({**data, "failing_tests": "odd"}).tests == ["9 tests, 2 failures, 1 skipped"]
    assert notice_of({"name": "t", "tests": "some"}).others == [("tests", "some")]


@pytest.mark.parametrize("url", ["javascript:alert(1)", "ftp://x.test", "https://x.test/ a", 5, None])
def test_unsafe_url_is_no_link(url):
    assert notice_of({"name": "n", "build_url": url}).link == ""


def test_reason_can_be_a_text():
    assert notice_of({"name": "n", "error": "no\nroom"}).reason == "no room"
    assert notice_of({"name": "n", "ci": "odd"}).others == [("ci", "odd")]


def test_a_notice_has_fifty_values_at_most():
    others = notice_of({f"key{number}": number for number in range(60)}).others
    assert len(others) == VALUES_MAX + 1
    assert others[-1] == ("...", "and 10 more")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        pytest.param(
            "{build_url} {ci.build_url}", "https://ci.test/7 https://ci.test/7", id="both names of a CI value"
        ),
        pytest.param("{error.message} {exit_code} {signal}|", "no room 1 |", id="values"),
        pytest.param("{{x}} {x} {error.x.y} {}", "{x} {x} {error.x.y} {}", id="unknown fields"),
        pytest.param("{parts}", '["a", 1]', id="a list"),
    ],
)
def test_a_template_is_filled(template, text):
    assert fill(template, FAILED) == text


def test_templates_replace_the_title_and_the_body():
    notice = with_templates(notice_of(FAILED), Templates("{name}!\n", "see {build_url}\n<b>"), FAILED)
    assert text_of(notice, ["attached: x"]) == "see https://ci.test/7\n<b>\n\nattached: x\n"
    assert "tests!" in html_of(notice)
    assert "see https://ci.test/7\n&lt;b&gt;" in html_of(notice)
    assert chat_text(notice, ["x"], 10) == notice.body
    unchanged = with_templates(notice_of(FAILED), Templates("{signal}", " {signal}"), FAILED)
    assert unchanged == notice_of(FAILED)


def test_plain_data_has_only_json_types():
    assert plain_data({"a": (1, {2})}) == {"a": [1, [2]]}


# HTML.


def test_html_has_every_part_and_escapes_the_data():
    hostile = {**FAILED, "name": "<script>x</script>", "target": '"><img src=x>', "failing_tests": ["<i>"], "tests": 1}
    page = html_of(notice_of(hostile), ["attached: <log>"])
    for text in (
        "&lt;script&gt;",
        "&lt;two&gt; &amp; three",
        "&quot;&gt;&lt;img",
        "&lt;i&gt;",
        "attached: &lt;log&gt;",
    ):
        assert text in page
    assert not re.search(r"<(script|img|i|log)\b", page)
    assert 'href="https://ci.test/7"' in page


@pytest.mark.parametrize(
    ("outcome", "word"), [("success", "Success"), ("failure", "Failure"), ("cancel", "Cancelled"), (None, "Event")]
)
def test_html_shows_the_outcome(outcome, word):
    page = html_of(notice_of({"name": "n", "outcome": outcome}))
    assert f">{word}</span>" in page
    assert "Last lines" not in page


def test_units_in_a_title_are_joined_to_their_numbers():
    assert "(exit 1, 4&nbsp;min 12&nbsp;s)</h1>" in html_of(notice_of(FAILED))


def test_html_without_failing_names_has_no_list():
    assert "<ul" not in html_of(notice_of({"name": "n", "tests": 3}))


# Chat.


def test_a_chat_message_is_short_with_the_tail_as_code():
    assert chat_text(notice_of({**FAILED, "output_tail": "a\n```\nb"}), ["attached: log"], 2000) == (
        "OSError: no room\n```\na\n'''\nb\n```\nhttps://ci.test/7\nby: ann\nbranch: main\ncommit: 4f1c\n"
        "began: 2026-11-28 12:00:05 UTC\nended: 2026-11-28 12:04:17 UTC\nci.system: github\ntarget: arm\nparts: a, 1\n"
        "matrix.1.os: linux\nmatrix.2: 2\nuid: u-1\nattached: log"
    )


@pytest.mark.parametrize("limit", [50, 300, 500, 2000, 100_000])
@pytest.mark.parametrize("write", [chat_text, chat_html])
def test_a_chat_message_keeps_within_the_limit(write, limit):
    data = {**FAILED, "output_tail": "\n".join(f"line <{number}> & more" for number in range(500)), "long": "&" * 500}
    text = write(notice_of(data), [], limit)
    assert 0 < len(text) <= min(limit, CHAT_MAX)


def test_a_chat_message_has_the_last_lines():
    text = chat_text(notice_of({"name": "n", "output_tail": "\n".join(map(str, range(100)))}), [], 2000)
    assert text == "```\n" + "\n".join(map(str, range(90, 100))) + "\n```"


def test_a_chat_message_in_html_has_the_tail_as_code_and_escapes_the_data():
    text = chat_html(notice_of(FAILED), ["attached: <log>"], 2000)
    assert "<pre>one\n\n&lt;two&gt; &amp; three</pre>" in text
    assert text.startswith("OSError: no room<br/>\n<pre>")
    assert text.endswith("attached: &lt;log&gt;")


def test_last_lines_are_only_cut_between_lines():
    assert chat_tail(Notice("title", "", tail="aaa\nbbb\ncc"), 7) == "bbb\ncc"
    assert chat_tail(Notice("title", "", tail="aaa"), 3) == ""
