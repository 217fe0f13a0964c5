"""Where a relay's events go: into an outbox, or to the handlers at once."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from event import Event, PermanentError, _files
from event._acceptor import Giver, Keeper
from event._message import Parcel
from event._note import NAME, Note
from event._outbox import Outbox

POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: POSIX alone has it")


@pytest.fixture
def box(tmp_path):
    return Outbox(tmp_path / "outbox")


def parcel(event):
    return Parcel("id-1", 1e9, event, {}, {})


def noted(owing=None, **refused):
    return Note({NAME: json.dumps({"owing": owing, "refused": refused})})


def attached(directory, content=b"compiled\n"):
    """Return an event whose attachment is in a directory."""
    path = os.path.join(directory, "0")
    _files.write_new(path, content)
    made = Event("build", uid="u")
    made.attach_file(path, "log")
    return made


# Into an outbox.


class Woken:
    times = 0

    def __call__(self):
        self.times += 1


@pytest.fixture
def woken():
    return Woken()


@pytest.fixture
def keeper(box, woken):
    return Keeper(box, {"smtp": "a", "http": "b"}, woken)


def keep(keeper, note):
    with keeper.scratch() as directory:
        made = attached(directory)
        return keeper.accept(parcel(made), made, note)


def test_an_event_is_in_the_outbox_due_now_under_its_own_id_and_who_delivers_is_told(box, keeper, woken):
    note = noted()
    assert keep(keeper, note) == ""
    assert note.owing == []
    (claim,) = box.due()
    assert (claim.entry.id, claim.entry.handlers) == ("id-1", {"smtp": "a", "http": "b"})
    assert claim.damage() is None
    assert claim.event().get_attachments().keys() == {"log"}
    assert woken.times == 1


def test_the_scratch_is_swept_up(box, keeper):
    keep(keeper, noted())

    def fail():
        with keeper.scratch() as directory:
            attached(directory)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert os.listdir(os.path.join(box.path, "tmp")) == []


def test_it_is_kept_for_those_alone_that_owe_it_and_the_strangers_are_left(box, keeper):
    note = noted(["strange", "http"])
    keep(keeper, note)
    (claim,) = box.due()
    assert claim.entry.handlers == {"http": "b"}
    assert note.owing == ["strange"]


def test_what_is_owed_to_strangers_alone_is_not_kept(box, keeper, woken):
    note = noted(["strange"])
    keep(keeper, note)
    assert [*box.due()] == []
    assert (note.owing, woken.times) == (["strange"], 0)


def test_a_sending_that_comes_twice_at_once_is_kept_twice(box, keeper, monkeypatch):
    monkeypatch.setattr("event._acceptor.time.time", lambda: 1_780_000_000.0)
    keep(keeper, noted(["http"]))
    keep(keeper, noted(["smtp"]))
    found = [[*claim.entry.handlers] for claim in box.due(everything=True)]
    assert sorted(found) == [["http"], ["smtp"]]


def test_an_entry_that_cannot_be_made_due_is_kept_nevertheless(box, keeper, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr("event._outbox.move", full)
    assert keep(keeper, noted()) == ""
    assert "stays claimed" in caplog.text
    assert len([*box.entries("claimed")]) == 1


def test_an_event_whose_attachment_the_outbox_cannot_copy_is_not_kept(box, keeper, monkeypatch, woken):
    opened = _files.open_regular

    def out_of_descriptors(path, **how):
        raise OSError(errno.EMFILE, "too many")

    note = noted()
    with keeper.scratch() as directory:
        made = attached(directory)
        monkeypatch.setattr(_files, "open_regular", out_of_descriptors)
        with pytest.raises(OSError, match="'log' could not be copied"):
            keeper.accept(parcel(made), made, note)
        monkeypatch.setattr(_files, "open_regular", opened)
    assert [*box.entries("new", "claimed", "failed", "corrupt")] == []
    assert (note.owing, woken.times) == (None, 0)


def test_an_outbox_that_cannot_be_written_is_the_disks_trouble(tmp_path):
    (tmp_path / "file").touch()
    keeper = Keeper(Outbox(tmp_path / "file"), {"smtp": ""}, Woken())
    with pytest.raises(OSError, match="file"), keeper.scratch():
        pass


# To the handlers.


class Handler:
    """Does what it is told to, and keeps what it gets."""

    def __init__(self, act=lambda e: True):
        self.act = act
        self.got = []

    def send_event(self, e):
        self.got.append({name: Path(path).read_bytes() for name, (path, _) in e.get_attachments().items()})
        return self.act(e)


def fails(_):
    return False


def refuses(_):
    raise PermanentError("nobody of that name")


def breaks(_):
    raise ValueError("broken")


def give(handlers, note, *, report=lambda parcel, delivery: None, timeout=30.0):
    giver = Giver(handlers, timeout, report)
    with giver.scratch() as directory:
        made = attached(directory)
        return giver.accept(parcel(made), made, note)


def test_each_handler_gets_the_event_and_each_delivery_is_reported():
    handlers = {"a": Handler(), "b": Handler()}
    note = noted()
    reported = []
    assert give(handlers, note, report=lambda parcel, delivery: reported.append((parcel.id, delivery.handler))) == ""
    assert [handler.got for handler in handlers.values()] == [[{"log": b"compiled\n"}]] * 2
    assert (note.owing, note.refused) == ([], {})
    assert sorted(reported) == [("id-1", "a"), ("id-1", "b")]


def test_those_that_have_not_got_it_are_left_and_told_why():
    note = noted()
    reason = give({"a": Handler(), "b": Handler(fails), "c": Handler(refuses), "d": Handler(breaks)}, note)
    assert reason in {"b: the handler returned False", "d: ValueError: broken"}
    assert (note.owing, note.refused) == (["b", "d"], {"c": "nobody of that name"})


def test_those_that_have_it_do_not_get_it_again_and_strangers_are_left():
    handlers = {"a": Handler(), "b": Handler()}
    note = noted(["b", "strange"], c="no")
    assert give(handlers, note) == ""
    assert handlers["a"].got == []
    assert len(handlers["b"].got) == 1
    assert (note.owing, note.refused) == (["strange"], {"c": "no"})


def test_one_that_hangs_is_left():
    go = threading.Event()
    note = noted()
    try:
        reason = give({"a": Handler(), "b": Handler(lambda e: go.wait(60))}, note, timeout=0.1)
    finally:
        go.set()
    assert reason == "b: TimeoutError: not done within 0.1 s"
    assert note.owing == ["b"]


def test_one_that_has_it_does_not_get_it_again_where_telling_so_fails():
    def report(parcel, delivery):
        raise OSError("nobody listens")

    note = noted()
    with pytest.raises(OSError, match="nobody listens"):
        give({"a": Handler()}, note, report=report)
    assert note.owing == []


def test_attachments_are_gone_afterwards_whatever_is_left_of_them(tmp_path, monkeypatch):
    giver = Giver({}, 1.0, lambda *_: None)
    with giver.scratch() as directory:
        attached(directory)
        assert os.stat(directory).st_mode & 0o077 == 0 or os.name == "nt"
    assert not os.path.exists(directory)


@POSIX
def test_a_scratch_that_cannot_be_removed_fails_nothing(monkeypatch):
    def held(*_, **__):
        raise PermissionError("in the hands of another")

    with Giver({}, 1.0, lambda *_: None).scratch() as directory:
        attached(directory)
        monkeypatch.setattr(os, "unlink", held)
        monkeypatch.setattr(os, "rmdir", held)
    monkeypatch.undo()
    assert os.path.exists(directory)
    os.unlink(os.path.join(directory, "0"))
    os.rmdir(directory)
