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

OWNER is ``MACHINE-PID-START``: the boot and process namespace, the process, when it began; in claimed/ a random part
follows. On the owner's machine the owner is gone when no such process runs; elsewhere, when the entry has not been
touched for `LEASE` seconds by the file server's clock. Where an ID is taken in failed/ or corrupt/, a dot and more
follow it.
"""

from __future__ import annotations

import os
import time

from event import _entry, _files, _log, _trace
from event._disk import is_newer, move, names, read_entry, remove, require_own, touched
from event._entry import Entry
from event._event import Event, unique_id
from event._owner import gone, me

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from event._outcome import Delivery
    from event._trace import Span

LEASE = 3600.0  # seconds; longer than any single delivery takes
_FURTHEST = 2 * _entry.LONGEST_DELAY  # seconds; what is due later was dated by a clock since set back
_STATES = ("tmp", "new", "claimed", "failed", "corrupt")


class Outbox:
    """A directory of entries.

    :param path: the directory; it is made, for this user alone, when an event is put
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))

    def put(self, event: Event, handlers: dict[str, str], *, sending: str = "", span: Span | None = None) -> Claim:
        """Keep an event, with copies of its attachments, until each handler has it; it is on the disk afterwards.

        :param handlers: the configuration of each handler, by name
        :param sending: the id of the sending; a new one where it is empty
        :param span: what the event is sent in; where it is None, what is around us
        :return: the entry, claimed by this process
        :raises OSError: it could not be kept: the disk is full, the directory not writable or another user's
        :raises EventError: the data cannot be written as JSON
        """
        self._prepare()
        entry_id = sending or unique_id()
        # A part of its own: a sending that comes again, through a broker, may meet itself.
        name = f"{entry_id}.{me()}-{os.urandom(4).hex()}"
        temporary, claimed = (self._place(state, name) for state in ("tmp", "claimed"))
        os.mkdir(temporary, 0o700)
        try:
            kept = event._as_sent(entry_id, _copied(event, temporary))
            span = span or _trace.around_event(event) or _trace.NOWHERE
            entry = Entry(entry_id, time.time(), kept, handlers, span=span)
            _files.write_new(os.path.join(temporary, "entry.json"), _entry.encode(entry))
            _files.sync_directory(temporary)
            os.rename(temporary, claimed)
            _files.sync_directory(os.path.dirname(claimed))
        except BaseException:
            remove(temporary)
            self._discard(claimed, entry_id)  # there where the last sync failed
            raise
        return Claim(self, claimed, entry)

    def make_scratch(self) -> str:
        """Make a directory for what is going to be put; return its path. It is swept away should this process end."""
        self._prepare()
        directory = self._place("tmp", f"{unique_id()}.{me()}")
        os.mkdir(directory, 0o700)
        return directory

    def due(self, *, everything: bool = False) -> Iterator[Claim]:
        """Claim one entry after another that is due, or whose owner is gone.

        Memory does not grow with their number. The caller hands each one back before it takes the next.

        :param everything: also what is not due yet
        """
        if not os.path.lexists(self._place("new")):
            return
        self._prepare()
        self._sweep()
        started = self._server_time() if everything else 0.0
        postponed: list[str] = []
        yield from self._abandoned(postponed)
        for name in names(self._place("new")):
            due, _, entry_id = name.partition(".")
            if not due.isdecimal() or not (everything or _is_due(due)):
                continue
            if everything and touched(self._place("new", name)) > started:
                continue  # tried since, and put back: the directory may show it again without end
            if claim := self._claim("new", name, entry_id):
                yield claim
        for name in postponed if everything else ():
            if claim := self._claim("new", name, name.partition(".")[2]):
                yield claim

    def entries(self, *states: str) -> Iterator[tuple[str, str, Entry | str]]:
        """Look at entries without claiming them.

        :param states: of new, claimed, failed and corrupt
        :return: for each its state, its id, and the entry, or why it cannot be read
        """
        for state in states:
            for name in names(self._place(state)):
                path = self._place(state, name)
                try:
                    entry: Entry | str = read_entry(path)
                except (OSError, ValueError) as error:
                    if not os.path.lexists(path):
                        continue  # moved on meanwhile
                    entry = str(error)
                yield state, _id(state, name), entry

    def retry(self, entry_id: str) -> bool:
        """Make a waiting or failed entry due now, also for handlers that refused it; return whether there was one."""
        for state in ("failed", "new"):
            for name in names(self._place(state)):
                if _id(state, name) == entry_id and (claim := self._claim(state, name, entry_id)):
                    claim.retry()
                    return True
        return False

    def drop(self, entry_id: str) -> bool:
        """Remove an entry that waits, has failed or is corrupt; return whether there was one."""
        for state in ("new", "failed", "corrupt"):
            for name in names(self._place(state)):
                if _id(state, name) == entry_id:
                    return self._discard(self._place(state, name), entry_id)
        return False

    def _prepare(self) -> None:
        places = [self._place(state) for state in _STATES]
        try:
            for place in places:
                require_own(place)
            return
        except FileNotFoundError:
            os.makedirs(self.path, 0o700, exist_ok=True)
        for place in places:
            _files.make_directory(place, 0o700)
            require_own(place)
        _files.sync_directory(self.path)
        _files.sync_directory(os.path.dirname(self.path))

    def _place(self, state: str, name: str = "") -> str:
        return os.path.join(self.path, state, name) if name else os.path.join(self.path, state)

    def _abandoned(self, postponed: list[str]) -> Iterator[Claim]:
        """Take over what dead processes have claimed.

        What is not the first attempt may have brought down its deliverer: others go first, and it keeps its distance.

        :param postponed: takes the names that such entries have in new/
        """
        now = None
        for name in names(self._place("claimed")):
            entry_id, _, owner = name.partition(".")
            now = now or self._server_time()
            if not gone(owner, self._place("claimed", name), now, LEASE):
                continue
            if claim := self._claim("claimed", name, entry_id):
                entry = claim.entry
                if entry.attempts > 1 and time.time() - entry.created > _entry.LIFETIME:
                    claim.release()  # into failed/
                elif entry.attempts > 1 and (due := entry.last_start + entry.delay(0.5)) > time.time():
                    postponed.append(claim.postpone(due))
                else:
                    yield claim

    def _claim(self, state: str, name: str, entry_id: str) -> Claim | None:
        """Claim an entry; return None where another process was first, or it is not to be had."""
        # A name of its own: two threads of a process are two claimants.
        source, target = self._place(state, name), self._place("claimed", f"{entry_id}.{me()}-{os.urandom(4).hex()}")
        try:
            require_own(source)
            if is_newer(source):
                return None
            os.utime(source)  # the lease begins before the claim does
            if not move(source, target):
                return None
            return self._read_claimed(target, entry_id)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("outbox entry %s cannot be claimed: %s", entry_id, error)
            return None

    def _read_claimed(self, path: str, entry_id: str) -> Claim | None:
        try:
            entry = read_entry(path)
            if entry.id != entry_id:
                raise ValueError(f"it names itself {entry.id!r}")
        except (OSError, ValueError) as error:
            _log.error("outbox entry %s cannot be read, and is put into corrupt/: %s", entry_id, error)
            self._put_aside(path, "corrupt", entry_id)
            return None
        return Claim(self, path, entry)

    def _sweep(self) -> None:
        """Remove what dead processes left in tmp/."""
        left = list(names(self._place("tmp")))
        if left:
            now = self._server_time()
            for name in left:
                path = self._place("tmp", name)
                if gone(name.partition(".")[2], path, now, LEASE):
                    remove(path)

    def _server_time(self) -> float:
        """Return the time by the clock that dates the files, in seconds since 1970 UTC."""
        probe = self._place("tmp", f"{unique_id()}.{me()}")
        try:
            os.mkdir(probe, 0o700)
        except OSError:
            return time.time()  # a full disk: what waits must be delivered, to make room
        try:
            return os.lstat(probe).st_mtime
        finally:
            os.rmdir(probe)

    def _put_aside(self, path: str, state: str, entry_id: str) -> None:
        target = self._place(state, entry_id)
        move(path, f"{target}.{unique_id()}" if os.path.lexists(target) else target)

    def _discard(self, path: str, entry_id: str) -> bool:
        # Out of sight in one step: half an entry must not be taken for one.
        target = self._place("tmp", f"{entry_id}.{me()}")
        if not move(path, target):
            return False
        remove(target)
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

    def damage(self) -> str | None:
        """Return why the attachments are not what was put; None where they are."""
        attachments = self.event().get_attachments()
        for name, (path, _) in attachments.items():
            if os.path.islink(path):
                return f"attachment {name!r}: {path} is a symbolic link"
        return _files.changed(attachments)

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
        _log.error("outbox entry %s is put into corrupt/: %s", self.entry.id, problem)
        self._outbox._put_aside(self._path, "corrupt", self.entry.id)

    def retry(self) -> None:
        """Hand the entry back, due at once, also for the handlers that refused it for good."""
        now = time.time()
        self._write(_entry.encode_retry(now))
        self.postpone(now)

    def release(self) -> None:
        """Hand the entry back; where it goes follows from what was recorded.

        This raises nothing of the operating system's: the sending is over, and its outcome known.
        """
        if self._pid != os.getpid():
            return  # a handler forked, and this is the child: the entry is its parent's
        try:
            self._settle()
        except OSError as error:
            _log.warning(
                "outbox entry %s cannot be moved, and stays claimed until this process ends: %s", self.entry.id, error
            )

    def _settle(self) -> None:
        entry = self.entry
        now = time.time()
        if not entry.owing and not entry.refused:
            self._outbox._discard(self._path, entry.id)
        elif not entry.owing or now - entry.created > _entry.LIFETIME:
            self._outbox._put_aside(self._path, "failed", entry.id)
            _log.error("outbox entry %s is given up, and kept in failed/: %s", entry.id, entry.last_error)
        else:
            self.postpone(now + entry.delay(int.from_bytes(os.urandom(2), "big") / 65535))

    def postpone(self, due: float) -> str:
        """Hand the entry back, to be delivered from a point in time on, in seconds since 1970 UTC; return its name."""
        name = f"{int(due)}.{self.entry.id}"
        move(self._path, self._outbox._place("new", name))
        return name

    def _write(self, line: bytes) -> None:
        if self._pid != os.getpid():
            return  # the child of a handler that forked: what it does is not what was done
        try:
            os.utime(self._path)  # whoever claimed it lives
            fd = os.open(os.path.join(self._path, "journal"), _APPEND, 0o600)
            try:
                _files.write_all(fd, line)
            finally:
                os.close(fd)
        except OSError as error:
            # The delivery counts all the same; a later process may make it again, with the same id.
            _log.warning("outbox entry %s: its journal cannot be written: %s", self.entry.id, error)


def _copied(event: Event, directory: str) -> dict[str, tuple[str, str]]:
    """Copy an event's attachments into a directory; return name -> (file, SHA-1) of the copies.

    A file may have changed since it was attached, and it is its copy that is delivered later.
    """
    copies = {}
    for number, (name, (path, _)) in enumerate(event.get_attachments().copy().items()):
        try:
            os.close(_files.open_regular(path))
        except OSError as error:  # the event is worth keeping without it
            _log.warning("attachment %r of %r is not kept in the outbox: %s", name, event, error)
            continue
        copy = os.path.join(directory, str(number))
        _files.copy_whole(path, copy, sync=True)
        copies[name] = (str(number), _files.sha1(copy))
    return copies


_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


def _id(state: str, name: str) -> str:
    before, _, after = name.partition(".")
    return after if state == "new" else before


def _is_due(due: str) -> bool:
    wait = int(due) - time.time()
    return wait <= 0 or wait > _FURTHEST
