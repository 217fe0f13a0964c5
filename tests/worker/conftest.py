"""A reporter in this process, and plugins that workers find."""

from __future__ import annotations

import os

import pytest

from cli.conftest import here, plugin  # noqa: F401  # fixtures
from event import PermanentError
from event._outbox import Outbox
from event._worker.protocol import LONGEST_REPORT, FrameReader, encode_frame
from event._worker.reporter import Reporter
from worker.running import register


class Line:
    """A worker's side of a connection in this process, and the command's ends of its pipes."""

    def __init__(self):
        self.jobs, self.to_worker = os.pipe()
        self.from_worker, self.reports = os.pipe()
        self.threads = []  # that run a job
        self.reporter = Reporter(self.jobs, self.reports, os.getppid())

    def give(self, job, blob=b""):
        os.write(self.to_worker, encode_frame(job, blob))

    def heard(self):
        """Return what was reported: the kind and the other values of each."""
        reader = FrameReader(LONGEST_REPORT)
        os.set_blocking(self.from_worker, False)
        try:
            while data := os.read(self.from_worker, 1 << 16):
                reader.feed(data)
        except BlockingIOError:
            pass
        reports = [report for report, _ in reader.frames()]
        return [(r.pop("report"), {k: v for k, v in r.items() if k != "id"}) for r in reports]

    def close(self):
        for thread in self.threads:  # one that goes on after a failed test would end this process
            if thread.is_alive():
                self.give({"job": "stop"})
                thread.join(10)
        self.reporter._pid = -1
        for fd in (self.jobs, self.to_worker, self.from_worker, self.reports):
            try:
                os.close(fd)
            except OSError:
                pass


@pytest.fixture
def box(tmp_path):
    return Outbox(tmp_path / "outbox")


@pytest.fixture
def taken(monkeypatch):
    """Register handlers; return the uids of the events that the handler ``good`` has got."""
    uids = []

    def refuse(_event):
        raise PermanentError("no such project")

    register(monkeypatch, good=lambda e: uids.append(e.uid) or True, bad=lambda _: False, refusing=refuse)
    return uids


@pytest.fixture
def line(here):  # noqa: F811  # the fixture
    made = Line()
    yield made
    made.close()
