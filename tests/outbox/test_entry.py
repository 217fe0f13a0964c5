"""The format of an entry: it round-trips, an invalid text is refused, and a torn journal line is skipped."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event import Event, _trace_context
from event._outbox import Candidate, NewerVersionError, Outbox
from helpers.entries import lines_of, put, put_in_span

UNTIMED = settings(deadline=None)
CREATED = 1780000000.5
LOG = ["0", "a9993e364706816aba3e25717850c26c9cd0d89d"]
TEXT = {
    "version": 1,
    "id": "i",
    "created": CREATED,
    "event": {"data": {"uid": "u", "name": "build"}, "attachments": {"log": LOG}, "closed": True},
    "handlers": [{"name": "smtp", "config": "c"}, {"name": "file", "config": "d"}],
}
GOLDEN = Path(__file__).parents[1] / "data" / "outbox" / "waiting" / "1780000080"
SPAN = _trace_context.Span("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331", 1, "vendor=1")
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Reader:
    """Read texts as entries of an outbox."""

    def __init__(self, directory):
        self.box = Outbox(directory)
        put(self.box).discard()

    def __call__(self, first=TEXT, *journal):
        """Read an entry from its first line and the lines of its journal."""
        lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in (first, *journal)]
        return self.read_bytes(b"\n".join(lines) + b"\n")

    def read_bytes(self, text):
        Path(self.box.path, "failed", "i").write_bytes(text)
        return self.box.read(Candidate("failed/i"))


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    return Reader(tmp_path_factory.mktemp("reader") / "outbox")


def result(handler, *, ok=True, permanent=False):
    """Return the journal line of a handler's result."""
    line = {"time": CREATED + 1, "handler": handler, "ok": ok, "seconds": 0.123}
    return line if ok else {**line, "error": "gone" if permanent else "ValueError: no", "permanent": permanent}


RETRY = {"time": CREATED + 2, "retry": True}


def test_entry_text_has_the_documented_format(box):
    claim = box.put(Event("build", uid="u"), {"smtp": "c", "file": "d"}, sending="i")
    (text,) = lines_of(claim.path)
    assert list(text) == ["version", "id", "created", "event", "handlers"]
    assert {key: text[key] for key in ("version", "id", "handlers")} == {
        key: TEXT[key] for key in ("version", "id", "handlers")
    }
    assert text["created"] == claim.entry.created
    assert text["event"]["attachments"] == {}
    assert text["event"]["data"]["uid"] == "u"
    assert text["event"]["closed"] is False


@settings(deadline=None, max_examples=25)
@given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(min_size=1), st.text()))
def test_entry_round_trips(read, handlers, data):
    claim = read.box.put(Event("build", uid="u", data=data), handlers)
    (candidate,) = read.box.find(claim.entry.id)
    entry = read.box.read(candidate)
    claim.discard()
    assert (entry.id, entry.created) == (claim.entry.id, claim.entry.created)
    assert (entry.handlers, entry.event.data) == (handlers, data)
    assert (entry.attempts, entry.last_start, entry.pending, entry.last_error) == (1, entry.created, handlers, "")


def fields(span):
    return {key: getattr(span, key) for key in span.__slots__}


@pytest.mark.parametrize(
    "span",
    [
        pytest.param(SPAN, id="all fields"),
        pytest.param(_trace_context.Span(SPAN.trace_id, SPAN.span_id, flags=0), id="an unrecorded root"),
    ],
)
def test_span_of_the_sender_round_trips(box, span):
    claim = put_in_span(box, Event("build"), {"file": "d"}, span)
    assert lines_of(claim.path)[0]["trace"] == _trace_context.to_data(span)
    (candidate,) = box.find(claim.entry.id)
    assert fields(box.read(candidate).span) == fields(span)


def test_entry_put_without_a_span_has_none(read):
    assert read().span is _trace_context.NO_SPAN


@pytest.mark.parametrize(
    ("number", "span"), [pytest.param(1, _trace_context.NO_SPAN, id="no span"), pytest.param(2, SPAN, id="a span")]
)
def test_golden_entries_are_read(read, number, span):
    path = GOLDEN / f"8f14e45f-ceea-467f-a0e6-00000000000{number}"
    entry = read.read_bytes((path / "entry" if path.is_dir() else path).read_bytes())
    assert entry.id == path.name
    assert fields(entry.span) == fields(span)


@pytest.mark.parametrize(
    ("trace", "span"),
    [
        pytest.param(None, _trace_context.NO_SPAN, id="null"),
        pytest.param(TRACEPARENT, _trace_context.NO_SPAN, id="a string"),
        pytest.param([TRACEPARENT], _trace_context.NO_SPAN, id="a list"),
        pytest.param({}, _trace_context.NO_SPAN, id="empty"),
        pytest.param({"traceparent": 17}, _trace_context.NO_SPAN, id="a number"),
        pytest.param({"traceparent": TRACEPARENT[:-1]}, _trace_context.NO_SPAN, id="torn"),
        pytest.param({"traceparent": TRACEPARENT.upper()}, _trace_context.NO_SPAN, id="upper case"),
        pytest.param({"traceparent": _trace_context.NO_SPAN.traceparent}, _trace_context.NO_SPAN, id="zeros"),
        pytest.param({"tracestate": "vendor=1"}, _trace_context.NO_SPAN, id="only a state"),
        *(
            pytest.param(
                {"traceparent": TRACEPARENT, "tracestate": state, "parent_span_id": parent},
                _trace_context.Span(SPAN.trace_id, SPAN.span_id),
                id=f"{state!a} and {parent!a}",
            )
            for state, parent in [(17, 17), ({"a": 1}, []), ("v=1\0", "b7ad"), ("v=1\n", ""), ("v=\ud800", None)]
        ),
    ],
)
def test_malformed_span_is_ignored(read, trace, span):
    entry = read({**TEXT, "trace": trace})
    assert (entry.id, entry.handlers) == ("i", {"smtp": "c", "file": "d"})
    assert fields(entry.span) == fields(span)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(_trace_context.KEYS) | st.text(), inner),
)


@UNTIMED
@given(ANYTHING)
def test_entry_is_read_with_any_value_as_span(read, trace):
    assert read({**TEXT, "trace": trace}).event.uid == "u"


def test_unknown_keys_are_ignored(read):
    text = {**TEXT, "more": 1, "handlers": [{"name": "file", "config": "d", "more": 1}]}
    assert read(text).handlers == {"file": "d"}
    assert read(TEXT, {"time": 1.0, "colour": "red"}).journal == []


def test_newer_version_is_recognized_before_other_errors(read):
    with pytest.raises(NewerVersionError, match="its version is 2; this release reads 1"):
        read({"version": 2, "unknown": "field"})


def without(key):
    return {name: value for name, value in TEXT.items() if name != key}


def with_attachment(file):
    return {**TEXT, "event": {**TEXT["event"], "attachments": {"log": [file, "0"]}}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(b"", "Expecting value", id="empty"),
        pytest.param(b"{", "Expecting", id="torn"),
        pytest.param(b'{"a": "\xff"}', "decode", id="not UTF-8"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="nested"),
        pytest.param([], "not an object with a version", id="a list"),
        pytest.param({}, "not an object with a version", id="no version"),
        pytest.param({**TEXT, "version": "1"}, "not an object with a version", id="a version that is not a number"),
        pytest.param(without("created"), "'created' must be a time", id="no creation time"),
        pytest.param({**TEXT, "created": "now"}, "'created' must be a time", id="a time in words"),
        pytest.param({**TEXT, "created": -1}, "'created' must be a time", id="a negative time"),
        pytest.param({**TEXT, "created": 10**400}, "'created' must be a time", id="a time too large for a float"),
        pytest.param({**TEXT, "created": math.inf}, "'created' must be a time", id="an infinite time"),
        pytest.param({**TEXT, "created": math.nan}, "'created' must be a time", id="not a number"),
        pytest.param({**TEXT, "id": 1}, "'id' a string", id="a number as the id"),
        pytest.param(without("event"), "not a JSON object", id="no event"),
        pytest.param({**TEXT, "event": {**TEXT["event"], "data": {}}}, "'uid' and a 'name'", id="no name"),
        pytest.param(with_attachment("/etc/passwd"), "a file of the entry itself", id="an absolute path"),
        pytest.param(with_attachment("../0"), "a file of the entry itself", id="a path to another directory"),
        pytest.param(with_attachment(".."), "a file of the entry itself", id="the parent directory"),
        pytest.param(with_attachment("."), "a file of the entry itself", id="the directory itself"),
        pytest.param(with_attachment("C:0"), "a file of the entry itself", id="another drive"),
        pytest.param(with_attachment("a\\b"), "a file of the entry itself", id="a path with a backslash"),
        pytest.param(without("handlers"), "a list of objects", id="no handlers"),
        pytest.param({**TEXT, "handlers": ["file"]}, "a list of objects", id="handlers that are not objects"),
        pytest.param(
            {**TEXT, "handlers": [{"name": "file"}]}, "a list of objects", id="a handler without a configuration"
        ),
        pytest.param({**TEXT, "handlers": [{"name": [], "config": ""}]}, "a list of objects", id="a list as the name"),
        pytest.param(
            {**TEXT, "handlers": [{"name": "file", "config": 1}]}, "must be strings", id="a number as the configuration"
        ),
    ],
)
def test_invalid_entry_text_is_refused_with_the_reason(read, text, reason):
    with pytest.raises(ValueError, match=reason):
        read(text)


# The journal.


@pytest.mark.parametrize(
    ("journal", "pending", "is_delivered"),
    [
        pytest.param([], {"smtp": "c", "file": "d"}, False, id="no result"),
        pytest.param([result("smtp", ok=False)], {"smtp": "c", "file": "d"}, False, id="one failed"),
        pytest.param([result("smtp", ok=False), result("smtp")], {"file": "d"}, False, id="one failed, then delivered"),
        pytest.param([result("smtp"), result("file")], {}, True, id="both delivered"),
        pytest.param([result("smtp", ok=False, permanent=True)], {"file": "d"}, False, id="one failed permanently"),
        pytest.param(
            [result("smtp", ok=False, permanent=True), result("file")],
            {},
            False,
            id="one failed permanently, one delivered",
        ),
        pytest.param(
            [result("other", ok=False, permanent=True)],
            {"smtp": "c", "file": "d"},
            False,
            id="another handler failed permanently",
        ),
        pytest.param(
            [result("smtp", ok=False, permanent=True), result("file"), RETRY],
            {"smtp": "c"},
            False,
            id="an operator retries",
        ),
        pytest.param(
            [RETRY, result("smtp", ok=False, permanent=True)], {"file": "d"}, False, id="failed permanently again"
        ),
    ],
)
def test_pending_handlers_follow_from_the_journal(read, journal, pending, is_delivered):
    entry = read(TEXT, *journal)
    assert entry.pending == pending
    assert entry.is_delivered is is_delivered
    assert entry.finished == {"smtp", "file"} - pending.keys() | ({"other"} & {r.handler for r in entry.journal})


@pytest.mark.parametrize("length", range(len(json.dumps(result("smtp")))))
def test_torn_journal_line_is_skipped(read, length):
    entry = read(TEXT, result("file"), json.dumps(result("smtp")).encode()[:length], result("smtp", ok=False))
    assert entry.pending == {"smtp": "c"}
    assert [record.handler for record in entry.journal] == ["file", "smtp"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[1]",
        b"\xff",
        b"[" * 100_000,
        b'{"handler": 1}',
        b'{"attempt": 0, "time": 1.0}',
        b'{"attempt": -3, "time": 1.0}',
        b'{"attempt": "2", "time": 1.0}',
        b'{"attempt": 2}',
        b'{"attempt": 2, "time": 1e999}',
        b'{"attempt": 2, "time": NaN}',
        b'{"attempt": 2, "time": "now"}',
    ],
)
def test_unexpected_journal_line_is_ignored(read, line):
    entry = read(TEXT, line)
    assert (entry.attempts, entry.last_start, entry.journal) == (1, CREATED, [])


def test_a_result_without_a_valid_time_counts(read):
    entry = read(TEXT, {"handler": "file", "ok": True, "time": "noon"})
    assert [(record.handler, record.time) for record in entry.journal] == [("file", None)]
    assert entry.pending == {"smtp": "c"}


def test_last_error_is_from_the_last_failure(read):
    entry = read(TEXT, result("smtp", ok=False), result("file", ok=False, permanent=True), result("smtp"))
    assert entry.last_error == "gone"
    assert read(TEXT, result("smtp")).last_error == ""


# Back-off.


def test_the_delay_doubles_from_a_minute_to_six_hours(read):
    delays = []
    for attempt in (*range(1, 12), 10**6):
        entry = read(TEXT, {"time": CREATED + attempt, "attempt": attempt})
        delays.append(entry.delay(0.5))
    assert delays == [60, 120, 240, 480, 960, 1920, 3840, 7680, 15360, 21600, 21600, 21600]
    assert entry.last_start == CREATED + 10**6


def test_the_delay_varies_by_a_quarter(read):
    assert read().delay(0) == 45
    assert read().delay(1) == 75
