"""Frames: each one round-trips, and a malformed one is an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event._worker import ProtocolError, protocol
from event._worker.protocol import FrameReader, encode_frame

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def frames(data, limit=1 << 20, blob=1 << 20):
    reader = FrameReader(limit, blob)
    reader.feed(data)
    return list(reader.frames())


@given(
    st.lists(st.tuples(st.dictionaries(st.text(), VALUES, max_size=3), st.binary(max_size=50)), max_size=4), st.data()
)
def test_frames_round_trip_in_chunks_of_any_size(sent, data):
    stream = b"".join(encode_frame(message, blob) for message, blob in sent)
    reader, found = FrameReader(1 << 20, 1 << 20), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        reader.feed(stream[:size])
        found += reader.frames()
        stream = stream[size:]
    assert found == sent


def test_lone_surrogate_round_trips():
    assert frames(encode_frame({"a": "caf\udce9"})) == [({"a": "caf\udce9"}, b"")]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"garbage!" * 9, id="garbage"),
        pytest.param(b"\0\0\0\5\0\0\0\0[\0\0\0\0", id="not a dict"),
        pytest.param(b"\0\0\0\2\0\0\0\0{}", id="not marshal data"),
        pytest.param(b"\0\0\0\1\0\0\0\0s", id="a string without a length"),
        pytest.param(b"\0\0\0\0\0\0\0\0", id="empty"),
        pytest.param(b"\0\1\0\0\0\0\0\0" + b"(\1\0\0\0" * 13108, id="nested too deeply"),
        pytest.param(b"\0\x10\0\1\0\0\0\0", id="message too long"),
        pytest.param(b"\0\0\0\2\0\x10\0\1{}", id="blob too long"),
    ],
)
def test_malformed_frame_is_an_error_with_any_data_after_it(data):
    with pytest.raises(ProtocolError):
        frames(data)


def test_blob_in_a_report_is_an_error():
    with pytest.raises(ProtocolError):
        frames(encode_frame({}, b"x"), blob=0)


def test_frame_above_the_size_limit_is_not_written(monkeypatch):
    monkeypatch.setattr(protocol, "LONGEST_JOB", 10)
    with pytest.raises(ValueError, match=r"a frame of \d\d and 1 bytes is too long for the worker"):
        encode_frame({"a": "1234"}, b"x")
