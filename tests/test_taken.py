"""A message as it was taken: whatever an item of a list is, it is a message."""

from __future__ import annotations

import json

import pytest

from event._taken import Taken, marked, of_envelope

BODY = {"body": "aGk=", "properties": {"body_encoding": "base64"}}


def item(**changes):
    return json.dumps({**BODY, "headers": {"a": 1}, **changes}).encode()


def test_the_message_is_what_the_envelope_holds():
    taken = of_envelope(item())
    assert (taken.body, taken.headers, taken.again, taken.handle) == (b"hi", {"a": 1}, False, item())


@pytest.mark.parametrize(
    ("changes", "body", "headers"),
    [
        pytest.param({"properties": {}, "body": "h\u00e9"}, "h\u00e9".encode(), {"a": 1}, id="text"),
        pytest.param({"properties": {}, "body": "\ud800"}, b"\xed\xa0\x80", {"a": 1}, id="a lone surrogate"),
        pytest.param({"properties": {}, "body": 10**12}, b"", {"a": 1}, id="a number, which is no terabyte of zeros"),
        pytest.param({"properties": {}, "body": [1, 2]}, b"", {"a": 1}, id="a list"),
        pytest.param({"properties": {}, "body": None}, b"", {"a": 1}, id="null"),
        pytest.param({"headers": None}, b"hi", {}, id="no headers"),
        pytest.param({"headers": "redelivered"}, b"hi", {}, id="headers that are text"),
        pytest.param({"headers": ["redelivered"]}, b"hi", {}, id="headers that are a list"),
    ],
)
def test_an_odd_envelope_is_read_as_far_as_it_goes(changes, body, headers):
    taken = of_envelope(item(**changes))
    assert (taken.body, taken.headers, taken.again) == (body, headers, False)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\x00 no JSON", id="bytes"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"7", id="a number"),
        pytest.param(b'"text"', id="text"),
        pytest.param(b"{}", id="an object of another kind"),
        pytest.param(item(properties=[]), id="properties that are a list"),
        pytest.param(item(body="a"), id="no base64"),
        pytest.param(item(body="\u00e9"), id="base64 that is not ASCII"),
        pytest.param(item(body=7), id="base64 that is a number"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"body": ' + b"9" * 10_000 + b"}", id="a number of 10 000 digits"),
    ],
)
def test_what_is_no_envelope_is_a_message_itself(raw):
    taken = of_envelope(raw)
    assert (taken.body, taken.headers, taken.again) == (raw, {}, False)


def test_a_marked_item_tells_that_it_was_taken_before_and_holds_what_it_held():
    taken = of_envelope(marked(item()))
    assert (taken.body, taken.headers["a"], taken.again) == (b"hi", 1, True)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\xff", id="bytes"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="no headers"),
        pytest.param(item(headers="text"), id="headers that are text"),
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_what_cannot_be_marked_stays_as_it_is(raw):
    assert marked(raw) == raw


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b"a", b"a", id="bytes"),
        pytest.param(memoryview(b"a"), b"a", id="a view"),
        pytest.param(bytearray(b"a"), b"a", id="a bytearray"),
        pytest.param("a", b"a", id="text"),
        pytest.param(None, b"", id="nothing"),
    ],
)
def test_a_body_is_bytes(body, expected):
    assert Taken(body, None, False, 1).body == expected
