"""Run a job's function in a thread of this process."""

from __future__ import annotations

import os
import select
import threading
import time

from event import _registry
from event._worker.protocol import LONGEST_REPORT, FrameReader
from helpers.waiting import SECONDS


class JobThread:
    """A thread that runs a job's function, and the command's side of its connection.

    :ivar reports: what the job has reported: the kind and the other values of each report
    """

    def __init__(self, connection, function, job):
        self.reports = []
        self._connection = connection
        self._reader = FrameReader(LONGEST_REPORT)
        self._thread = threading.Thread(target=function, args=(job, b"", connection.reporter), daemon=True)
        self._thread.start()
        connection.threads.append(self._thread)

    def wait_for(self, kind, condition=lambda _: True):
        """Return the values of the first report of a kind that meets a condition."""
        end = time.monotonic() + SECONDS
        while not (found := [values for name, values in self.reports if name == kind and condition(values)]):
            assert time.monotonic() < end, f"no report {kind} within {SECONDS} s: {self.reports}"
            self._receive(0.1)
        return found[0]

    def wait_for_entry(self):
        """Wait until all handlers of an entry have a result."""
        self.wait_for("results", lambda values: values["items"][-1][0] == "end")

    def send(self, blob=b"", **frame):
        self._connection.send(frame, blob)

    def stop(self, **values):
        """Send the frame `stop`, and wait for the end of the job; return all reports."""
        self.send(job="stop", **values)
        return self.join()

    def join(self):
        """Wait for the end of the job; return all reports."""
        end = time.monotonic() + SECONDS
        while self._thread.is_alive():
            assert time.monotonic() < end, f"the job does not end: {self.reports}"
            self._receive(0.02)
        while self._receive(0.0):
            pass
        return self.reports

    def items(self):
        """Return the items of all reports `results`."""
        return [item for kind, values in self.reports if kind == "results" for item in values["items"]]

    def _receive(self, seconds):
        if not select.select([self._connection.from_worker], [], [], seconds)[0]:
            return False
        self._reader.feed(os.read(self._connection.from_worker, 1 << 16))
        for report, _ in self._reader.frames():
            report.pop("id")
            self.reports.append((report.pop("report"), report))
        return True


def register_handlers(monkeypatch, **functions):
    """Register handlers. Each name has a function, which gets the event and returns the result."""

    def get_handler(name):
        function = functions[_registry.kind(name)]
        methods = {
            "__init__": lambda self, **kwargs: None,
            "decode_config": classmethod(lambda cls, text: {}),
            "encode_config": lambda self: "",
            "send_event": lambda self, e: function(e),
        }
        return type(name, (), methods)

    monkeypatch.setattr(_registry, "get_handler", get_handler)
