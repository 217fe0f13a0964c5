"""What relays remember about a message: a header that is not of their form counts as none."""

from __future__ import annotations

import json

import pytest

from event._broker import RelayState

NAME = "e3-event-relay"
EMPTY = {
    "attempts": 0,
    "first_seen": 0,
    "due": 0,
    "crash_count": 0,
    "on_trial": False,
    "pending_handlers": None,
    "refused": {},
}
FULL = {
    "attempts": 3, "first_seen": 1e9, "due": 2e9, "crash_count": 2, "on_trial": True, "pending_handlers": ["a", "b"],
    "refused": {"c": "no"},
}  # fmt: skip


def fields(state):
    return {name: getattr(state, name) for name in EMPTY}


def read(text):
    return fields(RelayState.from_headers({NAME: text}))


def test_state_round_trips():
    assert read(json.dumps(FULL)) == FULL
    state = RelayState.from_headers({NAME: json.dumps(FULL)})
    assert read(state.as_headers()[NAME]) == FULL


def test_message_without_state_is_new():
    assert fields(RelayState.from_headers({})) == EMPTY


def test_unknown_keys_are_ignored():
    assert read(json.dumps({**FULL, "moon": "full"})) == FULL


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("no JSON", id="no JSON"),
        pytest.param("[]", id="a list"),
        pytest.param("[" * 20_000, id="deep"),
        pytest.param('{"due": %s}' % ("9" * 10_000), id="a number of 10 000 digits"),
        pytest.param('{"pending_handlers": ["\u00e9"]}', id="not ASCII: it would grow as it is written again"),
        pytest.param(json.dumps({"pending_handlers": [str(n) for n in range(10**6)]}), id="a million names"),
        pytest.param('{"due": NaN}', id="due never"),
        pytest.param('{"due": Infinity}', id="due in the end"),
        pytest.param('{"due": 1e308}', id="due too late"),
        pytest.param('{"due": -1}', id="due before 1970"),
        pytest.param('{"due": "1"}', id="due as text"),
        pytest.param('{"first_seen": 1e308}', id="since the end"),
        pytest.param('{"first_seen": NaN}', id="since never"),
        pytest.param('{"first_seen": null}', id="since null"),
        pytest.param('{"attempts": -5}', id="fewer than no attempts"),
        pytest.param('{"attempts": 1.5}', id="half an attempt"),
        pytest.param('{"attempts": 1%s}' % ("0" * 400), id="attempts beyond a float"),
        pytest.param('{"crash_count": -1000000000}', id="fewer than no deaths"),
        pytest.param('{"crash_count": [1]}', id="a list of deaths"),
        pytest.param('{"pending_handlers": "smtp"}', id="names that are text"),
        pytest.param('{"pending_handlers": [1]}', id="names that are numbers"),
        pytest.param('{"pending_handlers": {"a": 1}}', id="names that are an object"),
        pytest.param('{"on_trial": 1}', id="a number for a flag"),
        pytest.param('{"refused": null}', id="no reasons"),
        pytest.param('{"refused": ["a"]}', id="reasons that are a list"),
        pytest.param('{"refused": {"a": 1}}', id="a reason that is a number"),
    ],
)
def test_malformed_header_counts_as_none(text):
    assert read(text) == EMPTY


@pytest.mark.parametrize(
    ("content", "pending"),
    [
        pytest.param({"pending_handlers": ["a", "b", "a"]}, ["a", "b"], id="each once"),
        pytest.param({"pending_handlers": []}, None, id="none: no relay writes that"),
        pytest.param({"pending_handlers": [], "refused": {"a": "no"}}, [], id="none but one has refused it"),
        pytest.param({"pending_handlers": None}, None, id="all"),
    ],
)
def test_pending_handlers_are_unique_and_not_empty(content, pending):
    assert read(json.dumps(content))["pending_handlers"] == pending


def test_long_reasons_are_cut_to_fit_into_a_header():
    state = RelayState()
    state.refused = {"http": "\u00e9" * 100_000}
    header = state.as_headers()[NAME]
    assert len(header) < 2000
    assert read(header)["refused"] == {"http": "\u00e9" * 200}


@pytest.mark.parametrize(
    ("pending", "expected"),
    [
        pytest.param(["a", "c"], ["a", "c"], id="with those that have refused it, each once"),
        pytest.param(["a"], ["a", "c"], id="and those that have refused it"),
        pytest.param(None, None, id="all, as before"),
    ],
)
def test_begin_anew_keeps_only_pending_handlers(pending, expected):
    state = RelayState.from_headers({NAME: json.dumps(FULL)})
    state.pending_handlers = pending
    state.reset()
    assert fields(state) == {**EMPTY, "pending_handlers": expected}
