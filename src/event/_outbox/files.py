"""An entry as files: read, written to, moved and removed. No symbolic link is followed."""

from __future__ import annotations

import errno
import os
import stat

from event import _files
from event._outbox import entry as text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from event._outbox.entry import Entry

_TEXT = "entry"  # the file that holds the text of an entry with attachments
_APPEND = os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class DamagedError(ValueError):
    """The content of an entry is not what was written."""


def list_names(directory: str) -> Iterator[str]:
    """Go through a directory's names. There are none if it is missing, or is a symbolic link."""
    try:
        if not _files.is_directory(directory):
            return
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.name.startswith("."):  # an NFS client's name for a file that was removed while open
                    yield entry.name
    except FileNotFoundError:
        return


def exists(path: str) -> bool:
    """Return whether there is something at a path, a symbolic link too.

    :raises OSError: that cannot be told now; `os.path.lexists` would say no
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def last_touched(path: str) -> float:
    """Return when an entry was last put, claimed or written to, by the file server's clock.

    :return: seconds since 1970 UTC; 0.0 if the entry no longer exists
    """
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0


def require_owned_directory(status: os.stat_result, path: str) -> None:
    """Raise OSError unless a status is that of a directory that belongs to this user."""
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{path} is no directory")
    _require_owner(status, path)


def require_owned(path: str) -> bool:
    """Require an entry that belongs to this user; return whether it is a directory.

    :raises OSError: it is another user's, or neither a file nor a directory
    """
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
        raise NotADirectoryError(f"{path} is neither a file nor a directory")
    _require_owner(status, path)
    return stat.S_ISDIR(status.st_mode)


def _require_owner(status: os.stat_result, path: str) -> None:
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")


def text_path(path: str, *, is_directory: bool) -> str:
    """Return where the text of an entry is: the entry is a file, or if it has attachments a directory with one."""
    return os.path.join(path, _TEXT) if is_directory else path


def read_text(path: str, *, is_directory: bool) -> bytes:
    """Return the text of the entry at a path.

    :raises DamagedError: it has none, or too much
    :raises OSError: it cannot be read now, or the entry is gone
    """
    try:
        return _read_bounded(text_path(path, is_directory=is_directory))
    except FileNotFoundError as error:
        if is_directory and exists(path) and not exists(os.path.join(path, _TEXT)):
            raise DamagedError(f"its file {_TEXT!r} is missing") from error
        raise


def read_entry(path: str) -> Entry:
    """Return the entry at a path.

    :raises NewerVersionError: a newer release wrote it
    :raises ValueError: it is damaged; the message says how
    :raises OSError: it cannot be read now, or it is gone
    """
    content = read_text(path, is_directory=require_owned(path))
    return text.decode_entry(text.own_text(content, os.path.basename(path).partition(".")[0]))


def is_from_newer_release(path: str) -> bool:
    """Return whether a newer release wrote an entry.

    :raises OSError: that cannot be read now
    """
    is_directory = require_owned(path)
    try:
        fd = _open(text_path(path, is_directory=is_directory))
        try:
            if os.read(fd, len(text.BEGINNING)) == text.BEGINNING:
                return False  # the usual case: it is not read twice
        finally:
            os.close(fd)
        read_entry(path)
    except text.NewerVersionError:
        return True
    except (FileNotFoundError, ValueError):
        pass  # it has moved on, or is damaged: whoever claims it finds out
    return False


def is_shared(path: str) -> bool:
    """Return whether other entries are names of the same file."""
    status = os.lstat(path)
    return stat.S_ISREG(status.st_mode) and status.st_nlink > 1


def separate(path: str, temporary: str, entry_id: str) -> None:
    """Give an entry that shares its file with others a file of its own, which is on the disk afterwards.

    :param temporary: an unused path on the same file system
    :raises OSError: it cannot be written; the entry is as it was
    :raises ValueError: the entry is damaged
    """
    try:
        _files.write_new(temporary, text.own_text(read_text(path, is_directory=False), entry_id))
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def append(path: str, line: bytes) -> None:
    """Append to the text of an entry.

    :raises OSError: it cannot be written; a part of the line may have been
    """
    fd = os.open(path, _APPEND | getattr(os, "O_NOFOLLOW", 0))
    try:
        _files.write_all(fd, line)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    try:
        return _files.open_regular(path, follow=False)
    except _files.NotRegularError as error:
        raise DamagedError(str(error)) from error
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link that was put there between two looks
            raise DamagedError(f"{path} is a symbolic link") from error
        raise


def _read_bounded(path: str) -> bytes:
    fd = _open(path)
    try:
        size = os.fstat(fd).st_size
        if size > text.MAX_ENTRY_SIZE:
            raise DamagedError(f"its text has {size} bytes; {text.MAX_ENTRY_SIZE} are the most")
        parts = []
        while part := os.read(fd, size + 1):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def rename_entry(source: str, target: str) -> bool:
    """Rename; return False if the source is not there, because another process was first."""
    try:
        os.rename(source, target)
    except FileNotFoundError:
        # An NFS server may have done it, and have answered a repeated request that there is nothing.
        return exists(target) and not exists(source)
    return True


def remove(path: str) -> None:
    """Remove a file, or a directory and what it holds, as far as that is possible."""
    try:
        if not _files.is_directory(path):
            os.unlink(path)
            return
        # Not rmtree at once: it takes thrice as long, and importing shutil longer than sending.
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
    except OSError:
        if not exists(path):
            return
        from shutil import rmtree

        rmtree(path, ignore_errors=True)
