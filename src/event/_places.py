"""Where the outbox is if nothing names one, and where the configuration file is."""

from __future__ import annotations

import os
import sys

from event.error import EventError


def default_outbox() -> str:
    """Return the outbox that is used if nothing names one: a directory for the state of programs, per user.

    :raises EventError: the user has no home directory
    """
    return os.path.join(_state_directory(), "e3-event", "outbox")


def _state_directory() -> str:
    if sys.platform == "win32":  # pragma: no cover  # platform: Windows
        path = os.environ.get("LOCALAPPDATA") or os.path.join(os.path.expanduser("~"), "AppData", "Local")
    else:
        state = os.environ.get("XDG_STATE_HOME", "")
        # The specification has a relative path ignored.
        path = state if os.path.isabs(state) else os.path.expanduser(_STATE)
        if os.path.isabs(path) and _owner(path) not in {os.geteuid(), 0}:
            path = _state_of_own_home() or path
    if not os.path.isabs(path):
        raise EventError("this user has no home directory; set E3_EVENT_OUTBOX to a directory, or to none")
    return path


def _owner(path: str) -> int:
    """Return the user who owns a directory, or the nearest one above it that exists.

    :param path: an absolute path
    """
    while True:
        try:
            return os.stat(path).st_uid
        except OSError:
            path = os.path.dirname(path)


def _state_of_own_home() -> str:
    """Return this user's directory, when HOME is another user's, as with sudo; empty if this user has no home."""
    from pwd import getpwuid

    try:
        return _STATE.replace("~", getpwuid(os.geteuid()).pw_dir, 1)
    except KeyError:
        return ""


_STATE = "~/Library/Application Support" if sys.platform == "darwin" else "~/.local/state"


def config_file(directory: str | None = None) -> str | None:
    """Return the path of the configuration file; None if there is none.

    It is the one that E3_EVENT_CONFIG names (``none`` for no file), or else ``e3-event.toml``, or ``pyproject.toml``
    with a table for this package, in the working directory or the nearest directory above it.

    :param directory: where to begin; the working directory if it is None
    """
    if named := os.environ.get("E3_EVENT_CONFIG"):
        return None if named == "none" else named
    try:
        directory = os.path.abspath(directory or os.getcwd())
    except OSError:  # the working directory is gone
        return None
    above = ""
    while directory != above:
        path = os.path.join(directory, "e3-event.toml")
        if os.path.isfile(path) or _has_table(path := os.path.join(directory, "pyproject.toml")):
            return path
        above, directory = directory, os.path.dirname(directory)
    return None


def _has_table(path: str) -> bool:
    """Return whether a ``pyproject.toml`` has a table for this package. No parser is imported for it."""
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return any(b"e3-event" in line and line.lstrip().startswith((b"[tool", b"tool.")) for line in file)
    except OSError:
        return False
