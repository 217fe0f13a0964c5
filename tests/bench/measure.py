"""How a row of the speed table is measured, and what it holds.

Nothing is compared with a figure of another run: a row's children run in turn, round after round, and the median of
each counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

NOISE = 1.02  # medians of two runs differ by as much, on a quiet machine


@dataclass(frozen=True)
class Size:
    """How much is measured.

    :ivar processes: rounds of whole processes
    :ivar repeats: rounds of the children that time one operation
    :ivar share: of the operations that such a child does at the full size
    :ivar big: bytes of the big attachment
    :ivar attaches: rounds of it
    :ivar events: how many events are held for their memory
    :ivar waiting: how many entries wait in an outbox: few, some, very many
    :ivar slow: how many times all jobs deliver to a slow handler
    :ivar messages: how many messages a relay takes
    :ivar relays: rounds of that
    :ivar latencies: how many messages are waited for one by one
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
        latencies=100,
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
        latencies=30,
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
    """A line of the table. Text, but for `reached`: None where what it is compared with is not there."""

    what: str
    ours: str
    beside: str
    e3: str
    reach: str
    reached: bool | None


def in_turn(subjects, measure, rounds):
    """Return the median of each subject's measurements, taken in turn, in the other direction every second round.

    :param subjects: name -> what measure takes
    """
    found = {name: [] for name in subjects}
    for number in range(rounds):
        for name in list(subjects)[:: -1 if number % 2 else 1]:
            found[name].append(measure(subjects[name]))
    return {name: median(values) for name, values in found.items()}


def within(ratio, most):
    """Tell whether a ratio is what it is to reach, give or take the noise."""
    return ratio <= most * NOISE


def fold(ratio):
    """Return a ratio as text."""
    return f"{ratio:.2f} x"


def grouped(count):
    """Return a count as text, its digits in groups of three."""
    return f"{count:,}".replace(",", " ")


def micro(seconds):
    """Return a short time as text."""
    return f"{seconds * 1e6:.{2 if seconds < 1e-5 else 0}f} us"


def amount(size):
    """Return a number of bytes as text."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1 << 10:
            return f"{size:.4g} {unit}"
        size /= 1 << 10
    return f"{size:.4g} GiB"
