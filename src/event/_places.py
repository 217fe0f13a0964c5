"""Where the outbox is if nothing names one."""

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
    if not os.path.isabs(path):
        raise EventError("this user has no home directory; set E3_EVENT_OUTBOX to a directory, or to none")
    return path


_STATE = "~/Library/Application Support" if sys.platform == "darwin" else "~/.local/state"
