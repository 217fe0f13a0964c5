"""Find the home directory, the default outbox and the configuration file."""

from __future__ import annotations

import os
import sys

from event.error import EventError


def expand_home(path: str) -> str:
    """Replace ``~`` at the beginning of a path, as `os.path.expanduser` does, but treat an empty HOME as unset."""
    if sys.platform != "win32" and os.environ.get("HOME") == "" and path.partition("/")[0] == "~":
        return _in_own_home(path) or path
    return os.path.expanduser(path)


def default_outbox() -> str:
    """Return the path of the default outbox, in the user's directory for application state.

    :raises EventError: the user has no home directory
    """
    return os.path.join(_state_directory(), "e3-event", "outbox")


def _state_directory() -> str:
    if sys.platform == "win32":  # pragma: no cover  # platform: Windows
        path = os.environ.get("LOCALAPPDATA") or os.path.join(os.path.expanduser("~"), "AppData", "Local")
    else:
        state = os.environ.get("XDG_STATE_HOME", "")
        # The XDG specification requires that a relative path is ignored.
        path = state if os.path.isabs(state) else expand_home(_STATE)
        if os.path.isabs(path) and _owner(path) not in {os.geteuid(), 0}:
            path = _in_own_home(_STATE) or path
    if not os.path.isabs(path):
        raise EventError("this user has no home directory; set E3_EVENT_OUTBOX to a directory, or to none")
    return path


def _owner(path: str) -> int:
    """Return the id of the user who owns an absolute path, or else its nearest existing parent."""
    while True:
        try:
            return os.stat(path).st_uid
        except OSError:
            path = os.path.dirname(path)


def _in_own_home(path: str) -> str:
    """Return a path with the home directory of the user database for ``~``; empty if this user has none.

    With sudo, HOME may belong to another user.
    """
    from pwd import getpwuid

    try:
        return path.replace("~", getpwuid(os.geteuid()).pw_dir, 1)
    except KeyError:
        return ""


_STATE = "~/Library/Application Support" if sys.platform == "darwin" else "~/.local/state"


def config_file(named: str | None = None, *, search: bool = True) -> str | None:
    """Return the path of the configuration file; None if there is none.

    Without `search`, it must be named. Otherwise, search the working directory and its parents for ``e3-event.toml``,
    or ``pyproject.toml`` with a table for this package.

    :param named: the path, or ``none`` for no file; by default, the value of E3_EVENT_CONFIG
    """
    if named := named or os.environ.get("E3_EVENT_CONFIG"):
        return None if named.lower() == "none" else expand_home(named)
    if not search:
        return None
    try:
        directory = os.getcwd()
    except OSError:  # the working directory no longer exists
        return None
    above = ""
    while directory != above:
        path = os.path.join(directory, "e3-event.toml")
        if os.path.lexists(path) or _has_table(path := os.path.join(directory, "pyproject.toml")):
            return path
        above, directory = directory, os.path.dirname(directory)
    return None


def _has_table(path: str) -> bool:
    """Return whether a ``pyproject.toml`` has a table for this package, without importing a parser."""
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            lines = (line.removeprefix(b"\xef\xbb\xbf").lstrip() for line in file)
            return any(b"e3-event" in line and line.startswith((b"[tool", b"tool.")) for line in lines)
    except OSError:
        return False
