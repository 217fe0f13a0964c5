"""A delivery of several parts: those that are finished are remembered until the next attempt."""

from __future__ import annotations

import pytest

import event
from event import Event, EventManager
from event._outbox import Outbox
from helpers.delivering import deliver
from helpers.plugins import Site

# A handler with two destinations, each of which is down if a file says so. It
# writes down who got the event, and what it was told of earlier attempts.
PARTS = """
import os, event

class Handler:
    def __init__(self, where): self.where = where
    @classmethod
    def decode_config(cls, config_str): return {"where": config_str}
    def encode_config(self): return self.where

    def send_event(self, e):
        done = set(event.already_delivered(e))
        for name in {"ann", "bob"} - done:
            if os.path.exists(f"{self.where}/{name}.down"):
                continue
            with open(f"{self.where}/{name}", "a") as file:
                file.write(event.sending_id(e) + "\\n")
            done.add(name)
        if len(done) == 2:
            return True
        raise event.PartialDeliveryError("one is down", done=done)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    Site(tmp_path / "site", monkeypatch).plugin("parts", PARTS)
    place = tmp_path / "place"
    place.mkdir()
    return place


def copies(place):
    return {name: len((place / name).read_text().split()) if (place / name).exists() else 0 for name in ("ann", "bob")}


def closed():
    with Event("n", uid="u") as made:
        pass
    return made


@pytest.mark.parametrize("failures", [1, 3])
def test_next_attempt_learns_which_parts_are_finished(place, tmp_path, failures):
    (place / "bob.down").touch()
    outbox = Outbox(tmp_path / "outbox")
    manager = EventManager(outbox=outbox.path)
    manager.add_handler("parts", str(place))
    assert manager.send_event(closed()) is False
    for _ in range(failures):
        assert copies(place) == {"ann": 1, "bob": 0}
        assert [bool(outcome) for _, outcome in deliver(outbox, everything=True)] == [False]
    (place / "bob.down").unlink()
    assert [bool(outcome) for _, outcome in deliver(outbox, everything=True)] == [True]
    assert copies(place) == {"ann": 1, "bob": 1}


def test_finished_parts_are_hidden_from_other_handlers(place, tmp_path):
    seen = []

    class Other:
        def send_event(self, e):
            seen.append(event.already_delivered(e))
            return False

        def encode_config(self):
            return ""

    (place / "bob.down").touch()
    manager = EventManager(outbox=tmp_path / "outbox")
    manager.add_handler("parts", str(place))
    manager.handlers["other"] = Other()
    manager.send_event(closed())
    ((_, entry),) = Outbox(tmp_path / "outbox").entries("waiting")
    assert entry.delivered_parts("parts") == frozenset({"ann"})
    assert entry.delivered_parts("other") == frozenset()
    assert seen == [frozenset()]


@pytest.mark.parametrize("line", ['"ann"', "{}", "null", "[1, null]"])
def test_malformed_parts_in_a_journal_count_as_none(place, tmp_path, line):
    claim = Outbox(tmp_path / "outbox").put(closed(), {"parts": str(place)})
    claim.entry.add(b'{"handler": "parts", "ok": false, "done": %s}' % line.encode())
    assert claim.entry.delivered_parts("parts") == frozenset()


def test_finished_parts_survive_a_dead_worker(place, tmp_path, monkeypatch):
    from event import _cli

    Site(tmp_path / "site", monkeypatch).plugin("crash", CRASH)
    (place / "bob.down").touch()
    monkeypatch.chdir(tmp_path)
    handlers = ["--handler", f"parts={place}", "--handler", f"crash={place}"]
    assert _cli.main(["send", "n", *handlers, "--outbox", "outbox", "--timeout", "60"]) == 0
    ((_, entry),) = Outbox("outbox").entries("waiting")
    assert entry.delivered_parts("parts") == frozenset({"ann"})
    (place / "bob.down").unlink()
    (place / "crash.not").touch()
    assert _cli.main(["deliver", "outbox", "--all"]) == 0
    assert copies(place) == {"ann": 1, "bob": 1}


# A handler that ends its process once the other one's result is in the journal.
CRASH = """
import glob, os, time

class Handler:
    def __init__(self, where): self.where = where
    @classmethod
    def decode_config(cls, config_str): return {"where": config_str}
    def encode_config(self): return self.where

    def send_event(self, e):
        if os.path.exists(f"{self.where}/crash.not"):
            return True
        while not any(b'"done"' in open(entry, "rb").read() for entry in glob.glob("outbox/claimed/*")):
            time.sleep(0.01)
        os.abort()
"""
