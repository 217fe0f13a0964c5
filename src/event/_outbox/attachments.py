"""An entry's own copies of the attachments: written once, and hashed while they are written."""

from __future__ import annotations

import os

from event import _files, _log
from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event._event import Event

_HASH_CHUNK = 1 << 20  # bytes
_BINARY = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_CREATE_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY


def keep(event: Event, directory: str, workspaces: str, *, strict: bool) -> dict[str, list[str]]:
    """Copy an event's attachments into a directory; return name -> [file, SHA-1] of the copies.

    A file may have changed since it was attached. What is delivered is its copy.

    :param workspaces: the files below it are moved instead
    :param strict: whether a file that cannot be read, or has changed, is an error; else the log reports the one, and
        the other is kept as it is now
    :raises OSError: a copy cannot be written; or strict, and a file cannot be read
    :raises EventError: strict, and a file has changed
    """
    copies: dict[str, list[str]] = {}
    for name, (path, expected) in event.get_attachments().copy().items():
        file = str(len(copies))
        target = os.path.join(directory, file)
        if path.startswith(os.path.join(workspaces, "")):
            move_synced(path, target)
            copies[name] = [file, expected]
            continue
        try:
            reading = _files.open_regular(path)
        except OSError as error:
            if strict:
                raise
            _log.warning("attachment %r of %r is not kept in the outbox: %s", name, event, error)
            continue
        try:
            found = copy(reading, target)
        finally:
            os.close(reading)
        if strict and found != expected:
            raise EventError(f"attachment {name!r} of {event!r} has changed since it was attached: {path}")
        copies[name] = [file, found]
    return copies


def copy(reading: int, target: str) -> str:
    """Copy an open file, with its permission bits and modification time; return the SHA-1 of the copy.

    The file is read once, and the copy is on the disk afterwards.

    :raises OSError: the file cannot be read, or the copy cannot be written
    """
    writing = os.open(target, _CREATE_NEW, 0o600)
    try:
        found = _copy_and_hash(reading, writing)
        _files.set_attributes(writing, target, os.fstat(reading), 0o400)  # its owner can read it in any case
        os.fsync(writing)
    finally:
        os.close(writing)  # on NFS, a full disk may be reported only here
    return found


def move_synced(source: str, target: str) -> None:
    """Move a file that was written for this entry alone; it is on the disk afterwards.

    :raises OSError: it cannot be moved
    """
    fd = os.open(source, os.O_RDWR | _BINARY | getattr(os, "O_NOFOLLOW", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(source, target)


def sha1_no_follow(path: str) -> str:
    """Return the SHA-1 of a regular file, in hex. A symbolic link is not followed.

    :raises OSError: it is missing, cannot be read, or is not a regular file
    """
    fd = _files.open_regular(path, follow=False)
    try:
        return _copy_and_hash(fd, None)
    finally:
        os.close(fd)


def _copy_and_hash(reading: int, writing: int | None) -> str:
    state = _files.new_sha1()
    while chunk := os.read(reading, _HASH_CHUNK):
        state.update(chunk)
        if writing is not None:
            _files.write_all(writing, chunk)
    return str(state.hexdigest())
