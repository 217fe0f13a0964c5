"""Calculate the back-off between two attempts."""

from __future__ import annotations

import os


def backoff(failures: int, first: float, longest: float, chance: float | None = None) -> float:
    """Return how long to wait before the next attempt, in seconds.

    The delay starts at `first` and doubles with each failure after the first one, up to `longest`. It varies randomly
    by up to 25 %, so that deliveries that failed together are not all retried at the same time.

    :param chance: a number from 0 to 1 that determines the random part; random by default
    """
    if chance is None:
        chance = int.from_bytes(os.urandom(2), "big") / 65535
    return min(first * float(1 << min(max(failures, 0), 20)), longest) * (0.75 + chance / 2)
