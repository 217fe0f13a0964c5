"""What the outbox does on disk: directories read and moved, no symbolic link followed."""

from __future__ import annotations

import errno
import os
import stat

from event import _entry, _files
from event._entry import NewerVersionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from event._entry import Entry

# What passes: too many files are open, memory is short, a file server stays away.
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, getattr(errno, "ESTALE", 0), errno.ETIMEDOUT})


def names(directory: str) -> Iterator[str]:
    """Go through a directory's names; there are none where it is missing, or is a symbolic link."""
    try:
        if not _files.is_directory(directory):
            return
        with os.scandir(directory) as entries:
            for entry in entries:
                yield entry.name
    except FileNotFoundError:
        return


def touched(path: str) -> float:
    """Return when an entry was last put, claimed or written to, by the file server's clock; 0 where it has moved on."""
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0


def require_own(path: str) -> None:
    """Raise OSError unless path is a directory of this user's, and no symbolic link."""
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{path} is no directory")
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")


def read_entry(path: str) -> Entry:
    """Return the entry in a directory.

    :raises OSError: a file is missing, or is not what it should be
    :raises ValueError: the content is no entry
    """
    require_own(path)
    try:
        journal = _files.read_regular(os.path.join(path, "journal"), follow=False)
    except FileNotFoundError:
        journal = b""
    return _entry.decode(_files.read_regular(os.path.join(path, "entry.json"), follow=False), journal.split(b"\n"))


def is_newer(path: str) -> bool:
    """Tell whether a newer release wrote an entry.

    :raises OSError: it cannot be told now, and may be later
    """
    try:
        fd = _files.open_regular(os.path.join(path, "entry.json"), follow=False)
        try:
            if os.read(fd, len(_entry.BEGINNING)) == _entry.BEGINNING:
                return False  # the usual case: it need not be read twice
        finally:
            os.close(fd)
        read_entry(path)
    except NewerVersionError:
        return True
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _PASSING:
            raise  # it says nothing of the entry
    return False  # also of what cannot be read: whoever claims it finds out


def move(source: str, target: str) -> bool:
    """Rename; return False where the source is not there, because another process was first."""
    try:
        os.rename(source, target)
    except FileNotFoundError:
        # An NFS server may have done it, and answered a repeated request that there is nothing.
        return os.path.lexists(target) and not os.path.lexists(source)
    return True


def remove(path: str) -> None:
    """Remove a directory and what it holds, as far as that can be done."""
    try:
        # Not rmtree at once: it takes thrice as long, and importing shutil longer than sending.
        if _files.is_directory(path):
            for name in os.listdir(path):
                os.unlink(os.path.join(path, name))
            os.rmdir(path)
            return
    except OSError:
        pass
    from shutil import rmtree

    rmtree(path, ignore_errors=True)
