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
