"""Entries for handlers whose configuration was invalid when the event was stored."""

from __future__ import annotations

import json
import time

import pytest

from event import Event, _config_file
from event._config_file import read_config_file
from event._outbox.backlog import Backlog
from helpers.entries import lines_of, path_of

INVALID = '[handlers.mail]\ntype = "fil"\ndirectory = "d"\n'
VALID = '[handlers.mail]\ntype = "file"\ndirectory = "d"\n'


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "e3-event.toml"

    def write(text):
        path.write_text(text, "utf-8")
        path.chmod(0o644)
        return dict(read_config_file(str(path)).handlers)

    return write


def put(box, handlers, **data):
    claim = box.put(Event("n", **data), handlers)
    claim.postpone(0.0)
    return claim.entry.id


def pending(box, entry_id):
    """Claim an entry; return its pending handlers. Check that they are the same after the release."""
    (candidate,) = box.find(entry_id)
    claim = box.claim(candidate)
    claim.postpone(0.0)
    (candidate,) = box.find(entry_id)
    assert box.read(candidate).pending == claim.entry.pending
    return claim.entry.pending


def test_entry_gets_the_fixed_handler(box, config, tmp_path):
    entry_id = put(box, {**config(INVALID), "logging": ""})
    assert [*pending(box, entry_id)] == ["fil:mail", "logging"]
    config(VALID)
    assert pending(box, entry_id) == {"file:mail": str(tmp_path / "d"), "logging": ""}
    assert [line["replace"] for line in lines_of(path_of(box, entry_id)) if "replace" in line] == ["fil:mail"]


def test_entry_gets_each_handler_of_a_fixed_file_once(box, config):
    logging = "[handlers.logging]\n"
    entry_id = put(box, config(f"{logging}[handler.x]\n[handlers.fiel]\n[handlers.lgging]\n"))
    assert [*pending(box, entry_id)] == ["logging", "fiel", "lgging", "e3-event.toml"]
    config(f'{logging}[handlers.file]\ndirectory = "d"\n[handlers.other]\ntype = "logging"\n')
    assert {*pending(box, entry_id)} == {"logging", "file", "logging:other"}


@pytest.mark.parametrize("text", ["", "[handlers.logging]\n"], ids=["empty", "no other handler"])
def test_entry_stays_pending_if_its_handler_is_no_longer_in_the_file(box, config, text):
    entry_id = put(box, {**config(INVALID), "logging": ""})
    config(text)
    assert [*pending(box, entry_id)] == ["fil:mail", "logging"]


@pytest.mark.parametrize(
    ("on", "outcome", "delivered"),
    [
        ("failure", "failure", True),
        ("failure", "success", False),
        ("failure", None, False),
        ("always", None, True),
        ("fixed", "success", True),
        ("fixed", "failure", False),
        ("changed", "failure", True),
    ],
)
def test_entry_gets_only_handlers_whose_conditions_it_may_meet(box, config, on, outcome, delivered):
    entry_id = put(box, {**config(INVALID), "logging": ""}, outcome=outcome)
    config(f'{VALID}on = "{on}"\n')
    assert [*pending(box, entry_id)] == [f"file:mail@{on}"] * delivered + ["logging"]


def test_entry_that_no_fixed_handler_wants_is_removed(box, config):
    entry_id = put(box, config(INVALID), outcome="success")
    config(f'{VALID}on = "failure"\n')
    (candidate,) = box.find(entry_id)
    assert box.claim(candidate) is None
    assert box.find(entry_id) == []


def test_new_error_in_the_table_replaces_the_old_one(box, config):
    entry_id = put(box, config(INVALID))
    config(f'{VALID}on = "weekly"\n')
    assert [*pending(box, entry_id)] == ["mail"]
    assert "'weekly' is not a condition" in pending(box, entry_id)["mail"]


def test_handler_with_an_unknown_condition_stays_pending(box, config, monkeypatch):
    entry_id = put(box, config(INVALID))
    monkeypatch.setattr(_config_file, "fixed_handlers", lambda _config: ([("file@weekly", "d")], []))
    assert [*pending(box, entry_id)] == ["file@weekly"]


class Handler:
    def send_event(self, _event):
        return True


@pytest.mark.parametrize("attempts", [1, 2])
def test_next_event_of_the_fixed_handler_delivers_the_entry(box, config, attempts):
    claim = box.put(Event("n"), config(INVALID))
    claim.entry.attempts = attempts
    claim.begin()
    claim.postpone(0.0)
    configs = config(VALID)
    backlog = Backlog(box, {"file:mail": Handler()}, configs, 0.0)
    backlog.deliver(time.monotonic() + 600.0)
    assert backlog.delivered == {"file:mail": 1}
    assert [*box.entries()] == []


def test_next_event_removes_an_entry_that_no_fixed_handler_wants(box, config):
    put(box, config(INVALID), outcome="success")
    configs = config(f'{VALID}on = "failure"\n')
    Backlog(box, {"file:mail@failure": Handler()}, configs, 0.0).deliver(time.monotonic() + 600.0)
    assert [*box.entries()] == []


def test_fixed_handler_gets_the_event_without_the_secrets_of_the_file(box, config, monkeypatch):
    monkeypatch.setenv("DEPLOY_PINCODE", "4711-0815")
    entry_id = put(box, {**config(INVALID), "logging": ""}, note="pin 4711-0815")
    config(f'redact = ["env:DEPLOY_PINCODE"]\n{VALID}')
    for _ in range(2):  # the second time, the file has been fixed already
        (candidate,) = box.find(entry_id)
        claim = box.claim(candidate)
        assert claim.event("file:mail").as_dict()["note"] == "pin ***"
        claim.postpone(0.0)
    (candidate,) = box.find(entry_id)
    assert box.read(candidate).event.as_dict()["note"] == "pin ***"


@pytest.mark.parametrize("redact", ["env:X", [1]])
def test_malformed_redaction_in_the_journal_is_ignored(box, redact):
    entry_id = put(box, {"smtp": ""}, note="x")
    with open(path_of(box, entry_id), "ab") as file:
        line = {"replace": "smtp", "handlers": [{"name": "logging", "config": ""}], "redact": redact}
        file.write(json.dumps(line).encode() + b"\n")
    assert pending(box, entry_id) == {"logging": ""}


def test_malformed_replacement_in_the_journal_is_ignored(box):
    entry_id = put(box, {"logging": ""})
    with open(path_of(box, entry_id), "ab") as file:
        file.write(b'{"replace": "logging", "handlers": [1]}\n')
    assert pending(box, entry_id) == {"logging": ""}
