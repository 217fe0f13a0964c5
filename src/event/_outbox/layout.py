"""The directories of an outbox: name entries, find them, and move them from one state to another.

The docstring of `event._outbox.store` describes the states and the moves.
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
WIDTH = 30  # seconds that a bucket covers,
FAR_WIDTH = 300  # or if it is due in more than `FAR` seconds; this keeps the number of buckets small
FAR = 3600  # seconds
FURTHEST = 2 * text.MAX_DELAY  # seconds; a later due time comes from a wrong clock
_MAX_RACES = 100  # attempts to move an entry into a bucket that other processes remove


class Candidate:
    """The name of an entry in an outbox. Another process may have moved the entry meanwhile.

    :ivar state: ``claimed``, ``waiting``, ``failed`` or ``corrupt``
    :ivar id: the id for `Outbox.find`: the entry's id, with a suffix after a dot if several entries have it
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
        """When a waiting entry is due, in seconds since 1970 UTC; None in other states."""
        return int(self.name.split("/")[1]) if self.state == "waiting" else None

    @property
    def owner(self) -> str:
        """The owner string of a claimed entry, see `current_owner`; empty in other states."""
        return self.name.partition(".")[2] if self.state == "claimed" else ""


class Layout:
    """The directories of an outbox.

    :param root: the outbox's path
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, *names: str) -> str:
        """Return the path of a file or directory in the outbox."""
        return os.path.join(self.root, *names)

    def require_owned(self, *states: str) -> None:
        """Raise OSError unless the outbox exists and only this user can change it.

        :param states: the states whose directories to check; all by default
        """
        _require_private_root(self.root)
        for state in states or STATES:
            path = self.path(state)
            files.require_owned_directory(os.lstat(path), path)

    def prepare(self, *states: str) -> None:
        """Create missing directories, which only this user may access.

        :param states: the states whose directories must exist; all by default
        :raises OSError: a directory can't be created, or another user could change it
        """
        try:
            self.require_owned(*states)
            return
        except FileNotFoundError:
            _make_above(self.root)
            _make_private(self.root)
        _require_private_root(self.root)
        for state in STATES:
            _make_private(self.path(state))
        self.require_owned()
        _files.sync_directory(self.root)
        _files.sync_directory(os.path.dirname(self.root))

    def require_writable(self) -> None:
        """Raise OSError if the outbox is not writable or can't be created."""
        if not os.path.lexists(self.root):
            above = os.path.dirname(self.root)
            while not os.path.lexists(above):
                above = os.path.dirname(above)
            _require_access(above)
            return
        if not os.path.isdir(self.root):
            raise NotADirectoryError(f"{self.root} is not a directory")
        _require_private_root(self.root)
        for path in map(self.path, STATES):
            if os.path.lexists(path):
                files.require_owned_directory(os.lstat(path), path)
                _require_access(path)

    def server_time(self) -> float:
        """Return the file server's time, in seconds since 1970 UTC."""
        path = self.path("tmp")
        try:
            os.utime(path)
            return os.lstat(path).st_mtime
        except OSError:
            return time.time()

    def is_abandoned(self, owner: str, path: str, lease: float) -> bool:
        """Return whether a claim's owner is dead. If that is unknown, return whether the claim has expired."""
        dead = owner_is_dead(owner)
        if dead is not None:
            return dead
        touched = files.last_touched(path)
        return touched > 0 and self.server_time() - touched > lease

    def new_path(self, state: str, entry_id: str) -> str:
        """Return an unused path in tmp/ or claimed/ whose name includes this process as the owner.

        A random part keeps two threads with the same entry id apart, for example if a broker repeats a message.
        """
        return self.path(state, f"{entry_id}.{current_owner()}-{os.urandom(4).hex()}")

    def buckets(self) -> list[int]:
        """Return the due times of the buckets in order, in seconds since 1970 UTC."""
        return sorted(
            int(name) for name in files.list_names(self.path("waiting")) if name.isdecimal() and name.isascii()
        )

    def bucket(self, due: int) -> Iterator[Candidate]:
        """Yield the entries of a bucket. Ignore names that are not entry ids."""
        for name in filter(text.is_id, files.list_names(self.path("waiting", str(due)))):
            yield Candidate("waiting", name, f"waiting/{due}/{name}")

    def find_waiting(self, entry_id: str) -> list[Candidate]:
        """Return the waiting entries with an id."""
        top = self.path("waiting")
        found = [due for due in self.buckets() if os.path.lexists(f"{top}/{due}/{entry_id}")]
        return [Candidate("waiting", entry_id, f"waiting/{due}/{entry_id}") for due in found]

    def count(self, bound: int, *names: str) -> int:
        """Return the number of entries in a directory, up to a bound."""
        return sum(1 for _ in zip(range(bound), files.list_names(self.path(*names)), strict=False))

    def find(self, entry_id: str) -> Iterator[Candidate]:
        """Yield the entries with an id, in any state."""
        if not text.is_id(entry_id.replace(".", "-")):
            return  # it could be a path to another directory
        yield from (candidate for candidate in self.candidates("claimed") if candidate.id == entry_id)
        yield from self.find_waiting(entry_id)
        for state in ("failed", "corrupt"):
            if os.path.lexists(self.path(state, entry_id)):
                yield Candidate(state, entry_id, f"{state}/{entry_id}")

    def candidates(self, state: str) -> Iterator[Candidate]:
        """Yield the entries of a state; waiting entries in the order of their buckets."""
        if state == "waiting":
            for due in self.buckets():
                yield from self.bucket(due)
        else:
            for name in files.list_names(self.path(state)):
                entry_id = name.partition(".")[0] if state == "claimed" else name
                yield Candidate(state, entry_id, f"{state}/{name}")

    def remove_empty_bucket(self, due: int) -> None:
        """Remove a bucket if it is empty."""
        try:
            os.rmdir(self.path("waiting", str(due)))
        except OSError:
            pass  # it is not empty

    def move_to_waiting(self, path: str, entry_id: str, due: float) -> None:
        """Move an entry into the first bucket that is due at `due` or later.

        :raises OSError: the entry can't be moved
        """
        self.prepare("waiting")
        bucket = bucket_of(due, time.time())
        # The same sending may have been put twice, and renaming would replace the other file. So check first. A race
        # is very unlikely: two claims of one sending would have to be released within microseconds.
        while files.exists(target := self.path("waiting", str(bucket), entry_id)):
            bucket += WIDTH
        for _ in range(_MAX_RACES):
            if files.rename_entry(path, target):
                return
            if not files.exists(path):
                break
            _files.make_directory(os.path.dirname(target), 0o700)
        raise FileNotFoundError(errno.ENOENT, "it cannot be moved into its bucket", path)

    def move_to(self, path: str, state: str, entry_id: str) -> None:
        """Move an entry to failed/ or corrupt/. If its id exists there, add a suffix after a dot.

        :raises OSError: the entry can't be moved
        """
        self.prepare(state)
        target = self.path(state, entry_id)
        files.rename_entry(path, f"{target}.{unique_id()}" if files.exists(target) else target)

    def discard(self, path: str, entry_id: str, *, is_directory: bool | None = None) -> bool:
        """Remove an entry; return whether it existed.

        :param is_directory: whether the entry is a directory; None if the caller does not know
        :raises OSError: the entry can't be removed
        """
        try:
            if not (_files.is_directory(path) if is_directory is None else is_directory):
                os.unlink(path)
                return True
        except FileNotFoundError:
            return False
        # Move the directory to tmp/ first, so that no process finds a partly removed entry.
        target = self.new_path("tmp", entry_id)
        if not files.rename_entry(path, target):
            return False
        files.remove(target)
        return True


def bucket_of(due: float, now: float) -> int:
    """Return the bucket for a due time: rounded up to a bucket's start, or rounded down if the time has passed."""
    due = max(due, 0.0)
    if due <= now:
        return int(due // WIDTH) * WIDTH
    width = WIDTH if due - now <= FAR else FAR_WIDTH
    return -int(-due // width) * width


def is_due(bucket: int, now: float) -> bool:
    """Return whether a bucket is due. If it is more than `FURTHEST` seconds away, a clock was wrong, and it is due."""
    return not 0 < bucket - now <= FURTHEST


def _require_access(path: str) -> None:
    if not os.path.isdir(path):
        raise NotADirectoryError(f"{path} is not a directory")
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} is not writable")


def _require_private_root(root: str) -> None:
    """Raise OSError unless the outbox's root belongs to this user and other users can't change its content."""
    status = os.stat(root)  # follows a link: an administrator may have moved the outbox
    files.require_owned_directory(status, root)
    if os.name == "posix" and status.st_mode & 0o022:
        raise PermissionError(f"{root} can be changed by other users; run chmod go-w on it")


def _make_above(path: str) -> None:
    """Create the parent directories, in which other users can't rename the outbox, regardless of the umask."""
    parent = os.path.dirname(path)
    if not files.exists(parent):
        _make_above(parent)
        _files.make_directory(parent, 0o755)


def _make_private(path: str) -> None:
    if _files.make_directory(path, 0o700):
        os.chmod(path, 0o700)  # regardless of the umask
