"""Copy the attachments of an event into its entry, and check them before a delivery."""

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

    Handlers deliver the copies, even if an attached file changes later.

    :param workspaces: a directory; files below it are moved instead of copied
    :param strict: whether a file that can't be read, or has changed since it was attached, is an error. Otherwise, log
        a warning for a file that can't be read, and copy the current content of a file that has changed.
    :raises OSError: a copy can't be written, or with `strict`, a file can't be read
    :raises EventError: with `strict`, a file has changed
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
            found = _files.copy_and_hash(reading, target, mode=0o400, sync=True)  # regardless of the original's mode
        finally:
            os.close(reading)
        if strict and found != expected:
            raise EventError(f"attachment {name!r} of {event!r} has changed since it was attached: {path}")
        copies[name] = [file, found]
    return copies


def move_synced(source: str, target: str) -> None:
    """Sync a file to disk and move it.

    :raises OSError: the file can't be synced or moved
    """
    fd = os.open(source, os.O_RDWR | _BINARY | getattr(os, "O_NOFOLLOW", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(source, target)


def sha1_no_follow(path: str) -> str:
    """Return the SHA-1 of a regular file, in hex, without following a symbolic link.

    :raises OSError: the file is missing, can't be read, or is not a regular file
    """
    fd = _files.open_regular(path, follow=False)
    try:
        return _files.hash_open(fd)
    finally:
        os.close(fd)
