"""Measure an outbox: python outbox.py fill DIRECTORY COUNT | fill-later | fill-slow | put | look | deliver DIRECTORY.

``fill`` leaves entries that are due, as a handler that failed once leaves them; ``fill-later`` leaves them for later;
``fill-slow`` leaves them for a handler that takes 50 ms;
``put`` prints the seconds of one; ``look`` prints the seconds of a pass with nothing due, of a count, and of finding an
entry by its id; ``deliver`` prints the seconds of one, their number, and the most bytes that the process has held.

The other handler takes every event and does nothing: it is the built-in one for logging, at a level that nobody reads.
"""

import os
import sys
import time
from statistics import median

import event
from event import _registry
from event._outbox import Outbox
from event._outbox.pool import DeliveryPool
from event._outcome import Delivery

REPEATS = 40
SLICE = 100
LONG_AGO = 1_700_000_000

operation, directory, *rest = sys.argv[1:]


class Slow(event.EventHandler):
    """Takes 50 ms for an event."""

    def send_event(self, event):
        """Wait."""
        time.sleep(0.05)
        return True


def put(outbox, due=LONG_AGO, handler="logging"):
    """Put an event, and have it wait as after a failed sending; return its name in the outbox."""
    with event.Event("compile", target="arm", status="ok", count=3) as e:
        pass
    claim = outbox.put(e, {handler: ",DEBUG" if handler == "logging" else ""})
    claim.record(Delivery(handler, ok=False, error=ConnectionRefusedError(111, "Connection refused"), seconds=0.1))
    claim.postpone(due)
    (candidate,) = outbox.find(claim.entry.id)
    return candidate


def fill(outbox, count, due, handler="logging"):
    """Have so many entries wait. One is put, and its file is written again for the others: the format is public.

    Those that are for later are in as many buckets as there can be.
    """
    candidate = put(outbox, due, handler)
    with open(os.path.join(outbox.path, candidate.name), "rb") as file:
        content = file.read()
    first = candidate.id
    for number in range(1, count):
        # The id ends, and the name on disk too, with eight digits of its own.
        own = f"{first[:-8]}{number:08}"
        bucket = candidate.due if due == LONG_AGO else candidate.due + 300 * (number % 90)
        place = os.path.join(outbox.path, "waiting", str(bucket))
        os.makedirs(place, 0o700, exist_ok=True)
        with open(os.path.join(place, own), "wb", buffering=0) as file:
            file.write(content.replace(first.encode(), own.encode()))


def seconds_of_putting(outbox, count):
    """Return the seconds of one, the best of the repeats; what was put is removed again."""
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        candidates = [put(outbox) for _ in range(count)]
        found.append((time.perf_counter() - start) / count)
        for candidate in candidates:
            outbox.drop(candidate)
    return min(found)


def seconds_of_looking(outbox):
    """Return the seconds of a pass with nothing due, of a count, and of finding an entry, the best of the repeats."""
    wanted = next(outbox.entries("waiting"))[0].id
    looks = (lambda: list(outbox.candidates()), outbox.summary, lambda: outbox.find(wanted))
    found = [[] for _ in looks]
    for _ in range(REPEATS):
        for look, times in zip(looks, found, strict=True):
            start = time.perf_counter()
            look()
            times.append(time.perf_counter() - start)
    return map(min, found)


def peak():
    """Return the most bytes of memory that this process has held; 0 where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:  # getrusage counts what the parent process held too
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))
    except FileNotFoundError:
        if sys.platform == "win32":
            return 0
    from resource import RUSAGE_SELF, getrusage

    return getrusage(RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def deliver(outbox):
    """Deliver what waits; return the seconds of one, and the number.

    The seconds are the median over so many at a time: what else the machine does disturbs a long run more than a short.
    """
    warm = Outbox(f"{directory}/warm")  # the first one imports what delivering needs
    put(warm)
    run_pool(warm, Ends())
    ends = Ends()
    begin = time.perf_counter()
    run_pool(outbox, ends)
    return median(ends.found) if ends.found else (time.perf_counter() - begin) / ends.number, ends.number


def run_pool(outbox, ends):
    pool = DeliveryPool(outbox, 30.0, 8, ends)
    pool.feed(outbox.candidates())
    pool.wait()
    pool.close()


class Ends:
    """Counts entries that are delivered, and notes the seconds of one, over so many at a time."""

    def __init__(self):
        self.number, self.found = 0, []
        self._start = time.perf_counter()

    def begin(self, lane, claims):
        pass

    def result(self, claim, delivery):
        pass

    def end(self, claim, where):
        self.number += where == "delivered"
        if self.number % SLICE == 0:
            self._start, before = time.perf_counter(), self._start
            self.found.append((self._start - before) / SLICE)


_registry.BUILTINS["slow"] = (__name__, "Slow")
kept = Outbox(f"{directory}/outbox")
if operation == "fill":
    fill(kept, int(rest[0]), LONG_AGO)
elif operation == "fill-later":
    fill(kept, int(rest[0]), time.time() + 7200)
elif operation == "fill-slow":
    fill(kept, int(rest[0]), LONG_AGO, "slow")
elif operation == "put":
    print(seconds_of_putting(kept, int(rest[0])))
elif operation == "look":
    print(*seconds_of_looking(kept))
else:
    print(*deliver(kept), peak())
