"""The outbox stores events on disk until every handler has delivered them. It needs no daemon, database or locks.

An entry is a file, or if it has attachments, a directory. Small entries that were put together may be hard links to one
file. Before its journal is written, such an entry gets its own file. The directory of an entry is its state:

=================  ==========================  ========================================================================
Directory          Name of the entry           State
=================  ==========================  ========================================================================
tmp/               ID.OWNER-RANDOM             being written or removed; a leftover if the owner is dead
claimed/           ID.OWNER-RANDOM             being delivered by its owner
waiting/BUCKET/    ID                          due at BUCKET, in seconds since 1970 UTC
failed/            ID                          no longer retried: too old, or permanently failed
corrupt/           ID                          damaged
=================  ==========================  ========================================================================

Each move is a single rename, so that only one process can succeed, also on NFS:

============================  =========================================================================================
Move                          Reason
============================  =========================================================================================
tmp -> claimed                put: the event and its attachments are written and synced. If entries share a file, each
                              is a hard link to it.
claimed -> removed            every handler has delivered the event
claimed -> waiting            handlers are pending; the entry is due again after the back-off
claimed -> failed, corrupt    another attempt can't succeed
waiting -> claimed            the entry is due
claimed -> claimed            the owner is dead, and another process takes over
failed, corrupt -> claimed    an operator retries the entry, which then moves to waiting
claimed -> previous state     the entry can't be read at the moment
============================  =========================================================================================

OWNER is ``MACHINE-PID-START``: the boot and process namespace, the process id, and the start time of the process. On
the owner's machine, the owner is dead if that process is not running. On other machines, the owner counts as dead if
the entry was not touched for `CLAIM_LEASE` seconds, by the file server's clock.

BUCKET is the due time, rounded up to a multiple of 30 seconds, or of 300 seconds if it is more than an hour away. So a
pass reads no entry that is not due. Finding an entry by its id takes one check in each of about 200 buckets. A
process that moves an entry into a bucket creates the bucket if necessary. Empty buckets are removed.
"""

from __future__ import annotations

import os
import time

from event import _files, _log
from event._event import unique_id
from event._outbox import entry as text
from event._outbox import files, layout, writer
from event._outbox.claim import Claim
from event._outbox.layout import Candidate, Layout, Turns
from event._outbox.liveness import current_owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from event._event import Event
    from event._outbox.entry import Entry

BOUND = 1000  # entries that `Outbox.summary` counts in each state, and that `Outbox.find` returns, at most
_LISTED = layout.STATES[1:]


class Summary:
    """The number of entries in an outbox. Counting stops at `BOUND`, which therefore means "this many or more".

    :ivar counts: the number of entries in each of the states ``claimed``, ``waiting``, ``failed`` and ``corrupt``
    :ivar due: the number of waiting entries that are due
    :ivar next_due: when the next bucket is due, in seconds since 1970 UTC; None if there is none
    """

    def __init__(self, counts: dict[str, int], due: int, next_due: int | None) -> None:
        self.counts = counts
        self.due = due
        self.next_due = next_due


class Outbox:
    """An outbox directory.

    :param path: the directory; putting the first event creates it, so that only this user can access it
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = _files.absolute(os.fspath(path))
        self._layout = Layout(self.path)

    def exists(self) -> bool:
        """Return whether the outbox exists.

        :raises OSError: the path is not an outbox, or another user could change it
        """
        try:
            os.stat(self.path)
            self._layout.require_owned("claimed")
        except FileNotFoundError:
            # An archive, such as an artifact of a CI system, may omit empty directories.
            existing = [state for state in layout.STATES if files.exists(self._layout.path(state))]
            if existing:
                self._layout.require_no_other_files()
                self._layout.require_owned(*existing)
            return bool(existing)
        return True

    def put(self, event: Event, handlers: Mapping[str, str], *, sending: str = "", strict: bool = False) -> Claim:
        """Store an event with copies of its attachments, and sync it to disk.

        The parameters are those of `NewEntry`. If an error of the system prevents it, try once more.

        :return: the claim of this process on the new entry
        :raises OSError: the event can't be stored, for example because the disk is full or the directory not writable
        :raises EventError: the data can't be encoded as JSON, or with ``strict``, an attachment has changed
        """
        return writer.put(self._layout, writer.NewEntry(event, handlers, sending=sending, strict=strict))

    def put_many(self, new: Sequence[writer.NewEntry], *, together: bool = False) -> list[Claim | Exception]:
        """Store several events, which is faster than one by one.

        :param together: whether small entries may share a file. This is faster if their first delivery succeeds, but
            slower if it fails.
        :return: for each event, in order, the claim or the exception that `put` would raise
        """
        return writer.put_many(self._layout, new, together=together)

    def workspace(self) -> AbstractContextManager[str]:
        """Create a temporary directory for attachments; return a context manager with its path.

        `put_many` moves files from this directory instead of copying them, and trusts their SHA-1. Remaining files are
        removed at the end of the block, or if the process dies, by a later process.

        :raises OSError: the directory can't be created
        """
        from tempfile import TemporaryDirectory

        self._layout.prepare("tmp")
        prefix = f"{unique_id()}.{current_owner()}-"  # with the owner, as in every name in tmp/
        return TemporaryDirectory(prefix=prefix, dir=self._layout.path("tmp"), ignore_cleanup_errors=True)

    def candidates(self, *, everything: bool = False, ahead: float = 0.0) -> Iterator[Candidate]:
        """Yield the entries that are due and those whose owner is dead, without claiming them.

        Each entry is yielded once, even if it is claimed and released meanwhile. Memory use does not depend on the
        number of entries.

        :param everything: whether to include entries that are not due yet
        :param ahead: also include entries that are due within this many seconds
        :raises OSError: the outbox can't be read, or another user could change it
        """
        if not self.exists():
            return
        self._layout.prepare()
        self._remove_leftovers()
        turns = Turns(self._layout)
        abandoned: dict[str, None] = {}
        for candidate in self._layout.abandoned():
            if everything:
                abandoned[candidate.id] = None
            yield candidate
        for bucket in self._layout.buckets():
            if everything or layout.is_due(bucket, time.time() + ahead):
                for candidate in self._layout.bucket(bucket):
                    if candidate.id not in abandoned and not turns.has_had_turn(candidate):
                        yield candidate
                self._layout.remove_empty_bucket(bucket)
        for candidate in [found for entry_id in abandoned for found in self._layout.find(entry_id, "waiting")]:
            if not turns.has_had_turn(candidate):
                yield candidate  # last, because it may have crashed its owner

    def claim(self, candidate: Candidate) -> Claim | None:
        """Claim an entry to deliver it.

        :return: the claim; None if another process was first, or if the entry must wait because its last owner died.
            Also None if the entry is damaged, and moves to corrupt/, or if it can't be read now, and keeps its state
        """
        claim = self._claimed(candidate, verify=True)
        if claim is None:
            return None
        if not claim.entry.pending:
            claim.release()  # the owner died before it could remove the entry
            return None
        try:
            if candidate.state == "claimed" and claim.entry.attempts > 1 and not claim.may_try_after_crash():
                return None
        except OSError as error:
            self._put_back(claim.path, candidate, error)
            return None
        return claim

    def adopt(self, claim_name: str) -> Claim | None:
        """Take over the claim of a process that is known to be dead, even if no handler is pending.

        :param claim_name: the dead process's `Claim.name`
        :return: the new claim, or None if the old one does not exist or can't be read
        :raises OSError: another user could change the outbox
        """
        entry_id = claim_name.partition(".")[0]
        if not text.is_id(entry_id) or os.path.basename(claim_name) != claim_name or not self.exists():
            return None
        return self._claimed(Candidate(f"claimed/{claim_name}"))

    def find(self, word: str) -> list[Candidate]:
        """Return the entries whose id is `word`; if there are none, up to `BOUND` entries whose id starts with it.

        Finding a complete id takes one check in each bucket, regardless of the number of entries.
        """
        if not word:
            return []
        if exact := list(self._layout.find(word)):
            return exact
        found = (c for state in _LISTED for c in self._layout.candidates(state) if c.id.startswith(word))
        return [candidate for candidate, _ in zip(found, range(BOUND), strict=False)]

    def read(self, candidate: Candidate) -> Entry:
        """Read an entry without claiming it.

        :raises OSError: the entry no longer exists or can't be read
        :raises ValueError: the entry is damaged, or a newer release wrote it
        """
        return files.read_entry(self._layout.path(candidate.name))

    def entries(self, *states: str) -> Iterator[tuple[Candidate, Entry | str]]:
        """Yield the entries of some states, or of all states by default, without claiming them.

        :return: for each entry, its name, and the entry or the reason why it can't be read
        """
        for state in states or _LISTED:
            for candidate in self._layout.candidates(state):
                try:
                    yield candidate, self.read(candidate)
                except (OSError, ValueError) as error:
                    if os.path.lexists(self._layout.path(candidate.name)):  # otherwise it was moved meanwhile
                        yield candidate, str(error)

    def summary(self) -> Summary:
        """Count the entries, up to `BOUND` in each state, without reading them."""
        now = time.time()
        counts = {state: _count(self._layout.candidates(state)) for state in _LISTED if state != "waiting"}
        buckets = self._layout.buckets()
        waiting = due = 0
        for bucket in buckets:
            found = _count(self._layout.bucket(bucket), BOUND - waiting)
            waiting += found
            due += found if layout.is_due(bucket, now) else 0
        counts["waiting"] = waiting
        return Summary(counts, due, next((bucket for bucket in buckets if bucket >= now), None))

    def retry(self, candidate: Candidate, handlers: Mapping[str, str] | None = None) -> str:
        """Make an entry due now, also for handlers that have failed permanently.

        :param handlers: names and configurations that replace the pending handlers. The event gets a new entry then
        :return: the id of the entry that is due now; empty if it was moved, is being delivered or can't be read
        :raises OSError: the entry can't be moved, or the new one can't be stored
        :raises EventError: an attachment of the entry is damaged, so that no new entry is stored
        """
        claim = None if self._has_live_owner(candidate) else self._claimed(candidate)
        if claim is None:
            return ""
        due = claim.entry.id
        if handlers:
            try:
                new = self.put(claim.event(), handlers, strict=True)
                new.postpone(time.time())
            except BaseException:
                claim.release()
                raise
            claim.discard()
            due = new.entry.id
        else:
            claim.retry()
        self._remove_empty_bucket_of(candidate)
        return due

    def drop(self, candidate: Candidate) -> bool:
        """Remove an entry.

        :return: False if the entry was moved meanwhile or is being delivered
        :raises OSError: the entry can't be removed
        """
        if self._has_live_owner(candidate):
            return False
        dropped = self._layout.discard(self._layout.path(candidate.name))
        self._remove_empty_bucket_of(candidate)
        return dropped

    def prepare(self) -> None:
        """Create missing directories, which only this user may access.

        :raises OSError: a directory can't be created, or another user could change it
        """
        self._layout.prepare()

    def require_writable(self) -> None:
        """Raise OSError if the outbox is not writable or can't be created."""
        self._layout.require_writable()

    def _has_live_owner(self, candidate: Candidate) -> bool:
        """Return whether an entry is claimed and its owner is alive."""
        return candidate.state == "claimed" and not self._layout.is_abandoned(candidate.name)

    def _remove_leftovers(self) -> None:
        """Remove the files of dead processes in tmp/."""
        for name in files.list_names(self._layout.path("tmp")):
            if self._layout.is_abandoned(f"tmp/{name}"):
                files.remove(self._layout.path("tmp", name))

    def _claimed(self, candidate: Candidate, *, verify: bool = False) -> Claim | None:
        """Claim an entry for this process; return None if another process was first or the entry can't be read.

        :param verify: whether to check the attachments
        """
        source = self._layout.path(candidate.name)
        target = self._layout.new_path("claimed", files.id_of(source))
        try:
            is_directory, is_shared = files.inspect(source)
            if files.is_from_newer_release(source, is_directory=is_directory):
                return None
            if not is_shared:  # else this would change the date of other entries, which `Turns` uses
                os.utime(source)  # start the lease before the claim
            if not files.rename_entry(source, target):
                return None
        except FileNotFoundError:
            return None
        except (OSError, MemoryError) as error:
            _log.warning("outbox entry %s cannot be claimed: %s", candidate.id, error)
            return None
        try:
            if is_shared:
                self._give_own_file(target)
            claim = self._read_claimed(target, is_directory=is_directory)
            if verify and claim.entry.pending and (damage := claim.damage()):
                raise files.DamagedError(damage)
        except (OSError, MemoryError, text.NewerVersionError) as error:
            self._put_back(target, candidate, error)
            return None
        except ValueError as error:
            self._dead_letter(target, error)
            return None
        return claim

    def _read_claimed(self, path: str, *, is_directory: bool) -> Claim:
        content = files.read_text(path, is_directory=is_directory)
        own = text.text_of_entry(content, files.id_of(path))
        entry = text.decode_entry(own)
        if entry.id != files.id_of(path):
            raise files.DamagedError(f"its text has another id: {entry.id!r}")
        torn, shared = not own.endswith(b"\n"), len(own) < len(content)
        claim = Claim(self._layout, path, entry, is_directory=is_directory, torn=torn, shared=shared)
        claim.fix_handlers()
        return claim

    def _give_own_file(self, path: str) -> None:
        """Give a claimed entry its own file, so that it has its own date."""
        try:
            files.give_own_file(path, self._layout.new_path("tmp", files.id_of(path)))
        except OSError:
            os.utime(path)  # continue, for example if the disk is full: delivering the entry frees space

    def _dead_letter(self, path: str, error: ValueError) -> None:
        _log.error("outbox entry %s is moved to corrupt/: %s", files.id_of(path), error)
        try:
            self._layout.move_to(path, "corrupt")
        except OSError as problem:
            _log.warning("outbox entry %s stays claimed until this process ends: %s", files.id_of(path), problem)

    def _put_back(self, path: str, candidate: Candidate, error: BaseException) -> None:
        """Move an entry that can't be read at the moment back to its previous state."""
        _log.warning("outbox entry %s cannot be read now: %s", candidate.id, error)
        try:
            if candidate.due is None:
                files.rename_entry(path, self._layout.path(candidate.name))
            elif files.exists(path):
                self._layout.move_to_waiting(path, candidate.due)
        except OSError as problem:
            _log.warning("outbox entry %s stays claimed until this process ends: %s", candidate.id, problem)

    def _remove_empty_bucket_of(self, candidate: Candidate) -> None:
        if candidate.due is not None:
            self._layout.remove_empty_bucket(candidate.due)


def _count(candidates: Iterator[Candidate], bound: int = BOUND) -> int:
    return sum(1 for _ in zip(range(bound), candidates, strict=False))
