"""Measure and format a row of the speed table.

All figures of a row come from the same run: its child processes take turns for several rounds, and the median of each
counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

NOISE = 1.02  # medians of two runs on a quiet machine differ by up to 2 %


@dataclass(frozen=True)
class Size:
    """How much is measured.

    :ivar processes: rounds of whole processes
    :ivar repeats: rounds of the child processes that time one operation
    :ivar share: fraction of a full run's operations that such a process performs
    :ivar big: size of the big attachment in bytes
    :ivar attaches: rounds that attach it
    :ivar events: number of events kept to measure their memory
    :ivar waiting: number of entries that wait in an outbox: few, some, very many
    :ivar slow: number of deliveries to a slow handler, for each parallel job
    :ivar messages: number of messages that a relay receives
    :ivar relays: rounds of the relay
    :ivar latencies: number of messages whose latency is measured in each round
    """

    processes: int
    repeats: int
    share: float
    big: int
    attaches: int
    events: int
    waiting: tuple[int, int, int]
    slow: int
    messages: int
    relays: int
    latencies: int


SIZES = {
    "full": Size(
        processes=60,
        repeats=9,
        share=1,
        big=1 << 30,
        attaches=5,
        events=10_000,
        waiting=(10, 1_000, 100_000),
        slow=40,
        messages=5_000,
        relays=3,
        latencies=50,
    ),
    "quick": Size(
        processes=15,
        repeats=3,
        share=0.3,
        big=1 << 30,
        attaches=2,
        events=10_000,
        waiting=(10, 1_000, 100_000),
        slow=20,
        messages=1_000,
        relays=1,
        latencies=20,
    ),
    "smoke": Size(
        processes=1,
        repeats=1,
        share=0,
        big=1 << 20,
        attaches=1,
        events=10,
        waiting=(1, 2, 3),
        slow=1,
        messages=3,
        relays=1,
        latencies=1,
    ),
}


@dataclass(frozen=True)
class Line:
    """A line of the table.

    :ivar target_met: None if there is no target, or nothing to compare with
    """

    what: str
    result: str
    compared_with: str
    e3: str
    target: str
    target_met: bool | None


def measure_in_turn(subjects, measure, rounds):
    """Measure the subjects in turn, reversing their order every second round; return the median of each.

    :param subjects: name -> argument of `measure`
    """
    found = {name: [] for name in subjects}
    for number in range(rounds):
        for name in list(subjects)[:: -1 if number % 2 else 1]:
            found[name].append(measure(subjects[name]))
    return {name: median(values) for name, values in found.items()}


def within(ratio, most):
    """Return whether a ratio is at most `most`, allowing for noise."""
    return ratio <= most * NOISE


def format_ratio(ratio):
    return f"{ratio:.2f} x"


def format_count(count):
    """Return a count as text, with its digits in groups of three."""
    return f"{count:,}".replace(",", " ")


def format_us(seconds):
    return f"{seconds * 1e6:.{2 if seconds < 1e-5 else 0}f} us"


def format_size(size):
    for unit in ("B", "KiB", "MiB"):
        if size < 1 << 10:
            return f"{size:.4g} {unit}"
        size /= 1 << 10
    return f"{size:.4g} GiB"
