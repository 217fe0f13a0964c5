"""The names of entries in an outbox, and the moves between them.

The docstring of `event._outbox.store` has the tables of states and moves.
"""

from __future__ import annotations

import errno
import os
import time

from event import _files
from event._event import unique_id
from event._outbox import entry as text
from event._outbox import files
from event._outbox.liveness import current_owner, owner_is_dead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

STATES = ("tmp", "claimed", "waiting", "failed", "corrupt")
WIDTH = 30  # seconds of a bucket,
FAR_WIDTH = 300  # or of one that is due in more than
FAR = 3600  # seconds: so there are few
FURTHEST = 2 * text.LONGEST_DELAY  # seconds; what is due later was dated by a clock that was wrong
_MOST_RACES = 100  # buckets that others remove in a row while we move into them


class Candidate:
    """The name of an entry in an outbox. The entry may have moved on.

    :ivar state: ``claimed``, ``waiting``, ``failed`` or ``corrupt``
    :ivar id: the id by which `Outbox.find` finds it: the entry's own, with more after a dot if there are several
    :ivar name: the path within the outbox
    """

    __slots__ = ("id", "name", "state")

    def __init__(self, state: str, id: str, name: str) -> None:  # noqa: A002
        self.state = state
        self.id = id
        self.name = name

    def __repr__(self) -> str:
        """Return the path within the outbox."""
        return f"<Candidate {self.name}>"

    @property
    def due(self) -> int | None:
        """When a waiting entry is due, in seconds since 1970 UTC; None in any other state."""
        return int(self.name.split("/")[1]) if self.state == "waiting" else None

    @property
    def owner(self) -> str:
        """The owner of a claimed entry, as `current_owner` returned it there; empty in any other state."""
        return self.name.partition(".")[2] if self.state == "claimed" else ""


class Layout:
    """The directories of an outbox.

    :param root: the outbox's path
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def place(self, *names: str) -> str:
        """Return a path in the outbox."""
        return os.path.join(self.root, *names)

    def require_own(self, *states: str) -> None:
        """Raise OSError unless the outbox is there, and only this user can change what is in it.

        :param states: whose directories are looked at; by default those of all states
        """
        _require_closed(self.root)
        for state in states or STATES:
            path = self.place(state)
            files.require_owned_directory(os.lstat(path), path)

    def prepare(self, *states: str) -> None:
        """Make the directories that are missing, for this user alone.

        :param states: those that must be there; by default all
        :raises OSError: they cannot be made, or another user could change what is in them
        """
        try:
            self.require_own(*states)
            return
        except FileNotFoundError:
            _make_root(self.root)
        _require_closed(self.root)
        for state in STATES:
            _make_private(self.place(state))
        self.require_own()
        _files.sync_directory(self.root)
        _files.sync_directory(os.path.dirname(self.root))

    def require_writable(self) -> None:
        """Raise OSError if no entry can be put: the outbox is not writable, or cannot be made."""
        if not os.path.lexists(self.root):
            above = os.path.dirname(self.root)
            while not os.path.lexists(above):
                above = os.path.dirname(above)
            _require_access(above)
            return
        if not os.path.isdir(self.root):
            raise NotADirectoryError(f"{self.root} is no directory")
        _require_closed(self.root)
        for path in map(self.place, STATES):
            if os.path.lexists(path):
                files.require_owned_directory(os.lstat(path), path)
                _require_access(path)

    def server_time(self) -> float:
        """Return the time by the clock that dates the files, in seconds since 1970 UTC."""
        path = self.place("tmp")
        try:
            os.utime(path)
            return os.lstat(path).st_mtime
        except OSError:
            return time.time()

    def is_abandoned(self, owner: str, path: str, lease: float) -> bool:
        """Return whether an owner is dead; if nobody can tell here, whether its claim has expired."""
        dead = owner_is_dead(owner)
        if dead is not None:
            return dead
        touched = files.last_touched(path)
        return touched > 0 and self.server_time() - touched > lease

    def changes(self, now: float) -> tuple[int, ...]:
        """Return numbers that are others after an entry came that is due at once."""
        bucket = bucket_of(now, now)
        return bucket, _changed(self.place("waiting")), _changed(self.place("waiting", str(bucket)))

    def fresh(self, state: str, entry_id: str) -> str:
        """Return a path in tmp/ or claimed/ that is this process's own.

        It has a random part: two threads are two claimants, and a sending that a broker repeats may meet itself.
        """
        return self.place(state, f"{entry_id}.{current_owner()}-{os.urandom(4).hex()}")

    def buckets(self) -> list[int]:
        """Return when the buckets are due, the first one first, in seconds since 1970 UTC."""
        return sorted(
            int(name) for name in files.list_names(self.place("waiting")) if name.isdecimal() and name.isascii()
        )

    def bucket(self, due: int) -> Iterator[Candidate]:
        """Go through the entries of a bucket; other names in it are not ours."""
        for name in filter(text.is_id, files.list_names(self.place("waiting", str(due)))):
            yield Candidate("waiting", name, f"waiting/{due}/{name}")

    def find_waiting(self, entry_id: str) -> list[Candidate]:
        """Return the waiting entries that have an id."""
        top = self.place("waiting")
        found = [due for due in self.buckets() if os.path.lexists(f"{top}/{due}/{entry_id}")]
        return [Candidate("waiting", entry_id, f"waiting/{due}/{entry_id}") for due in found]

    def count(self, state: str, bound: int) -> int:
        """Return the number of names in a state other than waiting, up to a bound."""
        return _count(self.place(state), bound)

    def count_waiting(self, bound: int, now: float) -> tuple[int, int]:
        """Return the number of waiting entries up to a bound, and how many of them are due."""
        total = due = 0
        for bucket in self.buckets():
            found = _count(self.place("waiting", str(bucket)), bound - total)
            total += found
            if is_due(bucket, now):
                due += found
            if total == bound:
                break
        return total, due

    def find(self, entry_id: str) -> Iterator[Candidate]:
        """Go through the entries that have an id, in any state."""
        if not text.is_id(entry_id.replace(".", "-")):
            return  # it would lead elsewhere
        yield from (candidate for candidate in self.candidates("claimed") if candidate.id == entry_id)
        yield from self.find_waiting(entry_id)
        for state in ("failed", "corrupt"):
            if os.path.lexists(self.place(state, entry_id)):
                yield Candidate(state, entry_id, f"{state}/{entry_id}")

    def candidates(self, state: str) -> Iterator[Candidate]:
        """Go through the entries of a state, the waiting ones by bucket."""
        if state == "waiting":
            for due in self.buckets():
                yield from self.bucket(due)
        else:
            for name in files.list_names(self.place(state)):
                entry_id = name.partition(".")[0] if state == "claimed" else name
                yield Candidate(state, entry_id, f"{state}/{name}")

    def remove_bucket(self, due: int) -> None:
        """Remove a bucket if it is empty."""
        try:
            os.rmdir(self.place("waiting", str(due)))
        except OSError:
            pass  # something is in it, or came into it just now

    def make_wait(self, path: str, entry_id: str, due: float) -> None:
        """Move an entry into the bucket whose entries are due at that time, or as soon after as buckets allow.

        :raises OSError: it cannot be moved
        """
        self.prepare("waiting")
        bucket = bucket_of(due, time.time())
        # The same sending may have been put twice. A file would be replaced, so it looks first; that two processes
        # find the same name free at once takes two claims of one sending that end in the same microseconds.
        while files.exists(target := self.place("waiting", str(bucket), entry_id)):
            bucket += WIDTH
        self.move_into_bucket(path, target)

    def move_into_bucket(self, path: str, target: str) -> None:
        """Move an entry into a bucket, which is made if need be; others remove empty ones at any time.

        :raises OSError: it cannot be moved
        """
        for _ in range(_MOST_RACES):
            if files.rename_entry(path, target):
                return
            if not files.exists(path):
                break
            try:
                os.mkdir(os.path.dirname(target), 0o700)
            except FileExistsError:
                pass
        raise FileNotFoundError(errno.ENOENT, "it cannot be moved into its bucket", path)

    def lay_aside(self, path: str, state: str, entry_id: str) -> None:
        """Move an entry to failed/ or corrupt/. If its id is taken there, more follows after a dot.

        :raises OSError: it cannot be moved
        """
        self.prepare(state)
        target = self.place(state, entry_id)
        files.rename_entry(path, f"{target}.{unique_id()}" if files.exists(target) else target)

    def discard(self, path: str, entry_id: str) -> bool:
        """Remove an entry; return whether it was there.

        :raises OSError: it cannot be removed
        """
        try:
            if not _files.is_directory(path):
                os.unlink(path)
                return True
        except FileNotFoundError:
            return False
        # Out of sight in one step: half an entry must not be taken for one.
        target = self.fresh("tmp", entry_id)
        if not files.rename_entry(path, target):
            return False
        files.remove(target)
        return True


def bucket_of(due: float, now: float) -> int:
    """Return the bucket of what is due at a time: the next one, or if that has passed the one it is in."""
    due = max(due, 0.0)
    if due <= now:
        return int(due // WIDTH) * WIDTH
    width = WIDTH if due - now <= FAR else FAR_WIDTH
    return -int(-due // width) * width


def is_due(bucket: int, now: float) -> bool:
    """Return whether the entries of a bucket are due. No delay is as long as `FURTHEST`: that was a clock."""
    return not 0 < bucket - now <= FURTHEST


def _require_access(path: str) -> None:
    if not os.path.isdir(path):
        raise NotADirectoryError(f"{path} is no directory")
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} is not writable")


def _count(directory: str, bound: int) -> int:
    return sum(1 for _ in zip(range(bound), files.list_names(directory), strict=False))


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _require_closed(root: str) -> None:
    """Raise OSError unless the outbox's own directory is this user's, and others cannot rename what is in it."""
    status = os.stat(root)  # that an administrator has put a link there is the administrator's affair
    files.require_owned_directory(status, root)
    if os.name == "posix" and status.st_mode & 0o022:
        raise PermissionError(f"{root} can be changed by other users; chmod go-w it")


def _make_root(root: str) -> None:
    parent = os.path.dirname(root)
    if not files.exists(parent):
        _make_above(parent)
    _make_private(root)


def _make_above(path: str) -> None:
    """Create a directory in which other users cannot rename the outbox, regardless of the umask."""
    parent = os.path.dirname(path)
    if not files.exists(parent):
        _make_above(parent)
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass


def _make_private(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    os.chmod(path, 0o700)  # whatever the umask
