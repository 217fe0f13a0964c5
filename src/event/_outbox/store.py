"""The outbox: events on disk until every handler has them. No daemon, no database, no locks.

An entry is one file, or if it has attachments one directory. Entries that were put together may be hard links to one
file, until something is noted about one of them: it then gets a file of its own. Where an entry is, is its state:

=================  ==========================  ========================================================================
in                 named                       means
=================  ==========================  ========================================================================
tmp/               ID.OWNER-RANDOM             being written or removed; a leftover if the owner is dead
claimed/           ID.OWNER-RANDOM             its owner is delivering it
waiting/BUCKET/    ID                          all in the bucket are due from BUCKET on, in seconds since 1970 UTC
failed/            ID                          given up: tried for days, or permanently failed
corrupt/           ID                          damaged
=================  ==========================  ========================================================================

Each move is one rename, which one process alone can win, on NFS too:

============================  =========================================================================================
move                          when
============================  =========================================================================================
tmp -> claimed                put: the event and its attachments are on disk, and synced; a link for each entry if they
                              share a file
claimed -> gone               every handler has it
claimed -> waiting            handlers are pending: it is due again after a delay
claimed -> failed, corrupt    another attempt does not help
waiting -> claimed            it is due
claimed -> claimed            its owner is dead
failed, corrupt -> claimed    an operator retries it; it waits then, and is due
claimed -> where it was       it could not be read, for a reason that may pass
============================  =========================================================================================

OWNER is ``MACHINE-PID-START``: the boot and process namespace, the process, when it began. On its own machine, an owner
is dead when no such process runs. Elsewhere it counts as dead when the entry has not been touched for `CLAIM_LEASE`
seconds by the file server's clock.

BUCKET is the due time, rounded up to a multiple of 30 seconds, or of 300 if it is far. So nothing that is not due is
ever looked at, and to find an entry by its id takes one look into each of some 200 buckets. An empty bucket is removed.
A process that moves an entry into one makes it.
"""

from __future__ import annotations

import os
import time

from event import _files, _log
from event._outbox import entry as text
from event._outbox import files, layout, writer
from event._outbox.claim import Claim
from event._outbox.layout import Candidate, Layout
from event._outbox.turns import Turns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from event._event import Event
    from event._outbox.entry import Entry
    from event._trace_context import Span

CLAIM_LEASE = 3600.0  # seconds; longer than any single delivery takes
BOUND = 1000  # entries of a state that `Outbox.summary` counts, and that `Outbox.find` finds
_LISTED = ("claimed", "waiting", "failed", "corrupt")


class Summary:
    """How much is in an outbox. No number is above `BOUND`, which means that many or more.

    :ivar counts: the number of entries in each of ``claimed``, ``waiting``, ``failed`` and ``corrupt``
    :ivar due: the number of waiting entries that are due
    :ivar next_due: when the next bucket is due, in seconds since 1970 UTC; None if there is none
    """

    __slots__ = ("counts", "due", "next_due")

    def __init__(self, counts: dict[str, int], due: int, next_due: int | None) -> None:
        self.counts = counts
        self.due = due
        self.next_due = next_due

    def __repr__(self) -> str:
        """Return the numbers."""
        return f"<Summary {self.counts}, {self.due} due, next {self.next_due}>"


class Outbox:
    """A directory of entries.

    :param path: the directory; it is made, for this user alone, when an event is put
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = _files.absolute(os.fspath(path))
        self._layout = Layout(self.path)

    def __repr__(self) -> str:
        """Return the path."""
        return f"<Outbox {self.path}>"

    def exists(self) -> bool:
        """Return whether there is an outbox.

        :raises OSError: what is there is not one, or another user could change it
        """
        try:
            os.stat(self.path)
            self._layout.require_own("claimed")
        except FileNotFoundError:
            # An archive, such as a CI system's artifact, may have left out the directories that were empty.
            there = [state for state in layout.STATES if files.exists(self._layout.place(state))]
            if there:
                self._layout.require_own(*there)
            return bool(there)
        return True

    def put(
        self,
        event: Event,
        handlers: Mapping[str, str],
        *,
        sending: str = "",
        span: Span | None = None,
        strict: bool = False,
    ) -> Claim:
        """Keep an event, with copies of its attachments, until each handler has it. It is on the disk afterwards.

        The parameters are those of `NewEntry`. An attachment in a `workspace` is moved, not copied.

        :return: the entry, claimed by this process
        :raises OSError: it cannot be kept: the disk is full, the directory is not writable or another user's
        :raises EventError: the data cannot be written as JSON, or ``strict`` is not met
        """
        new = writer.NewEntry(event, handlers, sending=sending, span=span, strict=strict)
        return writer.put(self._layout, new)

    def put_many(self, new: Sequence[writer.NewEntry], *, together: bool = False) -> list[Claim | Exception]:
        """Keep several events; the disk syncs them side by side.

        :param together: whether small entries may share a file. That costs least if their first delivery succeeds, and
            more than a file for each if it does not.
        :return: for each, in order, the claim, or the exception that `put` would have raised
        """
        return writer.put_many(self._layout, new, together=together)

    def workspace(self) -> writer.Workspace:
        """Return a context manager whose value is the path of a directory for attachments.

        `put` moves files from there instead of copying them, and relies on their digest. What is left is removed, also
        if the process dies.

        :raises OSError: on entering: it cannot be made
        """
        return writer.Workspace(self._layout)

    def candidates(self, *, everything: bool = False, ahead: float = 0.0) -> Iterator[Candidate]:
        """Go through the names of the entries that are due, and of those whose owner is dead. None is claimed.

        Memory does not grow with their number. None comes twice, even if it is claimed and given back meanwhile.

        :param everything: also what is not due yet
        :param ahead: also what is due in at most so many seconds
        :raises OSError: the outbox cannot be read, or another user could change it
        """
        if not self.exists():
            return
        self._layout.prepare()
        self._sweep()
        turn = Turns(self._layout)
        abandoned: dict[str, None] = {}
        for candidate in self._abandoned():
            turn.begin()
            if everything:
                abandoned[candidate.id] = None
            yield candidate
        for bucket in self._layout.buckets():
            if everything or layout.is_due(bucket, time.time() + ahead):
                for candidate in self._layout.bucket(bucket):
                    if candidate.id not in abandoned and not turn.has_had(candidate):
                        yield candidate
                self._layout.remove_bucket(bucket)
        for candidate in [found for entry_id in abandoned for found in self._layout.find_waiting(entry_id)]:
            if not turn.has_had(candidate):
                yield candidate  # last, since its owner has died of it, maybe

    def claim(self, candidate: Candidate) -> Claim | None:
        """Claim an entry, to deliver it.

        :return: None if there is nothing to deliver: another process was first; it is damaged, and now in corrupt/;
            it cannot be read now, and is where it was; or its owners keep dying, and it waits
        """
        claim = self._claimed(candidate)
        if claim is None:
            return None
        if not claim.entry.pending:
            claim.release()  # its owner died before it could
            return None
        try:
            if candidate.state == "claimed" and claim.entry.attempts > 1 and not claim.keep_distance():
                return None
            if damage := claim.damage():
                claim.dead_letter(damage)
                return None
        except (OSError, MemoryError) as error:
            self._put_back(claim.path, candidate, error)
            return None
        return claim

    def adopt(self, claim_name: str) -> Claim | None:
        """Take over the claim of a process that is known to be dead, whatever is pending.

        :param claim_name: `Claim.name`
        :return: None if there is no such claim, or it cannot be read
        :raises OSError: another user could change the outbox
        """
        entry_id = claim_name.partition(".")[0]
        if not text.is_id(entry_id) or os.path.basename(claim_name) != claim_name or not self.exists():
            return None
        return self._claimed(Candidate("claimed", entry_id, f"claimed/{claim_name}"))

    def find(self, word: str) -> list[Candidate]:
        """Return the entry that has this id, or else `BOUND` of those whose id begins so.

        With the whole id, that takes a look into each bucket, however many entries there are.
        """
        if not word:
            return []
        if exact := list(self._layout.find(word)):
            return exact
        found = (c for state in _LISTED for c in self._layout.candidates(state) if c.id.startswith(word))
        return [candidate for candidate, _ in zip(found, range(BOUND), strict=False)]

    def read(self, candidate: Candidate) -> Entry:
        """Return an entry without claiming it.

        :raises OSError: it is gone, or cannot be read
        :raises ValueError: it is damaged, or a newer release wrote it
        """
        return files.read_entry(self._layout.place(candidate.name))

    def entries(self, *states: str) -> Iterator[tuple[Candidate, Entry | str]]:
        """Go through the entries of some states, by default of all, without claiming them.

        :return: for each its name, and the entry or why it cannot be read
        """
        for state in states or _LISTED:
            for candidate in self._layout.candidates(state):
                try:
                    yield candidate, self.read(candidate)
                except (OSError, ValueError) as error:
                    if os.path.lexists(self._layout.place(candidate.name)):  # else it has moved on
                        yield candidate, str(error)

    def summary(self, since: float | None = None) -> Summary:
        """Count the entries by their names, up to a bound.

        :param since: from when on a bucket can be the next one, in seconds since 1970 UTC; now if it is None
        """
        now = time.time()
        counts = {state: self._layout.count(state, BOUND) for state in _LISTED if state != "waiting"}
        counts["waiting"], due = self._layout.count_waiting(BOUND, now)
        since = now if since is None else since
        return Summary(counts, due, next((bucket for bucket in self._layout.buckets() if bucket >= since), None))

    def changes(self) -> tuple[int, ...]:
        """Return numbers that are others after an entry came that is due at once. No directory is read for them."""
        return self._layout.changes(time.time())

    def retry(self, candidate: Candidate) -> bool:
        """Make an entry due now, also for handlers that have failed permanently.

        :return: whether it is; not if it has moved on, is being delivered, or cannot be read
        :raises OSError: it cannot be moved
        """
        claim = None if self._is_in_delivery(candidate) else self._claimed(candidate)
        if claim is None:
            return False
        claim.retry()
        self._tidy(candidate)
        return True

    def drop(self, candidate: Candidate) -> bool:
        """Remove an entry; return whether it is removed: not if it has moved on, or is being delivered.

        :raises OSError: it cannot be removed
        """
        if self._is_in_delivery(candidate):
            return False
        dropped = self._layout.discard(self._layout.place(candidate.name), candidate.id)
        self._tidy(candidate)
        return dropped

    def prepare(self) -> None:
        """Make the directories that are missing, for this user alone.

        :raises OSError: they cannot be made, or another user could change what is in them
        """
        self._layout.prepare()

    def require_writable(self) -> None:
        """Raise OSError if no event could be kept here."""
        self._layout.require_writable()

    def _is_in_delivery(self, candidate: Candidate) -> bool:
        """Return whether the owner of a claim is alive."""
        path = self._layout.place(candidate.name)
        return candidate.state == "claimed" and not self._layout.is_abandoned(candidate.owner, path, CLAIM_LEASE)

    def _abandoned(self) -> Iterator[Candidate]:
        """Go through the claims whose owner is dead."""
        for candidate in self._layout.candidates("claimed"):
            if self._layout.is_abandoned(candidate.owner, self._layout.place(candidate.name), CLAIM_LEASE):
                yield candidate

    def _sweep(self) -> None:
        """Remove what dead processes left in tmp/."""
        for name in files.list_names(self._layout.place("tmp")):
            path = self._layout.place("tmp", name)
            if self._layout.is_abandoned(name.partition(".")[2], path, CLAIM_LEASE):
                files.remove(path)

    def _claimed(self, candidate: Candidate) -> Claim | None:
        """Make an entry this process's own; return None if another process was first, or it cannot be read."""
        source, entry_id = self._layout.place(candidate.name), candidate.id.partition(".")[0]
        target = self._layout.fresh("claimed", entry_id)
        try:
            if files.is_from_newer_release(source):
                return None
            is_directory = files.require_owned(source)
            is_shared = files.is_shared(source)
            if not is_shared:  # the date would be that of others too, and a pass goes by it
                os.utime(source)  # the lease begins before the claim does
            if not files.rename_entry(source, target):
                return None
        except FileNotFoundError:
            return None
        except (OSError, MemoryError) as error:
            _log.warning("outbox entry %s cannot be claimed: %s", entry_id, error)
            return None
        try:
            if is_shared:
                self._separate(target, entry_id)
            content = files.read_text(target, is_directory=is_directory)
            own = text.own_text(content, entry_id)
            entry = text.decode_entry(own)
            if entry.id != entry_id:
                raise files.DamagedError(f"it names itself {entry.id!r}")
        except (OSError, MemoryError, text.NewerVersionError) as error:
            self._put_back(target, candidate, error)
            return None
        except ValueError as error:
            self._dead_letter(target, entry_id, error)
            return None
        torn, shared = not own.endswith(b"\n"), len(own) < len(content)
        return Claim(self._layout, target, entry, is_directory=is_directory, torn=torn, shared=shared)

    def _separate(self, path: str, entry_id: str) -> None:
        """Give a claimed entry a file of its own, with a date of its own."""
        try:
            files.separate(path, self._layout.fresh("tmp", entry_id), entry_id)
        except OSError:
            os.utime(path)  # the disk is full, say: to deliver it makes room

    def _dead_letter(self, path: str, entry_id: str, error: ValueError) -> None:
        _log.error("outbox entry %s is moved to corrupt/: %s", entry_id, error)
        try:
            self._layout.lay_aside(path, "corrupt", entry_id)
        except OSError as problem:
            _log.warning("outbox entry %s stays claimed until this process ends: %s", entry_id, problem)

    def _put_back(self, path: str, candidate: Candidate, error: BaseException) -> None:
        """Move an entry to where it was: what kept it from being read may pass, and it is not damaged."""
        _log.warning("outbox entry %s cannot be read now: %s", candidate.id, error)
        try:
            if candidate.due is None:
                files.rename_entry(path, self._layout.place(candidate.name))
            elif files.exists(path):
                self._layout.make_wait(path, candidate.id, candidate.due)
        except OSError as problem:
            _log.warning("outbox entry %s stays claimed until this process ends: %s", candidate.id, problem)

    def _tidy(self, candidate: Candidate) -> None:
        if candidate.due is not None:
            self._layout.remove_bucket(candidate.due)
