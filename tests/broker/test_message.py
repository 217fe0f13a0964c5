"""Encode and decode messages; refuse invalid messages with a reason."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from event import Event, EventError
from event._broker import EventMessage, InlineFile, S3Reference, decode_message, encode_message, message
from event._trace_context import Span

GOLDEN = Path(__file__).parents[1] / "data" / "broker" / "message.json"
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LOG = b"all good\n"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def sha1(data):
    return hashlib.sha1(data).hexdigest()


def golden_message():
    """Return the content of the golden file."""
    event = Event("compile", "5f7b1c1e-0d0a-4a2b-8f3e-2c9d6b1a7e40", begin_time=1700000000.0, target="arm", note="café")
    event.close()
    event._data["end_time"] = 1700000060.5
    attachments = {"build.log": ("0", sha1(LOG)), "empty": ("1", sha1(b"")), "core": ("2", sha1(b"dumped"))}
    core = S3Reference(8 << 30, "s3://builds/events/0c5f5d2e/core")
    span = Span(TRACE, SPAN, state="vendor=1")
    return EventMessage(
        "0c5f5d2e-1b", 1700000061.25, event, attachments,
        {"0": InlineFile.of(LOG), "1": InlineFile.of(b""), "2": core}, span,
    )  # fmt: skip


def golden_json():
    """Return the JSON object of the golden file, for a test that changes it."""
    return json.loads(GOLDEN.read_bytes())


def attachment_content(message, name):
    file, digest = message.attachments[name]
    return b"".join(message.files[file].chunks(digest))


def is_same(one, other):
    return encode_message(one) == encode_message(other)


# Encode and decode


def test_message_has_the_documented_format():
    assert encode_message(golden_message()) == GOLDEN.read_bytes()


def test_documented_format_is_decoded():
    decoded = decode_message(GOLDEN.read_bytes())
    assert (decoded.id, decoded.created) == ("0c5f5d2e-1b", 1700000061.25)
    assert decoded.event.as_dict() == golden_message().event.as_dict()
    assert decoded.event._closed
    assert decoded.attachments == golden_message().attachments
    assert (attachment_content(decoded, "build.log"), attachment_content(decoded, "empty")) == (LOG, b"")
    assert (decoded.files["2"].url, decoded.files["2"].size) == ("s3://builds/events/0c5f5d2e/core", 8 << 30)
    assert (decoded.span.traceparent, decoded.span.state) == (f"00-{TRACE}-{SPAN}-01", "vendor=1")


def test_unknown_keys_of_a_message_are_ignored():
    text = golden_json()
    for place in (text, text["trace"], text["event"], text["files"]["0"]):
        place["unknown"] = {"key": "value"}
    assert is_same(decode_message(json.dumps(text).encode()), golden_message())


DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
NAMES = st.text(min_size=1).filter(lambda name: "\0" not in name)
IDS = st.from_regex(r"[0-9A-Za-z-]{1,64}", fullmatch=True)
CONTENTS = st.binary() | st.builds(S3Reference, st.integers(0, 1 << 34), st.text().map("s3://b/{}".format))
SPANS = st.none() | st.builds(
    Span,
    st.integers(1, (1 << 128) - 1).map("{:032x}".format),
    st.integers(1, (1 << 64) - 1).map("{:016x}".format),
    flags=st.integers(0, 3),
    state=st.text(st.characters(min_codepoint=32, max_codepoint=126)),
)


@UNTIMED
@given(IDS, st.floats(0, 1e11, exclude_max=True), st.text(), DATA, st.dictionaries(NAMES, CONTENTS, max_size=3), SPANS)
def test_message_round_trips(sending, created, name, data, contents, span):  # noqa: PLR0913  # the fields of a message
    files = {
        str(number): InlineFile.of(file) if isinstance(file, bytes) else file
        for number, file in enumerate(contents.values())
    }
    attachments = {
        name: (str(number), sha1(file) if isinstance(file, bytes) else "d")
        for number, (name, file) in enumerate(contents.items())
    }
    event = Event(name, data=data)
    decoded = decode_message(encode_message(EventMessage(sending, created, event, attachments, files, span)))
    assert (decoded.id, decoded.created, decoded.attachments) == (sending, created, attachments)
    assert (decoded.event.name, decoded.event.data, decoded.event._closed) == (name, data, False)
    for key, file in contents.items():
        stored = decoded.files[attachments[key][0]]
        assert stored == file if isinstance(file, S3Reference) else attachment_content(decoded, key) == file
    sent_span, decoded_span = (each and (each.traceparent, each.state) for each in (span, decoded.span))
    assert decoded_span == sent_span


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(math.nan, None, id="nan"),
        pytest.param(math.inf, None, id="infinity"),
        pytest.param({3}, [3], id="set"),
        pytest.param(b"\xff", "\\xff", id="bytes"),
        pytest.param(Path("a") / "b", str(Path("a") / "b"), id="path"),
        pytest.param("\ud800", "\\ud800", id="lone-surrogate"),
    ],
)
def test_values_without_a_json_type_are_converted(value, expected):
    sent = EventMessage("1", 0.0, Event("compile", value=value), {}, {})
    body = encode_message(sent)
    assert body.isascii()
    assert decode_message(body).event.value == expected


def test_circular_data_is_refused():
    event = Event("compile", loop=[])
    event.loop.append(event.loop)
    with pytest.raises(EventError, match="loop' contains itself"):
        encode_message(EventMessage("1", 0.0, event, {}, {}))


# Invalid messages


def test_newer_version_is_reported_before_other_errors():
    with pytest.raises(ValueError, match="its version is 2; this release reads 1"):
        decode_message(b'{"version": 2, "other": "format"}')


def changed(*path, to):
    """Return the golden JSON with another value at a path of keys, or without the last key if `to` is Ellipsis."""
    text = golden_json()
    inner = text
    for key in path[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return text


BAD_VERSIONS = [..., None, True, False, 0, -1, 1.0, "1", [1], {}, math.nan]
BAD_TIMES = [..., None, True, "now", -1, -0.5, 1e11, 10**400, math.inf, -math.inf, math.nan, [0]]
BAD_IDS = [..., None, 1, "", "../1", "a/b", "a.b", "a b", "1\n", "ä", "\ud800", "x" * 65, ["1"]]
BAD_SIZES = [..., None, True, -1, 9.0, "9", math.nan, [9]]


def bad(reason, *path, to, name):
    """Return a parameter set: the golden JSON with a change, and why it is refused."""
    return pytest.param(changed(*path, to=to), reason, id=f"{name}-{to!a}"[:24])


UNVERSIONED = "not an object with a version"
FILES = "'files' must be an object of objects"
LIST = "'attachments' must be an object"
BAD_FILES = ["", "x", "-1", "1.0", "../0", "٣", "1234567890", "0\n", "\ud800"]
BAD_TEXTS = [..., None, 1, [], {}, "a", "ä", "\ud800", "YW xs", "YWxs\n"]
BAD_URLS = ["", "http://h/k", 1, True, ["s3://b/k"], {}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(b"", "Expecting value", id="empty"),
        pytest.param(b"{", "Expecting", id="truncated"),
        pytest.param(b'{"a": "\xff"}', "decode", id="not-utf-8"),
        pytest.param(GOLDEN.read_text("utf-8").encode("utf-16"), "decode", id="utf-16"),
        pytest.param(b"\x00\x01\x02", "Expecting value", id="binary"),
        pytest.param(b"[" * 100_000, "nested more than 200 levels", id="nested"),
        pytest.param(
            b'{"version": 1, "event": ' + b'{"a":' * 100_000, "nested more than 200 levels", id="nested-inside"
        ),
        pytest.param(b'{"version": ' + b"9" * 5000 + b"}", "digits", id="number-of-5000-digits"),
        pytest.param(b'{"version": 1e400}', UNVERSIONED, id="version-beyond-a-float"),
        pytest.param([], UNVERSIONED, id="list"),
        pytest.param(1, UNVERSIONED, id="number"),
        *[bad(UNVERSIONED, "version", to=to, name="version") for to in BAD_VERSIONS],
        *[bad("'created' must be a time", "created", to=to, name="time") for to in BAD_TIMES],
        *[bad("'id' must be letters, digits and hyphens", "id", to=to, name="id") for to in BAD_IDS],
        bad("not a JSON object", "event", to=..., name="event"),
        bad("'uid' and a 'name'", "event", "data", to={}, name="data"),
        bad("true or false", "event", "closed", to=1, name="closed"),
        bad(LIST, "event", "attachments", to=[], name="attachments"),
        bad(LIST, "event", "attachments", "x", to="0", name="attachment"),
        *[bad(FILES, "files", to=to, name="files") for to in (..., None, [], "")],
        bad(FILES, "files", "0", to="x", name="file"),
        *[bad("'0': its name must be a number", "files", "0", "size", to=to, name="size") for to in BAD_SIZES],
        *[
            pytest.param(
                changed("files", name, to={"size": 0, "base64": ""}), "its name must be a number", id=f"file-{name!a}"
            )
            for name in BAD_FILES
        ],
        bad("'0' must have 's3', or 'base64' of 10 bytes", "files", "0", "size", to=10, name="size"),
        bad("'0' must have 's3', or 'base64' of 0 bytes", "files", "0", "size", to=0, name="size"),
        *[bad("'0' must have 's3', or 'base64'", "files", "0", "base64", to=to, name="base64") for to in BAD_TEXTS],
        *[bad("file '0': 's3' must be s3://", "files", "0", "s3", to=to, name="s3") for to in BAD_URLS],
        bad("attachment 'build.log' is not among the files", "files", "0", to=..., name="file"),
        bad("several attachments are one file", "event", "attachments", "core", to=["0", sha1(LOG)], name="one"),
    ],
)
def test_invalid_message_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        decode_message(text if isinstance(text, bytes) else json.dumps(text).encode())


@pytest.mark.parametrize(
    ("file", "digest", "reason"),
    [
        pytest.param(InlineFile(9, "YWxsIGdvb2Q!"), sha1(LOG), "its content is not base64", id="character"),
        pytest.param(InlineFile(9, "YWxsIGdvb2Q="), sha1(LOG), "it has 8 bytes, not 9", id="shorter"),
        pytest.param(InlineFile.of(b"other"), sha1(LOG), "its SHA-1 is ", id="another-content"),
        pytest.param(InlineFile.of(LOG), sha1(LOG).upper(), "its SHA-1 is ", id="upper-case"),
    ],
)
def test_content_that_differs_from_its_size_or_digest_is_refused(file, digest, reason):
    with pytest.raises(ValueError, match=reason):
        b"".join(file.chunks(digest))


def test_content_is_decoded_in_chunks():
    content = bytes(range(256)) * 10_000
    file = InlineFile.of(content)
    chunks = [*file.chunks(sha1(content))]
    assert b"".join(chunks) == content
    assert max(map(len, chunks)) < 1 << 20


def test_repr_of_a_file_does_not_contain_its_content():
    assert repr(InlineFile.of(LOG)) == "InlineFile(size=9)"


def test_several_attachments_of_one_file_count_separately(monkeypatch):
    monkeypatch.setattr(message, "MAX_ATTACHMENTS", 5)
    text = golden_json()
    for number in range(3, 6):
        text["event"]["attachments"][f"a{number}"] = ["0", sha1(LOG)]
    with pytest.raises(ValueError, match="it has 6 attachments; the limit is 5"):
        decode_message(json.dumps(text).encode())


def test_brackets_in_strings_do_not_count_as_nesting():
    text = golden_json()
    text["event"]["data"]["note"] = '[{"' * 500 + "\\"
    assert decode_message(json.dumps(text).encode()).event.note == '[{"' * 500 + "\\"


@pytest.mark.parametrize("end", ["", "\\"])
def test_nesting_of_a_body_of_megabytes_is_checked_in_one_pass(end):
    body = ("[" * 300 + '"' + '\\"' * 2_000_000 + end).encode()
    with pytest.raises(ValueError, match="nested more than 200 levels"):
        decode_message(body)


def test_last_value_of_a_duplicate_key_is_used():
    body = GOLDEN.read_bytes()
    assert decode_message(body[:-1] + b', "id": "other"}').id == "other"
    with pytest.raises(ValueError, match="'id' must be"):
        decode_message(body[:-1] + b', "id": 1}')


def test_decoding_accepts_any_s3_url():
    """The relay decides whether it may fetch the file."""
    text = changed("files", "0", to={"size": 9, "s3": "s3://elsewhere/../x", "base64": "!"})
    decoded = decode_message(json.dumps(text).encode())
    assert (decoded.files["0"].url, decoded.files["0"].size) == ("s3://elsewhere/../x", 9)


# Trace context


@pytest.mark.parametrize(
    "trace",
    [
        *[..., None, [], "00", {}],
        *[{"traceparent": parent} for parent in (None, 1, [], "", "00-0-0-01", f"00-{'0' * 32}-{SPAN}-01", "ä")],
        {"tracestate": "v=1"},
    ],
)
def test_invalid_trace_is_ignored(trace):
    assert decode_message(json.dumps(changed("trace", to=trace)).encode()).span is None


@pytest.mark.parametrize("state", [..., None, 1, [], {}, "v=\n", "v=\0", "v=ä", "\ud800"])
def test_invalid_trace_state_is_ignored(state):
    span = decode_message(json.dumps(changed("trace", "tracestate", to=state)).encode()).span
    assert (span.traceparent, span.state) == (f"00-{TRACE}-{SPAN}-01", "")


def test_message_sent_without_a_trace_has_none():
    sent = golden_message()
    sent.span = None
    assert "trace" not in json.loads(encode_message(sent))


# Random changes

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from([10**400, 1e308, "\ud800", "0" * 5000, base64.b64encode(LOG).decode(), "s3://b/k", "00-0-0-00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def paths_in(value, path=()):
    """Return the path of keys to each value within a value, and to the value itself."""
    found = [path]
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            found += paths_in(inner, (*path, key))
    return found


PATHS = [path for path in paths_in(json.loads(GOLDEN.read_bytes())) if path]


def assert_decoded_or_refused(body):
    try:
        message = decode_message(body)
    except ValueError:
        return
    assert is_same(decode_message(encode_message(message)), message)


@settings(UNTIMED, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(PATHS), ANYTHING | st.just(...)), min_size=1, max_size=3))
def test_message_with_mutated_values_is_decoded_or_refused(changes):
    text = golden_json()
    for path, to in changes:
        inner = text
        try:
            for key in path[:-1]:
                inner = inner[key]
            if to is ...:
                del inner[path[-1]]
            else:
                inner[path[-1]] = to
        except (LookupError, TypeError):
            pass  # an earlier change has removed this path
    assert_decoded_or_refused(json.dumps(text).encode())


@settings(UNTIMED, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(GOLDEN.read_bytes())), st.integers(0, 3), st.binary(max_size=4)), max_size=4)
)
def test_message_with_mutated_bytes_is_decoded_or_refused(changes):
    body = GOLDEN.read_bytes()
    for start, removed, inserted in changes:
        body = body[:start] + inserted + body[start + removed :]
    assert_decoded_or_refused(body)


@UNTIMED
@given(st.binary() | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_random_bytes_are_refused(body):
    with pytest.raises(ValueError, match=r"\S"):
        decode_message(body)
