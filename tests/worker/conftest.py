"""Fixtures of the worker's tests: the connection between a worker and the command, plugins and handlers."""

from __future__ import annotations

import os
import sys

import pytest

from cli.conftest import here, plugin  # noqa: F401  # fixtures
from event import PermanentError
from event._outbox import Outbox
from event._worker import child
from event._worker.protocol import LONGEST_REPORT, FrameReader, encode_frame
from event._worker.reporter import Reporter
from worker.job_thread import register_handlers


class Connection:
    """Both ends of the pipes between a worker and the command, and the worker's reporter.

    :ivar jobs: the worker's end of the pipe for jobs
    :ivar to_worker: the command's end of it
    :ivar reports: the worker's end of the pipe for reports
    :ivar from_worker: the command's end of it
    :ivar threads: the threads that run a job
    """

    def __init__(self):
        self.jobs, self.to_worker = os.pipe()
        self.from_worker, self.reports = os.pipe()
        self.threads = []
        self.reporter = Reporter(self.jobs, self.reports, os.getppid())

    def send(self, job, blob=b""):
        os.write(self.to_worker, encode_frame(job, blob))

    def receive(self):
        """Return the reports that have arrived, except `alive`: the kind and the other values of each."""
        return [report for report in self.receive_all() if report[0] != "alive"]

    def receive_all(self):
        """Return the reports that have arrived: the kind and the other values of each."""
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
        for thread in self.threads:  # after a failed test, a running job would end this process
            if thread.is_alive():
                self.send({"job": "stop"})
                thread.join(10)
        self.reporter._pid = -1  # a thread that still runs reports nothing more
        for fd in (self.jobs, self.to_worker, self.from_worker, self.reports):
            try:
                os.close(fd)
            except OSError:
                pass


@pytest.fixture
def connection(here):  # noqa: F811  # the fixture
    made = Connection()
    yield made
    made.close()


@pytest.fixture
def box(tmp_path):
    return Outbox(tmp_path / "outbox")


@pytest.fixture
def delivered(monkeypatch):
    """Register the handlers `good`, `bad` and `refusing`; return the uids of the events that `good` has got."""
    uids = []

    def refuse(_event):
        raise PermanentError("no such project")

    register_handlers(monkeypatch, good=lambda e: uids.append(e.uid) or True, bad=lambda _: False, refusing=refuse)
    return uids


@pytest.fixture
def exits(monkeypatch):
    """Keep the worker's main loop from changing this process; return the statuses with which it would have exited."""
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(os, "setsid", lambda: None)
    monkeypatch.setattr(os, "dup2", lambda fd, target: None)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(child, "end_within", lambda seconds: None)
    return statuses
