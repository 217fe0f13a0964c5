"""Wait for a condition, with a limit that a busy machine does not reach."""

from __future__ import annotations

import time

SECONDS = 60


def wait_until(condition, seconds=SECONDS):
    """Wait until a condition holds; return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.01)
    return value
