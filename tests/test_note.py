"""What relays note beside a message: what is none of ours counts as no note."""

from __future__ import annotations

import json

import pytest

from event._note import NAME, Note

EMPTY = {"attempts": 0, "since": 0, "due": 0, "deaths": 0, "owing": None, "refused": {}}
FULL = {"attempts": 3, "since": 1e9, "due": 2e9, "deaths": 2, "owing": ["a", "b"], "refused": {"c": "no"}}


def noted(text):
    return {name: getattr(note, name) for note in [Note({NAME: text})] for name in EMPTY}


def test_a_note_is_read_as_it_was_written():
    assert noted(json.dumps(FULL)) == FULL
    note = Note({NAME: json.dumps(FULL)})
    assert noted(note.header()[NAME]) == FULL


def test_a_message_without_a_note_is_new():
    assert {name: getattr(Note({}), name) for name in EMPTY} == EMPTY


def test_what_a_newer_release_notes_is_ignored():
    assert noted(json.dumps({**FULL, "moon": "full"})) == FULL


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="null"),
        pytest.param(7, id="a number"),
        pytest.param(json.dumps(FULL).encode(), id="bytes"),
        pytest.param("", id="nothing"),
        pytest.param("no JSON", id="no JSON"),
        pytest.param("[]", id="a list"),
        pytest.param("[" * 20_000, id="deep"),
        pytest.param('{"due": %s}' % ("9" * 10_000), id="a number of 10 000 digits"),
        pytest.param('{"owing": ["\u00e9"]}', id="not ASCII: it would grow as it is written again"),
        pytest.param(json.dumps({"owing": [str(n) for n in range(10**6)]}), id="a million names"),
        pytest.param('{"due": NaN}', id="due never"),
        pytest.param('{"due": Infinity}', id="due in the end"),
        pytest.param('{"due": 1e308}', id="due too late"),
        pytest.param('{"due": -1}', id="due before 1970"),
        pytest.param('{"due": "1"}', id="due as text"),
        pytest.param('{"since": 1e308}', id="since the end"),
        pytest.param('{"since": NaN}', id="since never"),
        pytest.param('{"since": null}', id="since null"),
        pytest.param('{"attempts": -5}', id="fewer than no attempts"),
        pytest.param('{"attempts": 1.5}', id="half an attempt"),
        pytest.param('{"attempts": 1%s}' % ("0" * 400), id="attempts beyond a float"),
        pytest.param('{"deaths": -1000000000}', id="fewer than no deaths"),
        pytest.param('{"deaths": [1]}', id="a list of deaths"),
        pytest.param('{"owing": "smtp"}', id="names that are text"),
        pytest.param('{"owing": [1]}', id="names that are numbers"),
        pytest.param('{"owing": {"a": 1}}', id="names that are an object"),
        pytest.param('{"refused": null}', id="no reasons"),
        pytest.param('{"refused": ["a"]}', id="reasons that are a list"),
        pytest.param('{"refused": {"a": 1}}', id="a reason that is a number"),
    ],
)
def test_what_is_no_note_counts_as_none(text):
    assert noted(text) == EMPTY


@pytest.mark.parametrize(
    ("content", "owing"),
    [
        pytest.param({"owing": ["a", "b", "a"]}, ["a", "b"], id="each once"),
        pytest.param({"owing": []}, None, id="nobody: no relay notes that"),
        pytest.param({"owing": [], "refused": {"a": "no"}}, [], id="nobody but who has refused it"),
        pytest.param({"owing": None}, None, id="all"),
    ],
)
def test_who_owes_it(content, owing):
    assert noted(json.dumps(content))["owing"] == owing


def test_a_reason_is_cut_since_a_header_has_room_for_so_much():
    note = Note({})
    note.refused = {"http": "\u00e9" * 100_000}
    header = note.header()[NAME]
    assert len(header) < 2000
    assert noted(header)["refused"] == {"http": "\u00e9" * 200}


@pytest.mark.parametrize(
    ("owing", "asked", "owes"),
    [
        pytest.param(None, "a", True, id="all"),
        pytest.param(["a"], "a", True, id="it"),
        pytest.param(["b"], "a", False, id="others"),
    ],
)
def test_a_handler_owes_it_or_not(owing, asked, owes):
    note = Note({})
    note.owing = owing
    assert note.owes(asked) is owes


@pytest.mark.parametrize(
    ("owing", "expected"),
    [
        pytest.param(["a", "c"], ["a", "c"], id="with those that have refused it, each once"),
        pytest.param(["a"], ["a", "c"], id="and those that have refused it"),
        pytest.param(None, None, id="all, as before"),
    ],
)
def test_a_note_that_begins_anew_forgets_all_but_who_owes_it(owing, expected):
    note = Note({NAME: json.dumps({**FULL})})
    note.owing = owing
    note.begin_anew()
    assert {name: getattr(note, name) for name in EMPTY} == {**EMPTY, "owing": expected}
