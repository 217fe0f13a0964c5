"""An entry's own copies of the attachments: written once, and hashed while they are written."""

from __future__ import annotations

import os

from event import _files, _log
from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event._event import Event

_BINARY = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


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
            found = _files.copy_and_hash(reading, target, mode=0o400, sync=True)  # its owner can read it in any case
        finally:
            os.close(reading)
        if strict and found != expected:
            raise EventError(f"attachment {name!r} of {event!r} has changed since it was attached: {path}")
        copies[name] = [file, found]
    return copies


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
        return _files.hash_open(fd)
    finally:
        os.close(fd)
