"""Senders and relays refuse messages above the same limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from event import Event, PermanentError
from event._broker import EventMessage, decode_message, encode_message, message

GOLDEN = Path(__file__).parents[1].joinpath("data", "broker", "message.json").read_bytes()


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        pytest.param("MAX_BODY", 700, "it has .* bytes; the limit is 700", id="body"),
        pytest.param("MAX_ATTACHMENTS", 2, "it has 3 files; the limit is 2", id="files"),
        pytest.param("MAX_ATTACHED", 8 << 30, "its files have 8589934601 bytes; the limit is 8589934592", id="size"),
        pytest.param("MAX_NESTING", 3, "nested more than 3 levels", id="nesting"),
    ],
)
def test_message_above_a_limit_is_refused(monkeypatch, limit, value, reason):
    monkeypatch.setattr(message, limit, value)
    with pytest.raises(ValueError, match=reason):
        decode_message(GOLDEN)


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        pytest.param("MAX_BODY", 700, "it has [0-9]* bytes; the limit is 700", id="body"),
        pytest.param("MAX_ATTACHMENTS", 2, "it has 3 attachments; the limit is 2", id="attachments"),
        pytest.param("MAX_ATTACHED", 8 << 30, "its files have 8589934601 bytes; the limit is 8589934592", id="size"),
        pytest.param("MAX_NESTING", 3, "it is nested more than 3 levels deep", id="nesting"),
    ],
)
def test_event_that_no_relay_accepts_is_refused_by_its_sender(monkeypatch, limit, value, reason):
    sent = decode_message(GOLDEN)
    monkeypatch.setattr(message, limit, value)
    with pytest.raises(PermanentError, match=f"^no relay accepts the event: {reason}$"):
        encode_message(sent)


@pytest.mark.parametrize("key", ["uid", "name"])
def test_event_whose_formatter_removes_its_identity_is_refused_by_its_sender(key):
    made = Event("n")
    made.set_formatter(key, lambda key, value: {})
    with pytest.raises(PermanentError, match="its data must have a 'uid' and a 'name'"):
        encode_message(EventMessage("1", 0.0, made, {}, {}))


def test_deepest_event_that_is_sent_is_accepted():
    value = "x"
    for _ in range(message.MAX_NESTING - 3):  # the message, the event and its data are three levels
        value = [value]
    body = encode_message(EventMessage("1", 0.0, Event("n", value=value), {}, {}))
    assert decode_message(body).event.value == value
    with pytest.raises(PermanentError, match="nested more than 200 levels deep"):
        encode_message(EventMessage("1", 0.0, Event("n", value=[value]), {}, {}))
