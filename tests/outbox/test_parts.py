"""A delivery of several parts: the journal keeps the finished parts for the next attempt."""

from __future__ import annotations

import pytest

import event
from event import Event, EventManager
from event._outbox import Outbox
from helpers.delivering import deliver
from helpers.plugins import Site

# A handler with two recipients, NAME. It appends the sending's id to the file NAME, unless a file NAME.down exists.
PARTS = """
import os, event

class Handler:
    def __init__(self, directory): self.directory = directory
    @classmethod
    def decode_config(cls, config_str): return {"directory": config_str}
    def encode_config(self): return self.directory

    def send_event(self, e):
        done = set(event.already_delivered(e))
        for name in {"ann", "bob"} - done:
            if os.path.exists(f"{self.directory}/{name}.down"):
                continue
            with open(f"{self.directory}/{name}", "a") as file:
                file.write(event.sending_id(e) + "\\n")
            done.add(name)
        if len(done) == 2:
            return True
        raise event.PartialDeliveryError("one is down", done=done)
"""


@pytest.fixture
def directory(tmp_path, monkeypatch):
    Site(tmp_path / "site", monkeypatch).plugin("parts", PARTS)
    path = tmp_path / "parts"
    path.mkdir()
    return path


def count_deliveries(directory):
    return {
        name: len((directory / name).read_text().split()) if (directory / name).exists() else 0
        for name in ("ann", "bob")
    }


def closed():
    with Event("n", uid="u") as made:
        pass
    return made


@pytest.mark.parametrize("failures", [1, 3])
def test_next_attempt_omits_the_finished_parts(directory, tmp_path, failures):
    (directory / "bob.down").touch()
    outbox = Outbox(tmp_path / "outbox")
    manager = EventManager(outbox=outbox.path)
    manager.add_handler("parts", str(directory))
    assert manager.send_event(closed()) is False
    for _ in range(failures):
        assert count_deliveries(directory) == {"ann": 1, "bob": 0}
        assert [bool(outcome) for _, outcome in deliver(outbox, everything=True)] == [False]
    (directory / "bob.down").unlink()
    assert [bool(outcome) for _, outcome in deliver(outbox, everything=True)] == [True]
    assert count_deliveries(directory) == {"ann": 1, "bob": 1}


def test_finished_parts_are_hidden_from_other_handlers(directory, tmp_path):
    seen = []

    class Other:
        def send_event(self, e):
            seen.append(event.already_delivered(e))
            return False

        def encode_config(self):
            return ""

    (directory / "bob.down").touch()
    manager = EventManager(outbox=tmp_path / "outbox")
    manager.add_handler("parts", str(directory))
    manager.handlers["other"] = Other()
    manager.send_event(closed())
    ((_, entry),) = Outbox(tmp_path / "outbox").entries("waiting")
    assert entry.delivered_parts("parts") == frozenset({"ann"})
    assert entry.delivered_parts("other") == frozenset()
    assert seen == [frozenset()]


@pytest.mark.parametrize("line", ['"ann"', "{}", "null", "[1, null]"])
def test_malformed_parts_in_a_journal_count_as_none(directory, tmp_path, line):
    claim = Outbox(tmp_path / "outbox").put(closed(), {"parts": str(directory)})
    claim.entry.add(b'{"handler": "parts", "ok": false, "done": %s}' % line.encode())
    assert claim.entry.delivered_parts("parts") == frozenset()


def test_finished_parts_survive_a_dead_worker(directory, tmp_path, monkeypatch):
    from event import _cli

    Site(tmp_path / "site", monkeypatch).plugin("crash", CRASH)
    (directory / "bob.down").touch()
    monkeypatch.chdir(tmp_path)
    handlers = ["--handler", f"parts={directory}", "--handler", f"crash={directory}"]
    assert _cli.main(["send", "n", *handlers, "--outbox", "outbox", "--timeout", "60"]) == 0
    ((_, entry),) = Outbox("outbox").entries("waiting")
    assert entry.delivered_parts("parts") == frozenset({"ann"})
    (directory / "bob.down").unlink()
    (directory / "do_not_crash").touch()
    assert _cli.main(["deliver", "outbox", "--all"]) == 0
    assert count_deliveries(directory) == {"ann": 1, "bob": 1}


# A handler that crashes its process when the result of the other handler is in the journal.
CRASH = """
import glob, os, time

class Handler:
    def __init__(self, directory): self.directory = directory
    @classmethod
    def decode_config(cls, config_str): return {"directory": config_str}
    def encode_config(self): return self.directory

    def send_event(self, e):
        if os.path.exists(f"{self.directory}/do_not_crash"):
            return True
        while not any(b'"done"' in open(entry, "rb").read() for entry in glob.glob("outbox/claimed/*")):
            time.sleep(0.01)
        os.abort()
"""
