"""Copy the attachments of an event into its entry."""

from __future__ import annotations

import os

from event import _files, _log
from event._redact import redact_text
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event._event import Event

_BINARY = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def keep(event: Event, directory: str, workspaces: str, *, strict: bool, skip_unreadable: bool) -> dict[str, list[str]]:
    """Copy an event's attachments into a directory; return name -> [file, SHA-1] of the copies.

    Handlers deliver the copies, even if an attached file changes later.

    :param workspaces: a directory; files below it are moved instead of copied
    :param strict: whether a file that has changed since it was attached is an error. Otherwise, its current content is
        copied
    :param skip_unreadable: whether to omit a file that can't be read, with a warning. Otherwise, it is an error
    :raises OSError: a copy can't be written, or a file can't be read
    :raises EventError: a file has changed
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
            found = _files.copy_and_hash(path, target, mode=0o400, sync=True)  # regardless of the original's mode
        except _files.UnreadableError as error:
            if not skip_unreadable:
                raise
            _files.unlink_quietly(target)
            reason = redact_text(one_line(error))
            _log.warning("attachment %r of %r cannot be read, and is left out: %s", name, event, reason)
            continue
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
