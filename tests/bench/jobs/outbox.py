"""Fill and measure an outbox.

python outbox.py fill DIRECTORY COUNT        add entries that are due after a failed delivery
python outbox.py fill-later DIRECTORY COUNT  add entries that are not due
python outbox.py fill-slow DIRECTORY COUNT   add entries that are due, for a handler that takes 50 ms
python outbox.py put DIRECTORY COUNT         print the seconds to put an entry
python outbox.py scan DIRECTORY              print the seconds of a pass with nothing due, a count, and finding an ID
python outbox.py deliver DIRECTORY           print the seconds per entry, the number of entries and the peak memory

The other entries are for the built-in logging handler, at a level that is off.
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
    """A handler that takes 50 ms for each event."""

    def send_event(self, event):
        time.sleep(0.05)
        return True


def put(outbox, due=LONG_AGO, handler="logging"):
    """Put an event that waits after a failed delivery; return its candidate."""
    with event.Event("compile", target="arm", status="ok", count=3) as e:
        pass
    claim = outbox.put(e, {handler: ",DEBUG" if handler == "logging" else ""})
    claim.record(Delivery(handler, ok=False, error=ConnectionRefusedError(111, "Connection refused"), seconds=0.1))
    claim.postpone(due)
    (candidate,) = outbox.find(claim.entry.id)
    return candidate


def fill(outbox, count, due, handler="logging"):
    """Add this number of waiting entries. All others are copies of the first one's file.

    Entries that are not due are spread over as many buckets as there can be.
    """
    candidate = put(outbox, due, handler)
    with open(os.path.join(outbox.path, candidate.name), "rb") as file:
        content = file.read()
    first = candidate.id
    for number in range(1, count):
        # Each id and file name ends with the entry's number.
        own = f"{first[:-8]}{number:08}"
        bucket = candidate.due if due == LONG_AGO else candidate.due + 300 * (number % 90)
        place = os.path.join(outbox.path, "waiting", str(bucket))
        os.makedirs(place, 0o700, exist_ok=True)
        with open(os.path.join(place, own), "wb", buffering=0) as file:
            file.write(content.replace(first.encode(), own.encode()))


def seconds_of_putting(outbox, count):
    """Return the seconds to put an entry, from the best repeat. The entries are removed again."""
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        candidates = [put(outbox) for _ in range(count)]
        found.append((time.perf_counter() - start) / count)
        for candidate in candidates:
            outbox.drop(candidate)
    return min(found)


def seconds_of_scanning(outbox):
    """Return the seconds of a pass with nothing due, a count and finding an entry, each from the best repeat."""
    wanted = next(outbox.entries("waiting"))[0].id
    operations = (lambda: list(outbox.candidates()), outbox.summary, lambda: outbox.find(wanted))
    found = [[] for _ in operations]
    for _ in range(REPEATS):
        for scan, times in zip(operations, found, strict=True):
            start = time.perf_counter()
            scan()
            times.append(time.perf_counter() - start)
    return map(min, found)


def peak():
    """Return the peak memory of this process in bytes; 0 if the system does not report it."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:  # getrusage includes the parent process's memory
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))
    except FileNotFoundError:
        if sys.platform == "win32":
            return 0
    from resource import RUSAGE_SELF, getrusage

    return getrusage(RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def deliver(outbox):
    """Deliver all waiting entries; return the seconds per entry, and the number of entries.

    The seconds are the median of slices of 100 entries, so that a short disturbance does not count.
    """
    warm = Outbox(f"{directory}/warm")  # the first delivery imports what it needs
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
    """Count delivered entries, and measure the seconds per entry for each slice."""

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
outbox = Outbox(f"{directory}/outbox")
if operation == "fill":
    fill(outbox, int(rest[0]), LONG_AGO)
elif operation == "fill-later":
    fill(outbox, int(rest[0]), time.time() + 7200)
elif operation == "fill-slow":
    fill(outbox, int(rest[0]), LONG_AGO, "slow")
elif operation == "put":
    print(seconds_of_putting(outbox, int(rest[0])))
elif operation == "scan":
    print(*seconds_of_scanning(outbox))
else:
    print(*deliver(outbox), peak())
