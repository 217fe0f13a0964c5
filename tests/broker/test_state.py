"""The state in a message's header: encode, decode and reset it; ignore an invalid header."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from event._broker import RelayState

HEADER = "e3-event-relay"
NEW = {
    "attempts": 0,
    "first_seen": 0,
    "due": 0,
    "crash_count": 0,
    "on_trial": False,
    "pending_handlers": None,
    "refused": {},
}
EXAMPLE = {
    "attempts": 3, "first_seen": 1e9, "due": 2e9, "crash_count": 2, "on_trial": True, "pending_handlers": ["a", "b"],
    "refused": {"c": "no"},
}  # fmt: skip


def decode(text):
    return asdict(RelayState.from_headers({HEADER: text}))


def test_state_round_trips():
    assert decode(json.dumps(EXAMPLE)) == EXAMPLE
    state = RelayState.from_headers({HEADER: json.dumps(EXAMPLE)})
    assert decode(state.as_headers()[HEADER]) == EXAMPLE


def test_message_without_state_is_new():
    assert asdict(RelayState.from_headers({})) == NEW


def test_unknown_keys_of_a_state_are_ignored():
    assert decode(json.dumps({**EXAMPLE, "unknown": 1})) == EXAMPLE


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("no JSON", id="not JSON"),
        pytest.param("[]", id="a list"),
        pytest.param("[" * 20_000, id="deeply nested"),
        pytest.param('{"due": %s}' % ("9" * 10_000), id="a number of 10 000 digits"),
        pytest.param('{"pending_handlers": ["\u00e9"]}', id="not ASCII: it would become longer"),
        pytest.param(json.dumps({"pending_handlers": [str(n) for n in range(10**6)]}), id="a million handlers"),
        pytest.param('{"due": NaN}', id="due is NaN"),
        pytest.param('{"due": Infinity}', id="due is infinite"),
        pytest.param('{"due": 1e308}', id="due is too large"),
        pytest.param('{"due": -1}', id="due is negative"),
        pytest.param('{"due": "1"}', id="due is a string"),
        pytest.param('{"first_seen": 1e308}', id="first_seen is too large"),
        pytest.param('{"first_seen": NaN}', id="first_seen is NaN"),
        pytest.param('{"first_seen": null}', id="first_seen is null"),
        pytest.param('{"attempts": -5}', id="attempts is negative"),
        pytest.param('{"attempts": 1.5}', id="attempts is a fraction"),
        pytest.param('{"attempts": 1%s}' % ("0" * 400), id="attempts is too large"),
        pytest.param('{"crash_count": -1000000000}', id="crash_count is negative"),
        pytest.param('{"crash_count": [1]}', id="crash_count is a list"),
        pytest.param('{"pending_handlers": "smtp"}', id="pending_handlers is a string"),
        pytest.param('{"pending_handlers": [1]}', id="pending_handlers has numbers"),
        pytest.param('{"pending_handlers": {"a": 1}}', id="pending_handlers is an object"),
        pytest.param('{"on_trial": 1}', id="on_trial is a number"),
        pytest.param('{"refused": null}', id="refused is null"),
        pytest.param('{"refused": ["a"]}', id="refused is a list"),
        pytest.param('{"refused": {"a": 1}}', id="refused has numbers"),
    ],
)
def test_invalid_header_is_ignored(text):
    assert decode(text) == NEW


@pytest.mark.parametrize(
    ("content", "pending"),
    [
        pytest.param({"pending_handlers": ["a", "b", "a"]}, ["a", "b"], id="duplicates are removed"),
        pytest.param({"pending_handlers": []}, None, id="an empty list means all: no relay writes it"),
        pytest.param({"pending_handlers": [], "refused": {"a": "no"}}, [], id="none, after a permanent failure"),
        pytest.param({"pending_handlers": None}, None, id="all"),
    ],
)
def test_pending_handlers_are_decoded(content, pending):
    assert decode(json.dumps(content))["pending_handlers"] == pending


def test_long_reasons_are_shortened():
    state = RelayState()
    state.refused = {"http": "\u00e9" * 100_000}
    header = state.as_headers()[HEADER]
    assert len(header) < 2000
    assert decode(header)["refused"] == {"http": "\u00e9" * 200}


@pytest.mark.parametrize(
    ("pending", "expected"),
    [
        pytest.param(["a", "c"], ["a", "c"], id="duplicates are removed"),
        pytest.param(["a"], ["a", "c"], id="permanent failures are added"),
        pytest.param(None, None, id="all"),
    ],
)
def test_restarted_state_has_only_pending_handlers(pending, expected):
    state = RelayState.from_headers({HEADER: json.dumps(EXAMPLE)})
    state.pending_handlers = pending
    assert asdict(state.restarted()) == {**NEW, "pending_handlers": expected}
