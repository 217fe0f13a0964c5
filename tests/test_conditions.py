"""The conditions in a handler's name select its events."""

from __future__ import annotations

import os

import pytest

import event
from event import _conditions, _handler_config
from event.error import EventError
from event.testing import RecordingHandler


@pytest.fixture
def box(tmp_path):
    return str(tmp_path / "outbox")


def wanted(name, box, *outcomes, **data):
    """Send one event per outcome, and return for each whether the handler gets it."""
    return [not _conditions.skipped([name], {"name": "n", **data, "outcome": outcome}, box) for outcome in outcomes]


S, F, C = "success", "failure", "cancel"


@pytest.mark.parametrize(
    ("name", "outcomes", "expected"),
    [
        pytest.param("h", [S, F, C, None], [1, 1, 1, 1], id="no condition"),
        pytest.param("h@always", [S, F, C, None], [1, 1, 1, 1], id="always"),
        pytest.param("h@failure", [S, F, C, None, ["failure"]], [0, 1, 0, 0, 0], id="failure"),
        pytest.param("h@success", [S, F, C, None], [1, 0, 0, 0], id="success"),
        pytest.param("h:x@cancel", [S, F, C, None], [0, 0, 1, 0], id="cancel, with a label"),
        pytest.param("h@fixed", [S, F, F, C, S, S, F, S], [0, 0, 0, 0, 1, 0, 0, 1], id="fixed"),
        pytest.param("h@changed", [S, F, F, C, S, S], [0, 1, 0, 0, 1, 0], id="changed"),
        pytest.param("h@changed", [F, F], [1, 0], id="a first failure is a change"),
        pytest.param("h@failure+fixed", [F, S, S], [1, 1, 0], id="several"),
        pytest.param("h@weekly", [S, None], [1, 1], id="unknown (add_handler refuses it)"),
    ],
)
def test_conditions_select_events(box, name, outcomes, expected):
    assert wanted(name, box, *outcomes) == [bool(one) for one in expected]


def test_each_name_and_branch_has_its_own_last_outcome(box):
    assert wanted("h@changed", box, F, ci={"branch": "main"}) == [True]
    assert wanted("h@changed", box, F, branch="topic") == [True]
    assert wanted("h@changed", box, F) == [True]
    assert wanted("h@fixed", box, S, branch="main") == [True]
    assert wanted("h@fixed", box, S, ci="odd") == [True]


def test_last_outcome_is_unknown_without_an_outbox(box):
    assert wanted("h@changed+fixed", None, F, S) == [False, False]


def test_outcomes_are_stored_only_if_a_handler_needs_the_last_one(box):
    wanted("h@failure", box, F)
    assert not os.path.exists(box)


def test_unusable_outbox_is_a_warning(tmp_path, caplog):
    (tmp_path / "outbox").write_text("in the way")
    assert wanted("h@changed", str(tmp_path / "outbox"), F) == [True]
    assert "cannot be saved in " in caplog.text


def test_an_outbox_with_outcomes_is_an_outbox(box):
    from event._outbox import Outbox

    wanted("h@changed", box, F)
    assert Outbox(box).exists()
    Outbox(box).put(event.Event("n"), {"h": ""}).release()
    assert sum(Outbox(box).summary().counts.values()) == 1


def test_handler_name_and_conditions_are_separated():
    assert _handler_config.split_conditions("smtp:mail") == ("smtp:mail", frozenset())
    assert _handler_config.split_conditions("smtp:mail@fixed+failure") == ("smtp:mail", {"fixed", "failure"})


# The API.


@pytest.mark.parametrize("name", ["file@weekly", "file@", "file@failure+", "file:x@y"])
def test_an_unknown_condition_is_an_error_when_the_handler_is_added(name, tmp_path):
    with pytest.raises(EventError, match="is not a condition; expected one or several of always, failure"):
        event.add_handler(name, str(tmp_path))


def test_a_condition_that_needs_an_outbox_is_an_error_without_one(tmp_path):
    with pytest.raises(EventError, match="'fixed' needs an outbox"):
        event.add_handler("file@fixed", str(tmp_path))
    event.use_outbox(tmp_path / "outbox")
    event.add_handler("file@fixed", str(tmp_path))


@pytest.mark.parametrize("outbox", [True, False], ids=["outbox", "no outbox"])
def test_skipped_handler_counts_as_success(tmp_path, outbox):
    manager = event.EventManager(outbox=tmp_path / "outbox" if outbox else None)
    manager.add_handler("file@failure", str(tmp_path / "a"))
    manager.add_handler("file@success", str(tmp_path / "b"))
    assert manager.send_event(event.Event("n", outcome="success"))
    assert [delivery.handler for delivery in manager.dispatch(event.Event("n", outcome="failure"))] == ["file@failure"]
    assert [len([*tmp_path.glob(f"{place}/*.json")]) for place in "ab"] == [1, 1]


def test_unloadable_handler_is_skipped_by_its_conditions(tmp_path, monkeypatch):
    from event._outbox import Outbox

    monkeypatch.setenv("E3_EVENT_HANDLERS", "late@failure=x")
    manager = event.EventManager(outbox=tmp_path / "outbox")
    with pytest.raises(EventError):
        manager.load_handlers_from_env()
    manager.send_event(event.Event("n", outcome="success"))
    assert not os.path.exists(tmp_path / "outbox")
    manager.send_event(event.Event("n", outcome="failure"))
    ((_, entry),) = Outbox(tmp_path / "outbox").entries()
    assert [*entry.pending] == ["late@failure"]


def test_handler_assigned_directly_gets_every_event():
    handler = RecordingHandler()
    event.default_manager.handlers["a@b"] = handler
    assert event.send_event(event.Event("n"))
    assert len(handler.events) == 1


def test_the_conditions_are_in_the_variable_for_child_processes(monkeypatch, tmp_path):
    monkeypatch.setenv("E3_EVENT_HANDLERS", f"file@failure={tmp_path}")
    event.load_handlers_from_env()
    event.handler_config_as_env()
    assert os.environ["E3_EVENT_HANDLERS"] == f"file@failure={tmp_path}"
