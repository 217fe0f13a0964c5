"""A job's function that runs in a thread of this process, and what it reports."""

from __future__ import annotations

import os
import select
import threading
import time

from event import _registry
from event._worker.protocol import LONGEST_REPORT, FrameReader

SECONDS = 60.0  # in which what is waited for happens, on a machine that has other work


class Running:
    """A job's function at work.

    :ivar reports: what it has reported: the kind and the other values of each
    """

    def __init__(self, line, function, job):
        self.reports = []
        self._line = line
        self._reader = FrameReader(LONGEST_REPORT)
        self._thread = threading.Thread(target=function, args=(job, b"", line.reporter), daemon=True)
        self._thread.start()
        line.threads.append(self._thread)

    def until(self, kind, holds=lambda _: True):
        """Return the values of the first report of a kind for which something holds."""
        end = time.monotonic() + SECONDS
        while not (found := [values for name, values in self.reports if name == kind and holds(values)]):
            assert time.monotonic() < end, f"no {kind} within {SECONDS} s: {self.reports}"
            self._hear(0.1)
        return found[0]

    def tell(self, blob=b"", **job):
        self._line.give(job, blob)

    def stop(self, **more):
        """Tell it to stop, and wait until it has; return what it has reported."""
        self.tell(job="stop", **more)
        return self.end()

    def end(self):
        """Wait until it has ended; return what it has reported."""
        end = time.monotonic() + SECONDS
        while self._thread.is_alive():
            assert time.monotonic() < end, f"it does not end: {self.reports}"
            self._hear(0.02)
        while self._hear(0.0):
            pass
        return self.reports

    def items(self):
        """Return the items of all reports ``results``."""
        return [item for kind, values in self.reports if kind == "results" for item in values["items"]]

    def _hear(self, seconds):
        if not select.select([self._line.from_worker], [], [], seconds)[0]:
            return False
        self._reader.feed(os.read(self._line.from_worker, 1 << 16))
        for report, _ in self._reader.frames():
            report.pop("id")
            self.reports.append((report.pop("report"), report))
        return True


def register(monkeypatch, **acts):
    """Register handlers: name -> function of the event."""

    def get_handler(name):
        act = acts[_registry.kind(name)]
        methods = {
            "__init__": lambda self, **kwargs: None,
            "decode_config": classmethod(lambda cls, text: {}),
            "encode_config": lambda self: "",
            "send_event": lambda self, e: act(e),
        }
        return type(name, (), methods)

    monkeypatch.setattr(_registry, "get_handler", get_handler)
