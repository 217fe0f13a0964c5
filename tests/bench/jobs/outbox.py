"""Measure an outbox: python outbox.py fill DIRECTORY COUNT | put DIRECTORY COUNT | deliver DIRECTORY.

``fill`` leaves entries that are due, as a handler that failed once leaves them; ``put`` prints the seconds of one;
``deliver`` prints the seconds of one, their number, and the most bytes that the process has held in memory.

The handler takes every event and does nothing: it is the built-in one for logging, at a level that nobody reads.
"""

import os
import shutil
import sys
import time
from statistics import median

import event
from event._outbox import Outbox
from event._outbox.pool import DeliveryPool
from event._outcome import Delivery

REPEATS = 40
SLICE = 100
LONG_AGO = 1_700_000_000

operation, directory, *rest = sys.argv[1:]


def put(outbox):
    """Put an event, and have it wait as after a failed sending; return the claim and its path."""
    with event.Event("compile", target="arm", status="ok", count=3) as e:
        pass
    claim = outbox.put(e, {"logging": ",DEBUG"})
    claim.record(Delivery("logging", ok=False, error=ConnectionRefusedError(111, "Connection refused"), seconds=0.1))
    return claim, os.path.join(outbox.path, "new", claim.postpone(LONG_AGO))


def fill(outbox, count):
    """Have so many entries wait. One is put, and its files are written again for the others: the format is public."""
    claim, path = put(outbox)
    files = {}
    for name in os.listdir(path):
        with open(os.path.join(path, name), "rb") as file:
            files[name] = file.read()
    first = claim.entry.id
    for number in range(1, count):
        # The id ends, and the name on disk too, with eight digits of its own.
        own = f"{first[:-8]}{number:08}"
        copy = path.replace(first, own)
        os.mkdir(copy, 0o700)
        for name, content in files.items():
            with open(os.path.join(copy, name), "wb", buffering=0) as file:
                file.write(content.replace(first.encode(), own.encode()))


def seconds_of_putting(outbox, count):
    """Return the seconds of one, the best of the repeats; what was put is removed again."""
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        paths = [put(outbox)[1] for _ in range(count)]
        found.append((time.perf_counter() - start) / count)
        for path in paths:
            shutil.rmtree(path)
    return min(found)


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


kept = Outbox(f"{directory}/outbox")
if operation == "fill":
    fill(kept, int(rest[0]))
elif operation == "put":
    print(seconds_of_putting(kept, int(rest[0])))
else:
    print(*deliver(kept), peak())
