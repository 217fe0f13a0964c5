"""The back-off between attempts."""

from __future__ import annotations

import os


def backoff(failures: int, first: float, longest: float, chance: float | None = None) -> float:
    """Return how long to wait before the next attempt, in seconds.

    The delay doubles from `first` to `longest`. It varies by a quarter either way, so that deliveries that failed
    together are not retried together.

    :param failures: the attempts that have failed after the first one
    :param first: the first delay, in seconds
    :param longest: the longest delay, in seconds
    :param chance: a number from 0 to 1 that selects the variation; random by default
    """
    if chance is None:
        chance = int.from_bytes(os.urandom(2), "big") / 65535
    return min(first * float(1 << min(max(failures, 0), 20)), longest) * (0.75 + chance / 2)
