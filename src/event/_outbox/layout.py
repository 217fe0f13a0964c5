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
from event._outbox.liveness import current_owner, has_owner, owner_is_dead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

STATES = ("tmp", "claimed", "waiting", "failed", "corrupt")
WIDTH = 30  # seconds that a bucket covers,
FAR_WIDTH = 300  # or if it is due in more than `FAR` seconds; this keeps the number of buckets small
FAR = 3600  # seconds
CLAIM_LEASE = 3600.0  # seconds; longer than any single delivery takes
FURTHEST = 2 * text.MAX_DELAY  # seconds; a later due time comes from a wrong clock
_SLACK = 2.0  # seconds that the clocks of this machine and of the file server may drift apart in a pass
_CLOCK_GRANULARITY = 0.1  # seconds; the coarsest resolution of a file's date that is supported
# The directories of an outbox, that of `event._conditions`, and what a new file system has.
_OWN_NAMES = {*STATES, "outcomes", "lost+found"}
_MAX_RACES = 100  # attempts to move an entry into a bucket that other processes remove


class Candidate:
    """The name of an entry in an outbox. Another process may have moved the entry meanwhile.

    :ivar name: the path within the outbox
    :ivar state: ``claimed``, ``waiting``, ``failed`` or ``corrupt``
    :ivar id: the id for `Outbox.find`: the entry's id, with a suffix after a dot if several entries have it
    """

    __slots__ = ("id", "name", "state")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state, *_, file = name.split("/")
        self.id = file.partition(".")[0] if self.state == "claimed" else file

    def __repr__(self) -> str:
        """Return the path within the outbox."""
        return f"<Candidate {self.name}>"

    @property
    def due(self) -> int | None:
        """When a waiting entry is due, in seconds since 1970 UTC; None in other states."""
        return int(self.name.split("/")[1]) if self.state == "waiting" else None


class Layout:
    """The directories of the outbox at the path `root`."""

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, *names: str) -> str:
        """Return the path of a file or directory in the outbox."""
        return os.path.join(self.root, *names)

    def require_owned(self, *states: str) -> None:
        """Raise OSError unless only this user can change the outbox and the directories of some states, or of all."""
        _require_private_root(self.root)
        for state in states or STATES:
            path = self.path(state)
            files.require_owned_directory(os.lstat(path), path)

    def prepare(self, *states: str) -> None:
        """Create all directories if one of some states is missing. Raise OSError if another user could change them."""
        try:
            self.require_owned(*states)
            return
        except FileNotFoundError:
            _require_absolute(self.root)
            self.require_no_other_files()
            _make_above(self.root)
            _make_private(self.root)
        _require_private_root(self.root)
        for state in STATES:
            _make_private(self.path(state))
        self.require_owned()
        _files.sync_directory(self.root)
        _files.sync_directory(os.path.dirname(self.root))

    def require_no_other_files(self) -> None:
        """Raise OSError if the directory has files that do not belong to an outbox, such as a project's files."""
        others = [name for name in files.list_names(self.root) if name not in _OWN_NAMES]
        if others:
            reason = f"it is not an outbox, and not empty: it has {min(others)!r}; choose another directory"
            raise OSError(errno.ENOTEMPTY, reason, self.root)

    def require_writable(self) -> None:
        """Raise OSError if the outbox is not writable or can't be created."""
        _require_absolute(self.root)
        if not os.path.lexists(self.root):
            above = os.path.dirname(self.root)
            while not os.path.lexists(above):
                above = os.path.dirname(above)
            _require_access(above)
            return
        if not os.path.isdir(self.root):  # such as a dangling link
            raise NotADirectoryError(f"{self.root} is not a directory")
        _require_private_root(self.root)
        for path in map(self.path, STATES):
            if os.path.lexists(path):
                files.require_owned_directory(os.lstat(path), path)
                _require_access(path)
            else:
                self.require_no_other_files()

    def server_time(self) -> float:
        """Return the file server's time, in seconds since 1970 UTC."""
        path = self.path("tmp")
        try:
            os.utime(path)
            return os.lstat(path).st_mtime
        except OSError:
            return time.time()

    def is_abandoned(self, name: str) -> bool:
        """Return whether the owner of a path in tmp/ or claimed/ is dead, or if that is unknown, the lease is over.

        A file with another name was not put there by this package, and is never abandoned.
        """
        owner = name.partition(".")[2]
        if not has_owner(owner):
            return False
        dead = owner_is_dead(owner)
        if dead is not None:
            return dead
        touched = files.last_touched(self.path(name))
        return touched > 0 and self.server_time() - touched > CLAIM_LEASE

    def abandoned(self) -> Iterator[Candidate]:
        """Return the claims whose owner is dead."""
        return (candidate for candidate in self.candidates("claimed") if self.is_abandoned(candidate.name))

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
            yield Candidate(f"waiting/{due}/{name}")

    def find(self, entry_id: str, *states: str) -> Iterator[Candidate]:
        """Yield the entries with an id in some states, or in all states by default."""
        if not text.is_id(entry_id.replace(".", "-")):
            return  # it could be a path to another directory
        for state in states or STATES[1:]:
            if state == "claimed":
                yield from (candidate for candidate in self.candidates(state) if candidate.id == entry_id)
                continue
            places = [f"waiting/{due}" for due in self.buckets()] if state == "waiting" else [state]
            for place in places:
                if os.path.lexists(self.path(place, entry_id)):
                    yield Candidate(f"{place}/{entry_id}")

    def candidates(self, state: str) -> Iterator[Candidate]:
        """Yield the entries of a state; waiting entries in the order of their buckets.

        Files with other names are ignored.
        """
        if state == "waiting":
            for due in self.buckets():
                yield from self.bucket(due)
        else:
            for name in files.list_names(self.path(state)):
                entry_id, dot, suffix = name.partition(".")
                is_valid = has_owner(suffix) if state == "claimed" else not dot or text.is_id(suffix)
                if text.is_id(entry_id) and is_valid:
                    yield Candidate(f"{state}/{name}")

    def remove_empty_bucket(self, due: int) -> None:
        """Remove a bucket if it is empty."""
        try:
            os.rmdir(self.path("waiting", str(due)))
        except OSError:
            pass  # it is not empty

    def move_to_waiting(self, path: str, due: float) -> None:
        """Move an entry into the first bucket that is due at `due` or later; raise OSError if that fails."""
        self.prepare("waiting")
        bucket = bucket_of(due, time.time())
        # The same sending may have been put twice, and renaming would replace the other file. So check first. A race
        # is very unlikely: two claims of one sending would have to be released within microseconds.
        while files.exists(target := self.path("waiting", str(bucket), files.id_of(path))):
            bucket += WIDTH
        for _ in range(_MAX_RACES):
            if files.rename_entry(path, target):
                return
            if not files.exists(path):
                break
            _files.make_directory(os.path.dirname(target), 0o700)
        raise FileNotFoundError(errno.ENOENT, "it cannot be moved into its bucket", path)

    def move_to(self, path: str, state: str) -> None:
        """Move an entry to failed/ or corrupt/, with a suffix if its id exists there; raise OSError if that fails."""
        self.prepare(state)
        target = self.path(state, files.id_of(path))
        files.rename_entry(path, f"{target}.{unique_id()}" if files.exists(target) else target)

    def discard(self, path: str, *, is_directory: bool | None = None) -> bool:
        """Remove an entry; return whether it existed. Raise OSError if it can't be removed.

        :param is_directory: whether the entry is a directory; None if the caller does not know
        """
        try:
            if not (_files.is_directory(path) if is_directory is None else is_directory):
                os.unlink(path)
                return True
        except FileNotFoundError:
            return False
        # Move the directory to tmp/ first, so that no process finds a partly removed entry.
        target = self.new_path("tmp", files.id_of(path))
        if not files.rename_entry(path, target):
            return False
        files.remove(target)
        return True


class Turns:
    """Detect, by the dates of their files, which entries were already tried in the current pass through an outbox.

    Listing a directory may include entries that are added meanwhile. Without this check, a pass might never end.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._start, self._began = layout.server_time(), time.monotonic()
        self._first: set[str] = set()  # the ids that were tried within the first tick of the file server's clock

    def has_had_turn(self, candidate: Candidate) -> bool:
        """Return whether an entry was already tried in this pass; if not, the caller may try it now.

        If the entry's date is in the future, a clock was set back, and the entry counts as not tried.
        """
        since = files.last_touched(self._layout.path(candidate.name)) - self._start
        elapsed = time.monotonic() - self._began
        if 0 < since <= elapsed + _SLACK or (since == 0 and candidate.id in self._first):
            return True
        if elapsed < _CLOCK_GRANULARITY:
            self._first.add(candidate.id)
        return False


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


def _require_absolute(path: str) -> None:
    if not os.path.isabs(path):  # see `event._files.absolute`
        raise FileNotFoundError("its path is relative, and the working directory no longer exists")


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
