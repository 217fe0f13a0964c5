"""Errors of the operating system lose no entry. An entry that cannot be read now does not count as damaged."""

from __future__ import annotations

import errno
import itertools
import os
import time

import pytest

from event import Event
from event._outbox import Outbox
from helpers.entries import (
    POSIX,
    claim_each,
    claimed_ids,
    make_delivery,
    names,
    names_by_state,
    path_in,
    path_of,
    put,
    put_waiting,
)

ERRNOS = [
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "EACCES", "EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "ETIMEDOUT", "ENOENT", "EROFS")
    if hasattr(errno, name)
]
CALLS = (
    *("open", "close", "read", "write", "fstat", "lstat", "stat", "scandir", "listdir", "rename", "unlink", "mkdir"),
    *("rmdir", "utime", "chmod", "fsync", "access"),
)


class FailingCall:
    """Let one of the outbox's calls of `os` fail.

    :param number: of the call
    :ivar failed: the name of the failed function
    """

    def __init__(self, monkeypatch, number, error):
        self.count = 0
        self.failed = ""
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name), number, error))

    def _wrap(self, name, call, number, error):
        def wrapped(*args, **kwargs):
            self.count += 1
            if self.count == number:
                self.failed = name
                if name == "close":
                    call(*args)  # the kernel closes the descriptor even if it returns an error
                raise error()
            return call(*args, **kwargs)

        return wrapped


def deliver_one(box, *, fail):
    """Deliver each entry, as the pool does; return the ids of the entries that were tried."""
    delivered = []
    try:
        for claim in claim_each(box, everything=True):
            claim.begin()
            claim.record(make_delivery("file", ok=not fail))
            delivered.append(claim.entry.id)
            claim.release()
    except (OSError, MemoryError):
        pass  # the outbox could not be read; the next pass tries again
    return delivered


def release_all(box):
    """Release the entries that are still claimed, as if their process had ended."""
    for name in names(box, "claimed"):
        if claim := box.adopt(name):
            claim.postpone(1)


def error_of(number):
    return lambda: OSError(number, os.strerror(number))


FORMS = {"file": False, "directory": True}
ENDS = {"delivered": False, "not delivered": True}
ERRORS = {**{errno.errorcode[number]: error_of(number) for number in ERRNOS}, "MemoryError": MemoryError}


def is_in_the_short_run(error, form, end):
    """Return whether to run a combination by default: each error once, and with EIO each form and end."""
    return error == "EIO" or (form, end) == ("directory", "not delivered")


@pytest.mark.parametrize(
    ("error", "with_attachments", "fail"),
    [
        pytest.param(
            ERRORS[error],
            FORMS[form],
            ENDS[end],
            id=f"{error}-{form}-{end}",
            marks=() if is_in_the_short_run(error, form, end) else pytest.mark.long,
        )
        for error, form, end in itertools.product(ERRORS, FORMS, ENDS)
    ],
)
def test_failure_of_any_system_call_loses_and_damages_no_entry(  # noqa: PLR0913
    tmp_path, attached, monkeypatch, error, with_attachments, fail, caplog
):
    caplog.set_level("CRITICAL", "event")
    monkeypatch.setattr(os, "fsync", lambda _fd: None)  # saves time
    box = Outbox(tmp_path / "outbox")
    number, failed = 0, set()
    while True:
        number += 1
        entry_id, _ = put_waiting(box, e=attached if with_attachments else Event("build"))
        with monkeypatch.context() as patch:
            failing = FailingCall(patch, number, error)
            done = deliver_one(box, fail=fail)
        assert not {"corrupt", "failed"} & {*names_by_state(box)}, failing.failed
        release_all(box)
        left = names_by_state(box)
        assert left.get("waiting", []) == [entry_id] or (done and not fail), (failing.failed, left)
        damages = []
        for claim in claim_each(box, everything=True):
            damages.append(claim.damage())
            claim.discard()
        assert damages == [None] or (done and not fail), failing.failed
        if not failing.failed:
            break
        failed.add(failing.failed)
    assert {"open", "close", "read", "lstat", "scandir", "rename", "utime"} <= failed
    assert number > 20


@pytest.mark.parametrize("state", ["failed", "corrupt", "waiting"])
def test_unreadable_entry_is_released_unchanged(box, monkeypatch, state, caplog):
    entry_id, path = put_waiting(box, time.time() + 600)
    if state != "waiting":
        os.rename(path, path_in(box, state, entry_id))
    before = names_by_state(box)
    (candidate,) = box.find(entry_id)
    opened = []
    open_ = os.open

    def fail_at_the_second_call(target, *args, **kwargs):
        opened.append(target)
        if len(opened) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return open_(target, *args, **kwargs)

    monkeypatch.setattr(os, "open", fail_at_the_second_call)
    assert box.claim(candidate) is None
    monkeypatch.undo()
    assert names_by_state(box) == before
    assert box.find(entry_id)[0].name == candidate.name
    assert "cannot be read now: [Errno 5] Input/output error" in caplog.text


def test_entry_that_vanishes_after_the_claim_is_ignored(box, monkeypatch, caplog):
    _, path = put_waiting(box)
    (candidate,) = box.candidates()
    rename = os.rename

    def rename_and_remove(source, target):
        rename(source, target)
        os.unlink(target)

    monkeypatch.setattr(os, "rename", rename_and_remove)
    assert box.claim(candidate) is None
    assert names_by_state(box) == {}
    assert not os.path.exists(path)
    assert "cannot be read now" in caplog.text


def open_until_none_is_free(descriptors):
    try:
        while True:
            descriptors.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass


@POSIX
def test_entries_stay_unchanged_if_no_file_descriptor_is_free(box, caplog):
    import resource

    for _ in range(50):
        put_waiting(box)
    before = names_by_state(box)
    found = list(box.candidates())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        open_until_none_is_free(descriptors)
        claimed = [box.claim(candidate) for candidate in found]
    finally:
        for fd in descriptors:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert claimed == [None] * 50
    assert names_by_state(box) == before
    assert "cannot be claimed" in caplog.text
    assert len(claimed_ids(box)) == 50


def test_pending_entries_are_delivered_on_a_full_disk(box, monkeypatch):
    """Removing delivered entries frees disk space."""
    entry_id, _ = put_waiting(box)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("mkdir", "write", "fsync"):
        monkeypatch.setattr(os, name, full)
    assert deliver_one(box, fail=False) == [entry_id]
    assert names_by_state(box) == {}


def test_leftover_that_cannot_be_removed_is_ignored(box, monkeypatch):
    entry_id, _ = put_waiting(box)
    leftover = path_in(box, "tmp", "x")
    os.mkdir(leftover)
    os.utime(leftover, (0, 0))
    rmdir = os.rmdir
    monkeypatch.setattr(
        os, "rmdir", lambda path, **kw: (_ for _ in ()).throw(OSError(5, "")) if path == leftover else rmdir(path, **kw)
    )
    assert claimed_ids(box) == [entry_id]
    assert path_of(box, entry_id)


def test_entry_already_discarded_by_another_process_is_no_error(box):
    claim = put(box)
    os.unlink(claim.path)
    claim.record(make_delivery("file"))
    assert claim.release() == "delivered"


def test_directory_already_discarded_by_another_process_is_no_error(box, attached):
    claim = put(box, attached)
    os.rename(claim.path, f"{claim.path}-2")
    claim.record(make_delivery("file"))
    assert claim.release() == "delivered"


def test_directory_discarded_meanwhile_by_another_process_is_no_error(box, attached, monkeypatch):
    claim = put(box, attached)
    claim.record(make_delivery("file"))
    rename = os.rename

    def rename_after_another_process(source, target):
        monkeypatch.undo()
        os.rename(source, f"{source}-2")
        return rename(source, target)

    monkeypatch.setattr(os, "rename", rename_after_another_process)
    assert claim.release() == "delivered"
    assert names(box, "claimed") == [f"{claim.name}-2"]


def test_parent_directory_created_by_another_process_is_used(tmp_path, monkeypatch):
    mkdir = os.mkdir

    def mkdir_after_another_process(path, mode=0o777):
        mkdir(path, mode)
        mkdir(path, mode)  # raises FileExistsError

    monkeypatch.setattr(os, "mkdir", mkdir_after_another_process)
    assert put(Outbox(tmp_path / "parent" / "outbox")).entry.pending


def test_a_damaged_entry_that_cannot_be_moved_stays_claimed(box, monkeypatch, caplog):
    _, path = put_waiting(box)
    os.truncate(path, 3)
    (candidate,) = box.candidates()
    rename = os.rename

    def fail(source, target):
        if os.path.basename(os.path.dirname(target)) == "corrupt":
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    assert box.claim(candidate) is None
    assert list(names_by_state(box)) == ["claimed"]
    assert "stays claimed until this process ends" in caplog.text


def test_unreadable_entry_stays_claimed_if_it_cannot_be_released(box, monkeypatch, caplog):
    put_waiting(box)
    (candidate,) = box.candidates()
    rename = os.rename

    def fail(source, target):
        if "waiting" in target:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    monkeypatch.setattr("event._outbox.files.read_text", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "no")))
    assert box.claim(candidate) is None
    assert list(names_by_state(box)) == ["claimed"]
    assert "stays claimed until this process ends" in caplog.text


def test_newer_entry_recognized_after_the_claim_is_released(box, monkeypatch):
    entry_id, path = put_waiting(box)
    (candidate,) = box.candidates()
    with open(path, "w") as file:
        file.write('{"version": 2}')
    monkeypatch.setattr("event._outbox.files.is_from_newer_release", lambda _path, is_directory: False)
    assert box.claim(candidate) is None
    assert names_by_state(box) == {"waiting": [entry_id]}


def test_vanished_entry_is_not_listed(box, monkeypatch):
    put_waiting(box)

    def vanish(path):
        os.unlink(path)
        raise FileNotFoundError(2, "No such file", path)

    monkeypatch.setattr("event._outbox.files.read_entry", vanish)
    assert list(box.entries()) == []
