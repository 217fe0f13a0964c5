"""Read, write, move and remove the files of an entry. Symbolic links are never followed."""

from __future__ import annotations

import errno
import os
import stat
import time
from _thread import get_ident

from event import _files
from event._outbox import entry as text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from event._outbox.entry import Entry

_TEXT = "entry"  # the file that holds the text of an entry with attachments
OPEN_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


class DamagedError(ValueError):
    """The content of an entry is damaged."""


def list_names(directory: str) -> Iterator[str]:
    """Yield the names in a directory; none if the directory is missing or a symbolic link."""
    try:
        if not _files.is_directory(directory):
            return
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.name.startswith("."):  # an NFS client gives such names to files removed while open
                    yield entry.name
    except FileNotFoundError:
        return


def exists(path: str) -> bool:
    """Return whether a file, directory or symbolic link exists at a path.

    :raises OSError: this can't be determined now; `os.path.lexists` would return False
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def last_touched(path: str) -> float:
    """Return when an entry was last put, claimed or written to, according to the file server's clock.

    :return: seconds since 1970 UTC; 0.0 if the entry no longer exists
    """
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0


def require_owned_directory(status: os.stat_result, path: str) -> None:
    """Raise OSError unless `status` describes a directory that belongs to this user."""
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{path} is not a directory")
    _require_owner(status, path)


def inspect(path: str) -> tuple[bool, bool]:
    """Return whether an entry is a directory, and whether other entries are hard links to the same file.

    :raises OSError: the entry belongs to another user, or is neither a file nor a directory
    """
    status = os.lstat(path)
    is_directory, is_file = stat.S_ISDIR(status.st_mode), stat.S_ISREG(status.st_mode)
    if not is_directory and not is_file:
        raise NotADirectoryError(f"{path} is neither a file nor a directory")
    _require_owner(status, path)
    return is_directory, is_file and status.st_nlink > 1


def _require_owner(status: os.stat_result, path: str) -> None:
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")


def id_of(path: str) -> str:
    """Return the id of the entry at a path in any state."""
    return os.path.basename(path).partition(".")[0]


def text_path(path: str, *, is_directory: bool) -> str:
    """Return the path of an entry's text: the entry itself, or if it has attachments, a file in its directory."""
    return os.path.join(path, _TEXT) if is_directory else path


def read_text(path: str, *, is_directory: bool) -> bytes:
    """Return the text of the entry at a path.

    :raises DamagedError: the text is missing or too long, or is not a file
    :raises OSError: the text can't be read now, or the entry no longer exists
    """
    file = text_path(path, is_directory=is_directory)
    try:
        return _files.read_regular(file, follow=False, limit=text.MAX_ENTRY_SIZE)
    except FileNotFoundError as error:
        if is_directory and exists(path) and not exists(file):
            raise DamagedError(f"its file {_TEXT!r} is missing") from error
        raise
    except OSError as error:
        if isinstance(error, _files.NotRegularError) or error.errno == errno.EFBIG:
            raise DamagedError(str(error)) from error
        raise


def read_entry(path: str) -> Entry:
    """Read the entry at a path.

    :raises NewerVersionError: a newer release wrote the entry
    :raises ValueError: the entry is damaged; the message explains how
    :raises OSError: the entry can't be read now, or no longer exists
    """
    content = read_text(path, is_directory=inspect(path)[0])
    return text.decode_entry(text.text_of_entry(content, id_of(path)))


def is_from_newer_release(path: str, *, is_directory: bool) -> bool:
    """Return whether a newer release wrote an entry.

    :raises OSError: the entry can't be read now
    """
    try:
        fd = _files.open_regular(text_path(path, is_directory=is_directory), follow=False)
        try:
            if os.read(fd, len(text.BEGINNING)) == text.BEGINNING:
                return False  # the usual case, without reading the entire text
        finally:
            os.close(fd)
        read_entry(path)
    except text.NewerVersionError:
        return True
    except (FileNotFoundError, _files.NotRegularError, ValueError):
        pass  # moved, or damaged, which claiming the entry detects
    return False


def give_own_file(path: str, temporary: str) -> None:
    """Replace a shared file of an entry with a file of its own, and sync it.

    :param temporary: an unused path on the same file system
    :raises OSError: the file can't be written; the entry is unchanged
    :raises ValueError: the entry is damaged
    """
    try:
        _files.write_new(temporary, text.text_of_entry(read_text(path, is_directory=False), id_of(path)))
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def append(path: str, line: bytes) -> None:
    """Append a line to the text of an entry.

    :raises OSError: the line can't be written; part of it may have been written
    """
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | OPEN_FLAGS)
    try:
        _files.write_all(fd, line)
    finally:
        os.close(fd)


def rename_entry(source: str, target: str) -> bool:
    """Rename an entry; return False if the source does not exist, because another process was first."""
    try:
        os.rename(source, target)
    except FileNotFoundError:
        # An NFS client may have repeated a request that the server had already executed.
        return exists(target) and not exists(source)
    return True


def remove(path: str) -> None:
    """Remove a file, or a directory with its content. Ignore errors."""
    try:
        if not _files.is_directory(path):
            os.unlink(path)
            return
        # rmtree is three times slower, and importing shutil takes longer than sending an event.
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
    except OSError:
        if not exists(path):
            return
        from shutil import rmtree

        rmtree(path, ignore_errors=True)


class DiskWatch:
    """Measures how long threads have been waiting for the outbox's disk, which may hang.

    It is a context manager for each use of the disk. Threads may share it; one thread must not nest it.
    """

    def __init__(self) -> None:
        self._since: dict[int, float] = {}  # when each thread started using the disk, by thread id

    def __enter__(self) -> None:
        self._since[get_ident()] = time.monotonic()

    def __exit__(self, *_args: object) -> None:
        self._since.pop(get_ident(), None)

    def longest_wait(self) -> float:
        """Return how many seconds the longest-waiting thread has been using the disk; 0.0 if none is."""
        now = time.monotonic()
        return now - min([*self._since.values()], default=now)
