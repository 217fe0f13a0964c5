"""`put` stores an event with its attachments on disk before it returns."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from pathlib import Path

import pytest

import event
from event import Event, EventError, _files, _trace_context
from event._outbox import NewEntry, Outbox, current_owner
from helpers.entries import (
    POSIX,
    STATES,
    claimed_ids,
    lines_of,
    make_delivery,
    names_by_state,
    path_in,
    path_of,
    put,
    put_in_span,
    put_waiting,
    touch,
)


def read(box, claim):
    """Read the entry of a claim from the disk."""
    (candidate,) = box.find(claim.entry.id)
    return box.read(candidate)


def test_an_entry_without_attachments_is_one_file(box):
    claim = put(box, file="d", smtp="s")
    assert names_by_state(box) == {"claimed": [claim.name]}
    assert claim.name.rpartition("-")[0] == f"{claim.entry.id}.{current_owner()}"
    assert os.path.isfile(claim.path)
    assert len(lines_of(claim.path)) == 1


def test_an_entry_with_attachments_is_a_directory(box, attached):
    claim = put(box, attached, file="d", smtp="s")
    assert sorted(os.listdir(claim.path)) == ["0", "1", "entry"]
    entry = read(box, claim)
    assert (entry.id, entry.handlers, entry.event.uid) == (claim.entry.id, {"file": "d", "smtp": "s"}, "u")
    sent = claim.event()
    assert event.sending_id(sent) == claim.entry.id == event.sending_id(sent)
    assert list(sent.get_attachments()) == ["log", "../log"]
    assert {Path(copy).read_text() for copy, _ in sent.get_attachments().values()} == {"compiled\n"}
    assert all(os.path.dirname(copy) == claim.path for copy, _ in sent.get_attachments().values())


def test_immediate_success_writes_no_journal(box):
    claim = put(box)
    before = Path(claim.path).read_bytes()
    claim.record(make_delivery("file"))
    assert Path(claim.path).read_bytes() == before
    assert claim.release() == "delivered"
    assert names_by_state(box) == {}


@POSIX
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_outbox_is_private_to_the_user_with_any_umask(tmp_path, umask):
    box = Outbox(tmp_path / "parent" / "outbox")
    before = os.umask(umask)
    try:
        os.mkdir(tmp_path / "parent", 0o777)
        os.chmod(tmp_path / "parent", 0o755)
        claim = put(box)
        claim.begin()
    finally:
        os.umask(before)
    for path in (box.path, *(path_in(box, state) for state in STATES)):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(claim.path).st_mode) & 0o077 == 0


@POSIX
def test_parent_directories_of_an_outbox_are_not_writable_by_others(tmp_path):
    before = os.umask(0)
    try:
        put(Outbox(tmp_path / "a" / "b" / "outbox"))
    finally:
        os.umask(before)
    assert [stat.S_IMODE(os.stat(tmp_path / path).st_mode) for path in ("a", "a/b")] == [0o755] * 2


@POSIX
def test_an_entry_without_attachments_takes_two_syncs(box, synced):
    put(box).discard()
    synced.clear()
    claim = put(box)
    assert synced == [os.stat(claim.path).st_ino, os.stat(path_in(box, "claimed")).st_ino]


def test_put_entries_are_synced(box, attached, synced):
    claim = put(box, attached)
    assert {os.stat(os.path.join(claim.path, name)).st_ino for name in ("0", "1", "entry")} <= {*synced}
    if os.name == "posix":
        parents = {os.stat(path).st_ino for path in (claim.path, path_in(box, "claimed"), box.path, box.path + "/..")}
        assert parents <= {*synced}
        assert synced.index(os.stat(claim.path).st_ino) < synced.index(os.stat(path_in(box, "claimed")).st_ino)


def test_put_stores_the_current_content_of_a_file(box, attached, tmp_path):
    (tmp_path / "build.log").write_bytes(b"more\n")
    claim = put(box, attached)
    (tmp_path / "build.log").unlink()
    assert claim.damage() is None
    assert {Path(copy).read_text() for copy, _ in claim.event().get_attachments().values()} == {"more\n"}


def test_attachment_is_hashed_while_it_is_copied(box, attached, monkeypatch, tmp_path):
    """If the file changed between two reads, the digest would not match the copy."""
    opened = []
    open_regular = _files.open_regular
    monkeypatch.setattr(_files, "open_regular", lambda path, **kw: (opened.append(path), open_regular(path, **kw))[1])
    put(box, attached)
    assert opened == [str(tmp_path / "build.log")] * 2


@POSIX
def test_copied_attachment_keeps_permission_bits_and_time(box, attached, tmp_path):
    os.chmod(tmp_path / "build.log", 0o555)
    touch(tmp_path / "build.log", 1000)
    copy = os.stat(os.path.join(put(box, attached).path, "0"))
    assert stat.S_IMODE(copy.st_mode) == 0o555
    assert copy.st_mtime_ns == os.stat(tmp_path / "build.log").st_mtime_ns


def test_unreadable_attachment_is_omitted(box, attached, tmp_path, caplog):
    (tmp_path / "build.log").unlink()
    claim = put(box, attached)
    assert claim.event().get_attachments() == {}
    assert claim.event().not_attached == ["log", "../log"]
    assert "attachment 'log' of <Event" in caplog.text
    assert claim.damage() is None
    assert os.listdir(claim.path) == ["entry"]
    assert list(attached.get_attachments()) == ["log", "../log"]
    assert "not_attached" not in attached.as_dict()


def fail_reads(monkeypatch, path, errors):
    """Make the first reads of a file fail with these errors."""
    inode, os_read, errors = os.stat(path).st_ino, os.read, iter(errors)

    def read_or_fail(fd, size):
        if os.fstat(fd).st_ino == inode and (error := next(errors, None)):
            raise OSError(error, os.strerror(error))
        return os_read(fd, size)

    monkeypatch.setattr(os, "read", read_or_fail)


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOENT, errno.EAGAIN])
def test_attachment_that_fails_while_it_is_copied_is_omitted(box, attached, tmp_path, monkeypatch, caplog, error):  # noqa: PLR0913  # fixtures
    (tmp_path / "other.log").write_bytes(b"other\n")
    attached.attach_file(tmp_path / "other.log", "other")
    fail_reads(monkeypatch, tmp_path / "build.log", itertools.repeat(error))
    claim = put(box, attached)
    monkeypatch.undo()
    sent = claim.event()
    assert sent.not_attached == ["log", "../log"]
    assert [Path(path).read_bytes() for path, _ in sent.get_attachments().values()] == [b"other\n"]
    assert claim.damage() is None
    assert [record.getMessage().partition(" cannot be read")[2] for record in caplog.records] == [
        f", and is left out: {event.error.one_line(OSError(error, os.strerror(error), str(tmp_path / 'build.log')))}"
    ] * 2


def test_attachment_that_fails_once_while_it_is_copied_is_kept(box, attached, tmp_path, monkeypatch, caplog):
    fail_reads(monkeypatch, tmp_path / "build.log", [errno.ESTALE])
    assert list(put(box, attached).event().get_attachments()) == ["log", "../log"]
    assert caplog.text == ""


@pytest.fixture
def small_files():
    """Limit the size of files that this process may write; the limit is an error like that of a full disk."""
    resource = pytest.importorskip("resource", reason="platform: Windows has no such limit")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_attachment_that_does_not_fit_is_omitted_from_the_entry(box, attached, tmp_path, caplog, request):
    (tmp_path / "core").write_bytes(bytes(200_000))
    attached.attach_file(tmp_path / "core", "core")
    request.getfixturevalue("small_files")
    claim = put(box, attached)
    kept = claim.event()
    assert (list(kept.get_attachments()), kept.not_attached) == (["log", "../log"], ["core"])
    assert claim.damage() is None
    assert "attachment 'core' of <Event" in caplog.text
    assert "cannot be kept in the outbox: " in caplog.text


def test_first_attempt_includes_an_attachment_that_does_not_fit_into_the_outbox(box, attached, tmp_path, request):
    (tmp_path / "core").write_bytes(bytes(200_000))
    attached.attach_file(tmp_path / "core", "core")
    (tmp_path / "build.log").unlink()
    request.getfixturevalue("small_files")
    first = put(box, attached).first_attempt(attached)
    assert list(first.get_attachments()) == ["core"]
    assert first.not_attached == ["log", "../log"]


def test_names_of_omitted_attachments_are_added_to_the_list(box, attached, tmp_path):
    attached.not_attached = ["junit"]
    (tmp_path / "build.log").unlink()
    assert put(box, attached).event().not_attached == ["junit", "log", "../log"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_failing_write_is_an_error_of_the_outbox(box, attached, monkeypatch, error):
    def fail(*_args):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(_files, "write_all", fail)
    with pytest.raises(OSError, match=os.strerror(error)):
        put(box, attached)
    assert names_by_state(box) == {}


def test_strict_put_refuses_an_unreadable_attachment(box, attached, tmp_path):
    (tmp_path / "build.log").unlink()
    with pytest.raises(_files.UnreadableError):
        box.put(attached, {"file": "d"}, strict=True)
    assert names_by_state(box) == {}


def test_strict_put_refuses_a_changed_attachment(box, attached, tmp_path):
    box.put(attached, {"file": "d"}, strict=True).discard()
    (tmp_path / "build.log").write_bytes(b"secrets of another file\n")
    with pytest.raises(EventError, match=r"attachment 'log' of .* has changed since it was attached"):
        box.put(attached, {"file": "d"}, strict=True)
    assert names_by_state(box) == {}


def test_event_subclass_is_stored_through_its_public_methods(box):
    class OtherEvent:
        """An event of another library. It lacks most of the private attributes of `Event`."""

        _closed = True

        def as_dict(self):
            return {"uid": "u", "name": "other", "more": {1, 2}}

        def get_attachments(self):
            return {}

    claim = put(box, OtherEvent())
    assert read(box, claim).event.more == [1, 2]
    assert claim.entry.event.name == "other"


def test_event_that_cannot_be_read_back_is_refused(box):
    e = Event("build")
    e.set_formatter("name", lambda _key, _value: {})
    with pytest.raises(EventError, match="cannot be kept: 'data' must be an object with a 'uid' and a 'name'"):
        put(box, e)
    assert names_by_state(box) == {}


def test_event_above_the_size_limit_is_refused(box, monkeypatch):
    monkeypatch.setattr("event._outbox.entry.MAX_ENTRY_SIZE", 5000)
    put(box, Event("build", text="x" * 4000)).discard()
    with pytest.raises(EventError, match=r"cannot be kept: it has .* bytes; the limit is 5000"):
        put(box, Event("build", text="x" * 5000))
    assert names_by_state(box) == {}


@pytest.mark.parametrize("sending", ["../x", "a.b", "x" * 129, "é", "a b"])
def test_sending_id_that_is_not_a_file_name_is_refused(box, sending):
    with pytest.raises(EventError, match="cannot be the id of a sending"):
        box.put(Event("build"), {"file": "d"}, sending=sending)


def test_put_accepts_a_sending_id(box):
    assert box.put(Event("build"), {"file": "d"}, sending="abc-1_X").entry.id == "abc-1_X"
    assert path_of(box, "abc-1_X").startswith(path_in(box, "claimed", "abc-1_X."))


TRACE, SPAN, OTHER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"


def test_put_stores_the_current_span(box, monkeypatch):
    assert put(box).entry.span is _trace_context.NO_SPAN
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{SPAN}-00")
    monkeypatch.setenv("TRACESTATE", "v=1")
    claim = put(box)
    assert _trace_context.to_data(claim.entry.span) == {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "v=1"}
    assert _trace_context.to_data(read(box, claim).span) == _trace_context.to_data(claim.entry.span)


def test_put_stores_a_given_span(box, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{SPAN}-01")
    given = _trace_context.Span(TRACE, OTHER)
    assert put_in_span(box, Event("build"), {"file": "d"}, given).entry.span is given
    assert put_in_span(box, Event("build"), {"file": "d"}, _trace_context.NO_SPAN).entry.span is _trace_context.NO_SPAN


def test_span_with_a_trace_state_that_is_not_utf_8_is_stored(box, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{SPAN}-01")
    monkeypatch.setenv("TRACESTATE", "v=\udcff" if os.name == "posix" else "v=\xe9")
    span = read(box, put(box)).span
    assert (span.traceparent, span.state) == (f"00-{TRACE}-{SPAN}-01", "")


def test_failed_put_leaves_no_file(box):
    e = Event("n")
    e.cycle = {}
    e.cycle["self"] = e.cycle
    with pytest.raises(EventError):
        put(box, e)
    assert names_by_state(box) == {}


def test_entry_is_removed_if_its_last_sync_fails(box, fail_sync):
    fail_sync("claimed")
    with pytest.raises(OSError, match="Input/output"):
        put(box)
    assert names_by_state(box) == {}


def test_event_is_stored_after_an_error_that_does_not_come_again(box, attached, monkeypatch):
    open_ = os.open
    errors = [OSError(errno.ESTALE, "Stale file handle")]

    def fail_once(path, *args, **kwargs):
        if errors and os.path.basename(path) == "entry":
            raise errors.pop()
        return open_(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", fail_once)
    assert put(box, attached).damage() is None
    assert errors == []
    assert [*names_by_state(box)] == ["claimed"]


@pytest.mark.parametrize("call", ["rename", "mkdir"])
def test_entry_is_removed_if_it_cannot_be_moved(box, attached, monkeypatch, call):
    put(box).discard()

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space"):
            put(box, attached)
        (problem,) = box.put_many([NewEntry(attached, {"file": "d"})])
    assert problem.errno == 28
    assert names_by_state(box) == {}


def test_file_instead_of_the_outbox_directory_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        put(Outbox(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        claimed_ids(Outbox(tmp_path / "file"))


# Attachments in a workspace.


def event_in_workspace(directory):
    """Return an event with an attachment in a workspace, and the attachment's inode."""
    path = os.path.join(directory, "0")
    Path(path).write_bytes(b"from a message")
    e = Event("build")
    e.attach_file(path, "log")
    return e, os.stat(path).st_ino


def test_an_attachment_in_a_workspace_is_moved_into_the_entry(box, synced):
    with box.workspace() as directory:
        assert names_by_state(box) == {"tmp": [os.path.basename(directory)]}
        e, inode = event_in_workspace(directory)
        claim = box.put(e, {"file": "d"}, strict=True)
        assert os.listdir(directory) == []
    assert os.stat(os.path.join(claim.path, "0")).st_ino == inode
    assert inode in synced
    assert claim.damage() is None
    assert list(names_by_state(box)) == ["claimed"]


def test_leftover_files_of_a_workspace_are_removed(box):
    with box.workspace() as directory:
        event_in_workspace(directory)
    assert names_by_state(box) == {}


def test_attachment_in_a_workspace_of_another_outbox_is_copied(box, tmp_path):
    with Outbox(tmp_path / "other").workspace() as directory:
        e, inode = event_in_workspace(directory)
        claim = put(box, e)
        assert os.listdir(directory) == ["0"]
    assert os.stat(os.path.join(claim.path, "0")).st_ino != inode


def test_repr_shows_no_configuration(box):
    entry_id, _ = put_waiting(box, smtp="secret")
    new = NewEntry(Event("build"), {"smtp": "secret"})
    claim = put(box, smtp="secret")
    claim.record(make_delivery("smtp", ok=False, error=ValueError("secret")))
    claim.record(make_delivery("smtp", ok=False, error=event.PermanentError("secret")))
    shown = [new, claim, claim.entry, box, *claim.entry.journal, *box.find(entry_id), box.summary()]
    assert "secret" not in "".join(map(repr, shown))
    assert "smtp" in repr(new)
    assert "smtp: permanent failure" in repr(claim.entry.journal)
    claim.record(make_delivery("smtp"))
    assert "smtp: ok" in repr(claim.entry.journal)
