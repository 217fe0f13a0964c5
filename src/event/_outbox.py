"""The outbox: events on disk until every handler has them. No daemon, no database, no locks.

An entry is a directory, and where it stands is its state. Each move is one rename, which one process alone can win,
on NFS too:

==========  ==============================  =====================================================================
in          named                           means
==========  ==============================  =====================================================================
tmp/        ID.OWNER                        being written, or being removed; left over where the owner is gone
claimed/    ID.OWNER                        its owner is delivering it
new/        DUE.ID                          it waits until DUE, in seconds since 1970 UTC
failed/     ID                              given up: too old, or refused for good
corrupt/    ID                              cannot be read
==========  ==============================  =====================================================================

===========================  =========================================================================================
move                         when
===========================  =========================================================================================
tmp -> claimed               put: the event and its attachments are on disk, and synced
claimed -> tmp, and gone     every handler has it
claimed -> new               handlers still owe it: due again after a delay
claimed -> failed, corrupt   trying again does not help
new -> claimed               it is due
claimed -> claimed           its owner is gone
failed, new -> new           a person asks for another attempt
===========================  =========================================================================================

OWNER is ``MACHINE-PID-START``: the boot and process namespace, the process, when it began. On the owner's machine the
owner is gone when no such process runs; elsewhere, when the entry has not been touched for `LEASE` seconds by the
file server's clock.
"""

from __future__ import annotations

import os
import stat
import time

from event import _entry, _files
from event._entry import Entry, NewerVersionError
from event._event import Event, unique_id
from event._log import get_logger
from event._owner import gone, me

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from event._outcome import Delivery

LEASE = 3600.0  # seconds; longer than any single delivery takes
_FURTHEST = 2 * _entry.LONGEST_DELAY  # seconds; what is due later was dated by a clock since set back
_STATES = ("tmp", "new", "claimed", "failed", "corrupt")


class Outbox:
    """A directory of entries.

    :param path: the directory; it is made, for this user alone, when an event is put
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))

    def put(self, event: Event, handlers: dict[str, str]) -> Claim:
        """Keep an event, with copies of its attachments, until each handler has it; it is on the disk afterwards.

        :param handlers: the configuration of each handler, by name
        :return: the entry, claimed by this process
        :raises OSError: it could not be kept: the disk is full, the directory not writable or another user's
        :raises EventError: the data cannot be written as JSON
        """
        self._prepare()
        entry_id = unique_id()
        temporary = self._place("tmp", f"{entry_id}.{me()}")
        os.mkdir(temporary, 0o700)
        try:
            kept = event._as_sent(entry_id, _copied(event, temporary))
            entry = Entry(entry_id, time.time(), kept, handlers)
            _files.write_whole(os.path.join(temporary, "entry.json"), _entry.encode(entry), sync=True)
            _files.sync_directory(temporary)
            claimed = self._place("claimed", f"{entry_id}.{me()}")
            os.rename(temporary, claimed)
            _files.sync_directory(os.path.dirname(claimed))
        except BaseException:
            _remove(temporary)
            raise
        return Claim(self, claimed, entry)

    def due(self, *, everything: bool = False) -> Iterator[Claim]:
        """Claim one entry after another that is due, or whose owner is gone.

        Memory does not grow with their number. The caller hands each one back before it takes the next.

        :param everything: also what is not due yet
        """
        if not self._exists():
            return
        self._sweep()
        yield from self._abandoned()
        for name in _names(self._place("new")):
            due, _, entry_id = name.partition(".")
            if entry_id and (everything or _is_due(due)) and (claim := self._claim("new", name, entry_id)):
                yield claim

    def entries(self, *states: str) -> Iterator[tuple[str, str, Entry | str]]:
        """Look at entries without claiming them.

        :param states: of new, claimed, failed and corrupt
        :return: for each its state, its id, and the entry, or why it cannot be read
        """
        for state in states:
            for name in _names(self._place(state)):
                try:
                    entry: Entry | str = _read(self._place(state, name))
                except FileNotFoundError:
                    continue  # moved on meanwhile
                except (OSError, ValueError) as error:
                    entry = str(error)
                yield state, _id(state, name), entry

    def retry(self, entry_id: str) -> bool:
        """Make a waiting or failed entry due now; return whether there was one."""
        for state in ("failed", "new"):
            for name in _names(self._place(state)):
                if _id(state, name) == entry_id:
                    return _move(self._place(state, name), self._place("new", f"{int(time.time())}.{entry_id}"))
        return False

    def drop(self, entry_id: str) -> bool:
        """Remove an entry that waits, has failed or is corrupt; return whether there was one."""
        for state in ("new", "failed", "corrupt"):
            for name in _names(self._place(state)):
                if _id(state, name) == entry_id:
                    return self._discard(self._place(state, name), entry_id)
        return False

    def _prepare(self) -> None:
        os.makedirs(self.path, 0o700, exist_ok=True)
        for state in _STATES:
            place = self._place(state)
            _files.make_directory(place, 0o700)
            _require_own(place)

    def _exists(self) -> bool:
        return all(_files.is_directory(self._place(state)) for state in _STATES) if os.path.isdir(self.path) else False

    def _place(self, state: str, name: str = "") -> str:
        return os.path.join(self.path, state, name) if name else os.path.join(self.path, state)

    def _abandoned(self) -> Iterator[Claim]:
        now = None
        for name in _names(self._place("claimed")):
            entry_id, _, owner = name.partition(".")
            now = now or self._server_time()
            if gone(owner, self._place("claimed", name), now, LEASE) and (
                claim := self._claim("claimed", name, entry_id)
            ):
                if claim.entry.attempts > 1 and (due := claim.entry.last_start + claim.entry.delay(0.5)) > time.time():
                    # It may have brought down its deliverer: others go first, and it keeps its distance.
                    claim.postpone(due)
                else:
                    yield claim

    def _claim(self, state: str, name: str, entry_id: str) -> Claim | None:
        source, target = self._place(state, name), self._place("claimed", f"{entry_id}.{me()}")
        try:
            _require_own(source)
            if _is_newer(source):
                return None
            os.utime(source)  # the lease begins before the claim does
        except OSError:
            return None
        if not _move(source, target):
            return None
        try:
            entry = _read(target)
        except (OSError, ValueError) as error:
            get_logger().error("outbox entry %s cannot be read, and is put into corrupt/: %s", entry_id, error)
            _move(target, self._place("corrupt", entry_id))
            return None
        return Claim(self, target, entry)

    def _sweep(self) -> None:
        """Remove what dead processes left in tmp/."""
        names = list(_names(self._place("tmp")))
        if names:
            now = self._server_time()
            for name in names:
                path = self._place("tmp", name)
                if gone(name.partition(".")[2], path, now, LEASE):
                    _remove(path)

    def _server_time(self) -> float:
        """Return the time by the clock that dates the files, in seconds since 1970 UTC."""
        probe = self._place("tmp", f"{unique_id()}.{me()}")
        os.mkdir(probe, 0o700)
        try:
            return os.lstat(probe).st_mtime
        finally:
            os.rmdir(probe)

    def _discard(self, path: str, entry_id: str) -> bool:
        # Out of sight in one step: half an entry must not be taken for one.
        target = self._place("tmp", f"{entry_id}.{me()}")
        if not _move(path, target):
            return False
        _remove(target)
        return True


class Claim:
    """An entry in the hands of this process.

    :ivar entry: what it holds
    """

    def __init__(self, outbox: Outbox, path: str, entry: Entry) -> None:
        self.entry = entry
        self._outbox = outbox
        self._path = path
        self._pid = os.getpid()

    def event(self) -> Event:
        """Return the event to send, its attachments being the entry's own copies."""
        kept = self.entry.event.get_attachments()
        attachments = {name: (os.path.join(self._path, file), digest) for name, (file, digest) in kept.items()}
        return self.entry.event._as_sent(self.entry.id, attachments)

    def begin(self) -> None:
        """Note that another attempt begins."""
        self.entry.attempts += 1
        self._write(_entry.encode_attempt(time.time(), self.entry.attempts))

    def record(self, delivery: Delivery) -> None:
        """Note what a handler did, before the next one is tried: a handler that has the event does not get it again."""
        line = _entry.encode_delivery(time.time(), delivery)
        self.entry.add(line)
        self._write(line)

    def set_aside(self, problem: str) -> None:
        """Put the entry into corrupt/."""
        get_logger().error("outbox entry %s is put into corrupt/: %s", self.entry.id, problem)
        _move(self._path, self._outbox._place("corrupt", self.entry.id))

    def release(self) -> None:
        """Hand the entry back; where it goes follows from what was recorded."""
        entry = self.entry
        now = time.time()
        if self._pid != os.getpid():
            return  # a handler forked, and this is the child: the entry is its parent's
        if not entry.owing and not entry.refused:
            self._outbox._discard(self._path, entry.id)
        elif not entry.owing or now - entry.created > _entry.LIFETIME:
            _move(self._path, self._outbox._place("failed", entry.id))
            get_logger().error("outbox entry %s is given up, and kept in failed/: %s", entry.id, entry.last_error)
        else:
            self.postpone(now + entry.delay(int.from_bytes(os.urandom(2), "big") / 65535))

    def postpone(self, due: float) -> None:
        """Hand the entry back, to be delivered from a point in time on, in seconds since 1970 UTC."""
        _move(self._path, self._outbox._place("new", f"{int(due)}.{self.entry.id}"))

    def _write(self, line: bytes) -> None:
        try:
            fd = os.open(os.path.join(self._path, "journal"), _APPEND, 0o600)
            try:
                _files.write_all(fd, line)
            finally:
                os.close(fd)
        except OSError as error:
            # The delivery counts all the same; a later process may make it again, with the same id.
            get_logger().warning("outbox entry %s: its journal cannot be written: %s", self.entry.id, error)


def _copied(event: Event, directory: str) -> dict[str, tuple[str, str]]:
    """Copy an event's attachments into a directory; return name -> (file, SHA-1) of the copies.

    A file may have changed since it was attached, and it is its copy that is delivered later.
    """
    copies = {}
    for number, (name, (path, _)) in enumerate(event.get_attachments().copy().items()):
        copy = os.path.join(directory, str(number))
        _files.copy_whole(path, copy, sync=True)
        copies[name] = (str(number), _files.sha1(copy))
    return copies


_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


def _names(directory: str) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                yield entry.name
    except FileNotFoundError:
        return


def _id(state: str, name: str) -> str:
    before, _, after = name.partition(".")
    return after if state == "new" else before


def _is_due(due: str) -> bool:
    wait = int(due) - time.time() if due.isdecimal() else 0
    return wait <= 0 or wait > _FURTHEST


def _require_own(path: str) -> None:
    """Raise OSError unless path is a directory of this user's, and no symbolic link."""
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{path} is no directory")
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")


def _content(path: str, name: str) -> bytes:
    """Return a file of an entry; a symbolic link is not followed."""
    fd = _files.open_regular(os.path.join(path, name), follow=False)
    with open(fd, "rb") as file:
        return file.read()


def _read(path: str) -> Entry:
    """Return the entry in a directory.

    :raises OSError: a file is missing, or is not what it should be
    :raises ValueError: the content is no entry
    """
    _require_own(path)
    try:
        journal = _content(path, "journal")
    except FileNotFoundError:
        journal = b""
    return _entry.decode(_content(path, "entry.json"), journal.split(b"\n"))


def _is_newer(path: str) -> bool:
    try:
        _read(path)
    except NewerVersionError:
        return True
    except (OSError, ValueError):
        return False  # whoever claims it finds out
    return False


def _move(source: str, target: str) -> bool:
    """Rename; return False where the source is not there, because another process was first."""
    try:
        os.rename(source, target)
    except FileNotFoundError:
        # An NFS server may have done it, and answered a repeated request that there is nothing.
        return os.path.lexists(target) and not os.path.lexists(source)
    return True


def _remove(path: str) -> None:
    from shutil import rmtree

    rmtree(path, ignore_errors=True)
