"""The format of an entry: what is written is read, what is odd is refused, and what is torn is left out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event import Delivery, Event, PermanentError, _entry, _trace
from event._entry import Entry, NewerVersionError

UNTIMED = settings(deadline=None)
CREATED = 1780000000.5
LOG = ("0", "a9993e364706816aba3e25717850c26c9cd0d89d")
TEXT = {
    "version": 1,
    "id": "i",
    "created": CREATED,
    "event": {"data": {"uid": "u", "name": "build"}, "attachments": {"log": LOG}, "closed": True},
    "handlers": [{"name": "smtp", "config": "c"}, {"name": "file", "config": "d"}],
}


def entry(*journal):
    return _entry.decode(json.dumps(TEXT).encode(), journal)


def did(handler, *, ok=True, permanent=False):
    error = None if ok else PermanentError("gone") if permanent else ValueError("no")
    return _entry.encode_delivery(CREATED + 1, Delivery(handler, ok=ok, error=error, seconds=0.12345))


def test_the_text_is_what_the_docs_say():
    e = Event("build", uid="u")
    e._attachments["log"] = LOG
    text = json.loads(_entry.encode(Entry("i", CREATED, e, {"smtp": "c", "file": "d"})))
    assert {key: text[key] for key in ("version", "id", "created", "handlers")} == {
        key: TEXT[key] for key in ("version", "id", "created", "handlers")
    }
    assert text["event"]["attachments"] == {"log": [*LOG]}
    assert text["event"]["data"]["uid"] == "u"
    assert text["event"]["closed"] is False
    assert "trace" not in text


@UNTIMED
@given(st.dictionaries(st.text(), st.text()), st.floats(0, 1e10), st.dictionaries(st.text(min_size=1), st.text()))
def test_what_is_written_is_read(handlers, created, data):
    e = Event("build", uid="u", data=data)
    again = _entry.decode(_entry.encode(Entry("i", created, e, handlers)))
    assert (again.id, again.created, again.handlers, again.event.data) == ("i", created, handlers, data)
    assert (again.attempts, again.last_start, again.owing, again.last_error) == (1, created, handlers, "")


SPAN = _trace.Span("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331", 1, "vendor=1")
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def ids(span):
    return {key: getattr(span, key) for key in span.__slots__}


@pytest.mark.parametrize(
    "span",
    [
        pytest.param(SPAN, id="all that there is"),
        pytest.param(_trace.Span(SPAN.trace_id, SPAN.span_id, flags=0), id="a root that is not recorded"),
    ],
)
def test_the_span_that_an_event_was_sent_in_is_written_and_read(span):
    text = _entry.encode(Entry("i", CREATED, Event("build"), {"file": "d"}, span=span))
    assert json.loads(text)["trace"] == _trace.as_data(span)
    assert ids(_entry.decode(text).span) == ids(span)


def test_an_entry_that_was_put_in_no_span_says_so():
    assert entry().span is _trace.NOWHERE


@pytest.mark.parametrize(
    ("number", "span"), [pytest.param(1, _trace.NOWHERE, id="no span"), pytest.param(2, SPAN, id="a span")]
)
def test_the_golden_entries_are_read(number, span):
    (path,) = (Path(__file__).parent / "data/outbox/new").glob(f"*{number}/entry.json")
    read = _entry.decode(path.read_bytes())
    assert read.id == f"8f14e45f-ceea-467f-a0e6-00000000000{number}"
    assert ids(read.span) == ids(span)


@pytest.mark.parametrize(
    ("trace", "span"),
    [
        pytest.param(None, _trace.NOWHERE, id="null"),
        pytest.param(TRACEPARENT, _trace.NOWHERE, id="a string"),
        pytest.param([TRACEPARENT], _trace.NOWHERE, id="a list"),
        pytest.param({}, _trace.NOWHERE, id="nothing"),
        pytest.param({"traceparent": 17}, _trace.NOWHERE, id="a number"),
        pytest.param({"traceparent": TRACEPARENT[:-1]}, _trace.NOWHERE, id="torn"),
        pytest.param({"traceparent": TRACEPARENT.upper()}, _trace.NOWHERE, id="upper case"),
        pytest.param({"traceparent": _trace.NOWHERE.traceparent}, _trace.NOWHERE, id="zeros"),
        pytest.param({"tracestate": "vendor=1"}, _trace.NOWHERE, id="a state alone"),
        *(
            pytest.param(
                {"traceparent": TRACEPARENT, "tracestate": state, "parent_span_id": parent},
                _trace.Span(SPAN.trace_id, SPAN.span_id),
                id=f"{state!a} and {parent!a}",
            )
            for state, parent in [(17, 17), ({"a": 1}, []), ("v=1\0", "b7ad"), ("v=1\n", ""), ("v=\ud800", None)]
        ),
    ],
)
def test_a_malformed_span_is_left_out_and_the_entry_read(trace, span):
    read = _entry.decode(json.dumps({**TEXT, "trace": trace}).encode())
    assert (read.id, read.handlers) == ("i", {"smtp": "c", "file": "d"})
    assert ids(read.span) == ids(span)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(_trace.KEYS) | st.text(), inner),
)


@UNTIMED
@given(ANYTHING)
def test_whatever_stands_there_for_a_span_the_entry_is_read(trace):
    read = _entry.decode(json.dumps({**TEXT, "trace": trace}).encode())
    assert read.event.uid == "u"


def test_keys_that_are_not_known_are_ignored():
    text = {**TEXT, "more": 1, "handlers": [{"name": "file", "config": "d", "more": 1}]}
    assert _entry.decode(json.dumps(text).encode()).handlers == {"file": "d"}
    assert entry(b'{"time": 1.0, "colour": "red"}').history == []


def test_a_newer_version_is_told_before_anything_else_is_looked_at():
    with pytest.raises(NewerVersionError, match="its version is 2; this release reads 1"):
        _entry.decode(b'{"version": 2, "shape": "unheard of"}')


def without(key):
    return {name: value for name, value in TEXT.items() if name != key}


def with_attachment(file):
    return {**TEXT, "event": {**TEXT["event"], "attachments": {"log": [file, "0"]}}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(b"", "Expecting value", id="empty"),
        pytest.param(b"{", "Expecting", id="torn"),
        pytest.param(b'{"a": "\xff"}', "decode", id="no UTF-8"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="nested"),
        pytest.param([], "no object with a version", id="a list"),
        pytest.param({}, "no object with a version", id="no version"),
        pytest.param({**TEXT, "version": "1"}, "no object with a version", id="a version that is no number"),
        pytest.param(without("created"), "'created' must be a time", id="no time"),
        pytest.param({**TEXT, "created": "now"}, "'created' must be a time", id="a time in words"),
        pytest.param({**TEXT, "created": -1}, "'created' must be a time", id="a time before all"),
        pytest.param({**TEXT, "created": 10**400}, "'created' must be a time", id="a time beyond a float"),
        pytest.param({**TEXT, "created": math.inf}, "'created' must be a time", id="a time without end"),
        pytest.param({**TEXT, "created": math.nan}, "'created' must be a time", id="no time at all"),
        pytest.param({**TEXT, "id": 1}, "'id' a string", id="an id that is a number"),
        pytest.param(without("event"), "no JSON object", id="no event"),
        pytest.param({**TEXT, "event": {**TEXT["event"], "data": {}}}, "'uid' and a 'name'", id="no name"),
        pytest.param(with_attachment("/etc/passwd"), "a file of the entry itself", id="an absolute path"),
        pytest.param(with_attachment("../0"), "a file of the entry itself", id="a path upwards"),
        pytest.param(with_attachment(".."), "a file of the entry itself", id="the directory above"),
        pytest.param(with_attachment("."), "a file of the entry itself", id="the directory itself"),
        pytest.param(with_attachment("C:0"), "a file of the entry itself", id="another drive"),
        pytest.param(with_attachment("a\\b"), "a file of the entry itself", id="a path of Windows"),
        pytest.param(without("handlers"), "a list of objects", id="no handlers"),
        pytest.param({**TEXT, "handlers": ["file"]}, "a list of objects", id="handlers without configuration"),
        pytest.param({**TEXT, "handlers": [{"name": "file"}]}, "a list of objects", id="half a handler"),
        pytest.param({**TEXT, "handlers": [{"name": [], "config": ""}]}, "a list of objects", id="a name in a list"),
        pytest.param({**TEXT, "handlers": [{"name": "file", "config": 1}]}, "must be strings", id="a number"),
    ],
)
def test_what_is_no_entry_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        _entry.decode(text if isinstance(text, bytes) else json.dumps(text).encode())


# The journal.


@pytest.mark.parametrize(
    ("journal", "owing", "refused"),
    [
        pytest.param([], {"smtp": "c", "file": "d"}, False, id="nothing yet"),
        pytest.param([did("smtp", ok=False)], {"smtp": "c", "file": "d"}, False, id="one failed"),
        pytest.param([did("smtp", ok=False), did("smtp")], {"file": "d"}, False, id="one failed, then took it"),
        pytest.param([did("smtp"), did("file")], {}, False, id="both took it"),
        pytest.param([did("smtp", ok=False, permanent=True)], {"file": "d"}, True, id="one refused for good"),
        pytest.param([did("smtp", ok=False, permanent=True), did("file")], {}, True, id="one refused, one took it"),
        pytest.param([did("other", ok=False, permanent=True)], {"smtp": "c", "file": "d"}, False, id="not a kept one"),
        pytest.param(
            [did("smtp", ok=False, permanent=True), did("file"), _entry.encode_retry(1.0)],
            {"smtp": "c"},
            False,
            id="a person asks for more",
        ),
        pytest.param(
            [_entry.encode_retry(1.0), did("smtp", ok=False, permanent=True)], {"file": "d"}, True, id="refused again"
        ),
    ],
)
def test_what_is_owed_follows_from_the_journal(journal, owing, refused):
    read = entry(*b"".join(journal).split(b"\n"))
    assert read.owing == owing
    assert read.refused is refused


def test_a_line_tells_what_a_handler_did():
    assert json.loads(did("smtp")) == {"time": CREATED + 1, "handler": "smtp", "ok": True, "seconds": 0.123}
    assert json.loads(did("smtp", ok=False)) == {
        "time": CREATED + 1,
        "handler": "smtp",
        "ok": False,
        "seconds": 0.123,
        "error": "ValueError: no",
        "permanent": False,
    }
    assert json.loads(did("smtp", ok=False, permanent=True))["permanent"] is True
    assert json.loads(_entry.encode_attempt(1.0, 2)) == {"time": 1.0, "attempt": 2}
    assert json.loads(_entry.encode_retry(1.0)) == {"time": 1.0, "retry": True}


@pytest.mark.parametrize("length", range(len(did("smtp")) - 1))
def test_a_torn_line_is_left_out_and_spoils_no_other(length):
    text = did("file") + did("smtp")[:length] + did("smtp", ok=False)
    read = entry(*text.split(b"\n"))
    assert read.owing == {"smtp": "c"}
    assert [line["handler"] for line in read.history] == ["file", "smtp"]


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
def test_an_odd_line_changes_nothing(line):
    read = entry(line[:50] if len(line) > 1000 else line)
    assert (read.attempts, read.last_start, read.history) == (1, CREATED, [])


def test_the_last_error_is_that_of_the_last_failure():
    read = entry(did("smtp", ok=False), did("file", ok=False, permanent=True), did("smtp"))
    assert read.last_error == "gone"
    assert entry(did("smtp")).last_error == ""


# Waiting.


def test_the_delay_doubles_from_a_minute_to_six_hours():
    read = entry()
    delays = []
    for attempt in (*range(1, 12), 10**6):
        read.add(_entry.encode_attempt(CREATED + attempt, attempt))
        delays.append(read.delay(0.5))
    assert delays == [60, 120, 240, 480, 960, 1920, 3840, 7680, 15360, 21600, 21600, 21600]
    assert read.last_start == CREATED + 10**6


def test_the_delay_varies_by_a_quarter():
    assert entry().delay(0) == 45
    assert entry().delay(1) == 75
