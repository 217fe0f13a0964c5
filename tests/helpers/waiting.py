"""Wait for a condition, with a limit that a busy machine does not reach."""

from __future__ import annotations

import time

SECONDS = 60  # limit of each wait


def wait_until(condition, what="the condition is met"):
    """Wait until a condition is true; return its value.

    :param what: the condition in words, for the error message
    """
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {SECONDS} s: {what}"
        time.sleep(0.01)
    return value


def has_ended(pid):
    """Return whether a process has ended, even if nobody has waited for it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in {b"Z", b"X"}
    except FileNotFoundError:
        return True
