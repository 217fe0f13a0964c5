"""The outbox: states and moves, whose entries are touched, and what is left alone."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import event
from event import Delivery, Event, EventError, PermanentError, _disk, _entry, _files, _outbox, _trace
from event._outbox import LEASE, Outbox
from event._owner import me

STATES = ("tmp", "new", "claimed", "failed", "corrupt")
POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: POSIX alone has it")
ROOT = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="platform: only root gives files to another user"
)
ELSEWHERE = "0123456789abcdef-1-1"  # an owner on another machine


@pytest.fixture
def box(tmp_path):
    return Outbox(tmp_path / "outbox")


@pytest.fixture
def attached(tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"compiled\n")
    e = Event("build", uid="u")
    e.attach_file(log, "log")
    e.attach_file(log, "../log")
    return e


def place(box, state, name=""):
    return os.path.join(box.path, state, name) if name else os.path.join(box.path, state)


def there(box):
    """Return state -> names, of the states that hold something."""
    return {state: sorted(os.listdir(place(box, state))) for state in STATES if os.listdir(place(box, state))}


def put(box, e=None, **handlers):
    return box.put(e or Event("build"), handlers or {"file": "d"})


def waiting(box, due=1, e=None, **handlers):
    """Put an event that waits; return its id and its directory."""
    claim = put(box, e, **handlers)
    name = claim.postpone(due)
    return claim.entry.id, place(box, "new", name)


def later():
    """Return when an entry is due that is not due."""
    return time.time() + 1000


def did(handler, *, ok=True, error=None):
    return Delivery(handler, ok=ok, error=error, seconds=0.1)


def taken(box, **kwargs):
    """Deliver to nobody: return the ids that come, each handed back unchanged."""
    ids = []
    for claim in box.due(**kwargs):
        ids.append(claim.entry.id)
        claim.postpone(later())
    return ids


def abandon(claim, owner=ELSEWHERE, *, age=0.0):
    """Have a claim belong to another owner, and be untouched for a while."""
    path = place(claim._outbox, "claimed", f"{claim.entry.id}.{owner}")
    os.rename(claim._path, path)
    os.utime(path, (time.time() - age,) * 2)
    return path


def ended():
    code = "from event._owner import me; print(me())"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def snapshot(directory):
    """Return path -> content of all beneath a directory."""
    return {
        os.path.join(top, name): Path(top, name).read_bytes() for top, _, names in os.walk(directory) for name in names
    }


# Putting.


def test_an_event_is_there_whole_with_its_attachments_and_claimed(box, attached):
    claim = put(box, attached, file="d", smtp="s")
    ((state, (name,)),) = there(box).items()
    assert (state, name.rpartition("-")[0]) == ("claimed", f"{claim.entry.id}.{me()}")
    path = place(box, "claimed", name)
    assert sorted(os.listdir(path)) == ["0", "1", "entry.json"]
    again = _disk.read_entry(path)
    assert (again.id, again.handlers, again.event.uid) == (claim.entry.id, {"file": "d", "smtp": "s"}, "u")
    sent = claim.event()
    assert event.sending_id(sent) == claim.entry.id == event.sending_id(sent)
    assert list(sent.get_attachments()) == ["log", "../log"]
    assert {Path(copy).read_text() for copy, _ in sent.get_attachments().values()} == {"compiled\n"}
    assert all(os.path.dirname(copy) == path for copy, _ in sent.get_attachments().values())


@POSIX
def test_an_entry_is_private_to_the_user(box):
    claim = put(box)
    claim.begin()
    for path in (box.path, *(place(box, state) for state in STATES), claim._path):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


def test_what_is_put_is_on_the_disk_itself(box, attached, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), fsync(fd)))
    claim = put(box, attached)
    files = {os.stat(os.path.join(claim._path, name)).st_ino for name in ("0", "1", "entry.json")}
    assert files <= {*synced}
    if os.name == "posix":
        parents = {os.stat(path).st_ino for path in (claim._path, place(box, "claimed"), box.path, box.path + "/..")}
        assert parents <= {*synced}
        assert synced.index(os.stat(claim._path).st_ino) < synced.index(os.stat(place(box, "claimed")).st_ino)


def test_the_copy_is_what_is_there_when_it_is_put(box, attached, tmp_path):
    (tmp_path / "build.log").write_bytes(b"more\n")
    claim = put(box, attached)
    (tmp_path / "build.log").unlink()
    assert claim.damage() is None


TRACE, SPAN, OTHER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"


def test_an_entry_keeps_the_span_around_the_putting(box, monkeypatch):
    assert put(box).entry.span is _trace.NOWHERE
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{SPAN}-00")
    monkeypatch.setenv("TRACESTATE", "v=1")
    claim = put(box)
    assert _trace.as_data(claim.entry.span) == {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "v=1"}
    assert _trace.as_data(_disk.read_entry(claim._path).span) == _trace.as_data(claim.entry.span)


def test_an_entry_keeps_the_span_that_it_is_given(box, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{SPAN}-01")
    given = _trace.Span(TRACE, OTHER)
    assert box.put(Event("build"), {"file": "d"}, span=given).entry.span is given
    assert box.put(Event("build"), {"file": "d"}, span=_trace.NOWHERE).entry.span is _trace.NOWHERE


def test_a_span_whose_state_is_no_utf_8_is_kept(box, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{SPAN}-01")
    monkeypatch.setenv("TRACESTATE", "v=\udcff" if os.name == "posix" else "v=\xe9")
    kept = _disk.read_entry(put(box)._path).span
    assert (kept.traceparent, kept.state) == (f"00-{TRACE}-{SPAN}-01", "")


def test_on_a_full_file_system_the_clock_of_this_machine_tells_the_time(box, monkeypatch):
    box._prepare()
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert abs(box._server_time() - time.time()) < 60


def test_what_cannot_be_put_leaves_nothing(box):
    loop = Event("loop")
    loop.self = {}
    loop.self["self"] = loop.self
    with pytest.raises(EventError):
        put(box, loop)
    assert there(box) == {}


def test_an_entry_whose_last_sync_fails_is_not_kept(box, monkeypatch):
    def fail(path, sync=_files.sync_directory):
        if os.path.basename(path) == "claimed":
            raise OSError(5, "Input/output error")
        sync(path)

    monkeypatch.setattr(_files, "sync_directory", fail)  # a disk that breaks
    with pytest.raises(OSError, match="Input/output"):
        put(box)
    assert there(box) == {}


def test_a_file_in_the_outbox_s_place_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        put(Outbox(tmp_path / "file"))
    assert taken(Outbox(tmp_path / "file")) == []


# Who may.


@ROOT
@pytest.mark.parametrize("state", STATES)
def test_an_outbox_of_another_user_is_refused(box, state):
    put(box).release()
    before = snapshot(box.path)
    os.chown(place(box, state), 12345, -1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        put(box)
    with pytest.raises(PermissionError, match="belongs to another user"):
        taken(box, everything=True)
    assert snapshot(box.path) == before


@ROOT
def test_an_entry_of_another_user_is_left_alone(box, caplog):
    _, path = waiting(box)
    os.chown(path, 12345, -1)
    before = snapshot(box.path)
    assert taken(box) == []
    assert snapshot(box.path) == before
    assert "belongs to another user" in caplog.text
    ((_, _, reason),) = box.entries("new")
    assert "belongs to another user" in reason


# Planted links.


@POSIX
@pytest.mark.parametrize("state", STATES)
def test_a_symbolic_link_in_a_state_s_place_is_not_followed(box, tmp_path, state):
    waiting(box)
    other = Outbox(tmp_path / "other")
    kept, _ = waiting(other)
    os.rename(place(box, state), tmp_path / "away")
    os.symlink(place(other, "new"), place(box, state))
    before = snapshot(other.path)
    with pytest.raises(NotADirectoryError, match="is no directory"):
        put(box)
    with pytest.raises(NotADirectoryError, match="is no directory"):
        taken(box, everything=True)
    assert kept not in [entry_id for _, entry_id, _ in box.entries(*STATES[1:])]
    assert not box.drop(kept)
    assert not box.retry(kept)
    assert snapshot(other.path) == before


@POSIX
@pytest.mark.parametrize("state", ["tmp", "new", "claimed"])
def test_a_symbolic_link_in_an_entry_s_place_is_not_followed(box, tmp_path, state):
    put(box).release()
    other = Outbox(tmp_path / "other")
    _, path = waiting(other)
    os.utime(path, (0, 0))
    name = "1.planted" if state == "new" else f"planted.{ended()}"
    os.symlink(path, place(box, state, name))
    before = snapshot(other.path)
    assert len(taken(box, everything=True)) == 1
    assert snapshot(other.path) == before
    assert os.path.islink(place(box, state, name))


@POSIX
@pytest.mark.parametrize("name", ["entry.json", "journal", "0"])
def test_a_symbolic_link_within_an_entry_is_not_followed(box, attached, tmp_path, name, caplog):
    entry_id, path = waiting(box, e=attached)
    file = os.path.join(path, name)
    (tmp_path / "planted").write_bytes(Path(file).read_bytes() if name != "journal" else b'{"handler": "file"}')
    if name != "journal":
        os.unlink(file)
    os.symlink(tmp_path / "planted", file)
    before = (tmp_path / "planted").read_bytes()
    for claim in box.due():
        assert name == "0"
        assert claim.damage().endswith("is a symbolic link")
        claim.set_aside(claim.damage())
    assert there(box) == {"corrupt": [entry_id]}
    assert "is put into corrupt/" in caplog.text
    assert (tmp_path / "planted").read_bytes() == before


@POSIX
def test_a_journal_that_is_planted_later_is_not_followed(box, tmp_path, caplog):
    claim = put(box)
    (tmp_path / "planted").write_bytes(b"precious")
    os.symlink(tmp_path / "planted", os.path.join(claim._path, "journal"))
    claim.record(did("file"))
    assert (tmp_path / "planted").read_bytes() == b"precious"
    assert "its journal cannot be written" in caplog.text


def test_an_attachment_of_a_forged_entry_stays_in_the_entry(box, attached, tmp_path):
    _, path = waiting(box, e=attached)
    text = json.loads(Path(path, "entry.json").read_text())
    text["event"]["attachments"]["log"][0] = str(tmp_path / "build.log")
    with open(os.path.join(path, "entry.json"), "w") as file:
        json.dump(text, file)
    assert taken(box) == []
    assert list(there(box)) == ["corrupt"]


def test_an_id_that_leads_elsewhere_is_not_believed(box, tmp_path):
    entry_id, path = waiting(box)
    text = json.loads(Path(path, "entry.json").read_text())
    text["id"] = "../../elsewhere"
    with open(os.path.join(path, "entry.json"), "w") as file:
        json.dump(text, file)
    assert taken(box) == []
    assert there(box) == {"corrupt": [entry_id]}


# Handing back.


def test_an_entry_leaves_when_every_handler_has_it(box, attached):
    claim = put(box, attached, file="d", smtp="s")
    claim.record(did("file"))
    claim.record(did("smtp"))
    claim.release()
    assert there(box) == {}


def test_an_entry_waits_for_the_handlers_that_owe_it(box):
    claim = put(box, file="d", smtp="s")
    claim.record(did("file"))
    claim.record(did("smtp", ok=False, error=ValueError("down")))
    start = time.time()
    claim.release()
    ((state, entry_id, entry),) = box.entries("new", "failed", "corrupt", "claimed")
    assert (state, entry_id, entry.owing, entry.last_error) == (
        "new",
        claim.entry.id,
        {"smtp": "s"},
        "ValueError: down",
    )
    due = int(there(box)["new"][0].partition(".")[0])
    assert start + 44 <= due <= time.time() + 75
    assert taken(box) == []


def test_an_entry_that_is_refused_for_good_is_given_up_when_the_others_have_it(box, caplog):
    claim = put(box, file="d", smtp="s")
    claim.record(did("smtp", ok=False, error=PermanentError("no such user")))
    claim.release()
    assert list(there(box)) == ["new"]
    (claim,) = box.due(everything=True)
    assert claim.entry.owing == {"file": "d"}
    claim.record(did("file"))
    claim.release()
    assert there(box) == {"failed": [claim.entry.id]}
    assert "is given up, and kept in failed/: no such user" in caplog.text


def test_an_entry_is_given_up_after_five_days(box):
    for age, state in ((5 * 86400 - 60, "new"), (5 * 86400 + 60, "failed")):
        claim = put(box)
        claim.entry.created -= age
        claim.release()
        assert list(there(box)) == [state]
        assert box.drop(claim.entry.id)


def test_a_name_that_is_taken_in_failed_or_corrupt_is_no_obstacle(box, caplog):
    for state in ("failed", "corrupt"):
        claim = put(box)
        os.mkdir(place(box, state, claim.entry.id))
        Path(place(box, state, f"{claim.entry.id}/x")).touch()
        if state == "failed":
            claim.record(did("file", ok=False, error=PermanentError("no")))
            claim.release()
        else:
            claim.set_aside("spoiled")
        assert [found for found, entry_id, _ in box.entries(state) if entry_id == claim.entry.id] == [state] * 2
    assert sorted(there(box)) == ["corrupt", "failed"]


def test_an_outbox_that_is_removed_meanwhile_breaks_nothing(box, caplog):
    from shutil import rmtree

    claim = put(box)
    rmtree(box.path)
    claim.record(did("file", ok=False))
    claim.release()
    assert "its journal cannot be written" in caplog.text


def test_an_entry_that_cannot_be_moved_breaks_nothing(box, caplog):
    claim = put(box)
    os.rmdir(place(box, "new"))
    Path(place(box, "new")).touch()
    claim.release()
    assert "cannot be moved, and stays claimed until this process ends" in caplog.text
    assert len(os.listdir(place(box, "claimed"))) == 1


@POSIX
def test_a_forked_child_neither_writes_nor_releases_what_its_parent_has(box):
    claim = put(box)
    claim._pid += 1  # as it is in a child
    claim.begin()
    claim.record(did("file"))
    claim.release()
    assert os.listdir(claim._path) == ["entry.json"]


# Taking.


def test_what_is_due_is_claimed_and_nothing_else(box):
    now = int(time.time())
    past, _ = waiting(box, now - 5)
    waiting(box, later())
    put(box)
    Path(place(box, "new", ".nfs0001")).touch()
    (claim,) = [c for c in box.due() if c.postpone(later())]
    assert claim.entry.id == past
    assert len(there(box)["new"]) == 3


def test_an_outbox_that_is_not_there_has_nothing(box, tmp_path):
    assert taken(box) == []
    assert list(box.entries("new", "failed")) == []
    assert not os.path.exists(box.path)
    (tmp_path / "outbox").mkdir()
    assert taken(box) == []
    assert os.listdir(box.path) == []


def test_a_state_that_was_removed_is_made_again(box):
    entry_id, _ = waiting(box)
    os.rmdir(place(box, "corrupt"))
    assert taken(box) == [entry_id]


@pytest.mark.parametrize("ahead", [13 * 3600, 400 * 86400])
def test_what_a_clock_since_set_back_has_dated_is_due(box, ahead):
    entry_id, _ = waiting(box, time.time() + ahead)
    assert taken(box) == [entry_id]


def test_everything_comes_once_also_what_fails_and_is_put_back(box):
    ids = {waiting(box, later() + number)[0] for number in range(50)}
    for path in os.scandir(place(box, "new")):
        os.utime(path.path, (1e9, 1e9))
    seen = []
    for claim in box.due(everything=True):
        seen.append(claim.entry.id)
        # What a directory shows of names that are made while it is read is the file system's choice; far more than
        # there were come where it shows them all.
        claim.postpone(later() + 100 + len(seen))
        assert len(seen) <= 50
    assert set(seen) == ids
    assert sorted(taken(box, everything=True)) == sorted(ids)


def test_what_is_put_back_in_this_pass_is_not_shown_again(box, monkeypatch):
    entry_id, path = waiting(box, later())
    os.utime(path, (1e9, 1e9))
    names = _disk.names

    def endless(directory):
        """A file system that shows each name that is made while the directory is read."""
        shown = set()
        while new := {*names(directory)} - shown:
            yield from new
            shown |= new
            assert len(shown) < 10

    monkeypatch.setattr(_outbox, "names", endless)
    seen = []
    for claim in box.due(everything=True):
        seen.append(claim.entry.id)
        claim.postpone(later() + 100 + len(seen))
    assert seen == [entry_id]


def test_an_entry_that_was_just_put_back_by_a_pass_that_ended_comes_in_the_next(box):
    entry_id, _ = waiting(box, later())
    for _ in range(3):
        assert taken(box, everything=True) == [entry_id]
        # One tick of the clock that dates files, so that the next pass begins behind this one.
        assert box._server_time()


def test_a_claim_of_a_dead_process_is_taken_over_at_once(box):
    claim = put(box)
    owner = ended()
    abandon(claim, owner)
    expected = [claim.entry.id] if os.name == "posix" else []
    assert taken(box) == expected


def test_a_claim_from_another_machine_holds_for_the_lease(box):
    claim = put(box)
    path = abandon(claim, age=LEASE - 60)
    assert taken(box, everything=True) == []
    os.utime(path, (time.time() - LEASE - 60,) * 2)
    assert taken(box) == [claim.entry.id]


def test_a_claim_that_is_written_to_holds_for_another_lease(box):
    claim = put(box)
    claim.record(did("file", ok=False))  # makes the journal, by which the directory changes
    os.utime(claim._path, (1e9, 1e9))
    claim.record(did("file", ok=False))
    abandoned = place(box, "claimed", f"{claim.entry.id}.{ELSEWHERE}")
    os.rename(claim._path, abandoned)
    assert taken(box) == []
    os.utime(abandoned, (1e9, 1e9))
    assert taken(box) == [claim.entry.id]


def test_what_may_have_brought_down_its_deliverer_lets_the_others_go_first(box):
    poison = put(box)
    poison.begin()
    abandon(poison, age=2 * LEASE)
    other, path = waiting(box)
    os.utime(path, (1e9, 1e9))
    assert taken(box) == [other]
    assert box.retry(other)
    os.utime(place(box, "new", next(n for n in os.listdir(place(box, "new")) if other in n)), (1e9, 1e9))
    for path in os.scandir(place(box, "new")):
        if poison.entry.id in path.name:
            claim = box._claim("new", path.name, poison.entry.id)
            abandon(claim, age=2 * LEASE)
    assert taken(box, everything=True) == [other, poison.entry.id]


def test_what_keeps_bringing_down_its_deliverer_is_given_up_in_the_end(box, monkeypatch):
    poison = put(box)
    poison.begin()
    abandon(poison, age=2 * LEASE)
    monkeypatch.setattr(_entry, "LIFETIME", -1.0)
    assert taken(box) == []
    assert there(box) == {"failed": [poison.entry.id]}


def test_what_another_process_takes_before_its_turn_is_left_to_it(box):
    poison = put(box)
    poison.begin()
    abandon(poison, age=2 * LEASE)
    other, path = waiting(box)
    os.utime(path, (1e9, 1e9))
    for claim in box.due(everything=True):
        assert claim.entry.id == other
        claim.postpone(later())
        (name,) = (name for name in os.listdir(place(box, "new")) if poison.entry.id in name)
        os.rename(place(box, "new", name), place(box, "claimed", f"{poison.entry.id}.{ELSEWHERE}"))


def test_what_brought_down_its_deliverer_long_ago_comes_at_once(box):
    claim = put(box)
    claim.entry.attempts = 1
    claim._write(_entry.encode_attempt(time.time() - 1000, 2))
    abandon(claim, age=2 * LEASE)
    assert taken(box) == [claim.entry.id]


def test_a_dead_process_s_leavings_are_swept(box):
    put(box).release()
    for owner, age in ((ELSEWHERE, 2 * LEASE), ("", 2 * LEASE), (ELSEWHERE, 0), (me(), 0)):
        path = place(box, "tmp", f"{len(os.listdir(place(box, 'tmp')))}.{owner}")
        os.mkdir(path)
        Path(path, "entry.json").touch()
        os.utime(path, (time.time() - age,) * 2)
    taken(box)
    assert there(box)["tmp"] == [f"2.{ELSEWHERE}", f"3.{me()}"]


def test_each_entry_is_taken_by_one(box):
    entry_id, _ = waiting(box)
    name = os.listdir(place(box, "new"))[0]
    first = box._claim("new", name, entry_id)
    assert first is not None
    assert box._claim("new", name, entry_id) is None
    assert taken(box, everything=True) == []


@pytest.mark.parametrize("moment", ["utime", "rename"])
def test_an_entry_that_another_process_takes_meanwhile_is_left_to_it(box, monkeypatch, moment, caplog):
    entry_id, path = waiting(box)
    call = getattr(os, moment)

    def first(source, *args):
        monkeypatch.undo()
        os.rename(path, place(box, "claimed", f"{entry_id}.{ELSEWHERE}"))
        return call(source, *args)

    monkeypatch.setattr(os, moment, first)
    assert taken(box) == []
    assert there(box) == {"claimed": [f"{entry_id}.{ELSEWHERE}"]}
    assert caplog.records == []


def test_a_rename_that_a_file_server_repeats_has_succeeded(box, monkeypatch):
    claim = put(box)
    rename = os.rename

    def twice(source, target):
        rename(source, target)
        raise FileNotFoundError(2, "No such file", source)

    monkeypatch.setattr(os, "rename", twice)  # as an NFS client does whose first answer was lost
    claim.record(did("file"))
    claim.release()
    assert there(box) == {}


def test_an_entry_that_moves_on_while_it_is_looked_at_is_left_out(box, monkeypatch):
    _, path = waiting(box)
    monkeypatch.setattr(_outbox, "names", lambda directory: iter([*_disk.names(directory), "2.gone"]))
    assert len(list(box.entries("new"))) == 1
    assert _disk.touched(path + "gone") == 0


# What cannot be read.


def _no_entry(path):
    os.unlink(os.path.join(path, "entry.json"))


def _torn(path):
    os.truncate(os.path.join(path, "entry.json"), 20)


def _empty(path):
    os.truncate(os.path.join(path, "entry.json"), 0)


def _directory(path):
    _no_entry(path)
    os.mkdir(os.path.join(path, "entry.json"))


def _journal(path):
    os.mkdir(os.path.join(path, "journal"))


def _fifo(path):
    _no_entry(path)
    os.mkfifo(os.path.join(path, "entry.json"))


SPOILED = pytest.mark.parametrize(
    "spoil", [_no_entry, _torn, _empty, _directory, _journal, pytest.param(_fifo, marks=POSIX)]
)


@SPOILED
def test_what_cannot_be_read_goes_to_corrupt_and_stops_nothing(box, spoil, caplog):
    entry_id, path = waiting(box)
    good = {waiting(box)[0], waiting(box)[0]}
    spoil(path)
    assert {*taken(box)} == good
    assert there(box)["corrupt"] == [entry_id]
    assert f"outbox entry {entry_id} cannot be read, and is put into corrupt/" in caplog.text
    ((_, found, reason),) = box.entries("corrupt")
    assert found == entry_id
    assert isinstance(reason, str)
    assert reason
    assert box.drop(entry_id)
    assert "corrupt" not in there(box)


@pytest.mark.parametrize("state", ["new", "claimed", "failed"])
def test_a_newer_version_is_left_alone_byte_for_byte(box, state):
    entry_id, path = waiting(box)
    with open(os.path.join(path, "entry.json"), "w") as file:
        file.write('{"version": 2, "secret": "of a newer release"}')
    name = {"new": f"1.{entry_id}", "claimed": f"{entry_id}.{ended()}", "failed": entry_id}[state]
    os.rename(path, place(box, state, name))
    os.utime(place(box, state, name), (1e9, 1e9))
    before, dated = snapshot(box.path), os.stat(place(box, state, name)).st_mtime
    assert taken(box) == taken(box, everything=True) == []
    assert not box.retry(entry_id)
    assert snapshot(box.path) == before
    assert os.stat(place(box, state, name)).st_mtime == dated
    ((_, _, reason),) = box.entries(state)
    assert reason == "its version is 2; this release reads 1"


def exhaust(held):
    """Open files until there is no room for another."""
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass


@POSIX
def test_a_process_without_room_for_another_file_leaves_entries_where_they_are(box, caplog):
    import resource

    waiting(box)
    before = there(box)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    claims = box.due()
    held = []
    name = os.listdir(place(box, "new"))[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        exhaust(held)
        claim = box._claim("new", name, name.partition(".")[2])
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert claim is None
    assert there(box) == before
    assert "cannot be claimed" in caplog.text
    assert len(list(claims)) == 1


# A person's part.


def test_a_failed_entry_is_retried_also_where_it_was_refused_for_good(box):
    claim = put(box, smtp="s")
    claim.record(did("smtp", ok=False, error=PermanentError("no such user")))
    claim.release()
    assert list(there(box)) == ["failed"]
    assert box.retry(claim.entry.id)
    (again,) = box.due()
    assert again.entry.owing == {"smtp": "s"}
    assert again.entry.last_error == "no such user"
    again.record(did("smtp"))
    again.release()
    assert there(box) == {}


def test_a_waiting_entry_is_retried_at_once(box):
    entry_id, _ = waiting(box, later())
    waiting(box, later())
    assert box.retry(entry_id)
    assert taken(box) == [entry_id]
    assert not box.retry("nosuch")


@pytest.mark.parametrize("state", ["new", "failed", "corrupt"])
def test_an_entry_is_dropped_wherever_it_is_not_being_delivered(box, state):
    entry_id, path = waiting(box)
    waiting(box)
    os.rename(path, place(box, state, f"1.{entry_id}" if state == "new" else entry_id))
    assert box.drop(entry_id)
    assert not box.drop(entry_id)
    assert list(there(box)) == ["new"]
    assert len(there(box)["new"]) == 1


def test_what_is_being_delivered_is_not_dropped(box):
    claim = put(box)
    assert not box.drop(claim.entry.id)
    assert list(there(box)) == ["claimed"]


def test_the_entries_of_each_state_are_told(box):
    waits, _ = waiting(box)
    claimed = put(box).entry.id
    found = [(state, entry_id, entry.id) for state, entry_id, entry in box.entries("new", "claimed", "failed")]
    assert found == [("new", waits, waits), ("claimed", claimed, claimed)]
