"""Fake workers, a fake clock and a recording listener, for tests of the command's side. Nothing waits."""

from __future__ import annotations

from time import sleep

from event._worker import quarantine, sending, supervisor, worker_sink

MODULES = (quarantine, sending, supervisor, worker_sink)


class FakeWorker:
    """A worker without a process.

    :ivar jobs: the frames that the command has sent to it
    """

    def __init__(self, clock):
        self.ended = ""
        self.jobs = []
        self.last_report = clock.now
        self._clock = clock
        self._reports = []

    def report(self, kind, **values):
        """Queue a report for the command."""
        self._reports.append({"report": kind, **values})

    def send(self, job, blob=b"", *, deadline, is_more=False):
        self.jobs.append(dict(job))

    def kill(self, reason="it was ended"):
        self.ended = self.ended or reason

    def finish(self, timeout):
        self.kill("it was asked to end")

    def check(self):
        return []

    def read(self):
        if self.ended:
            return []
        reports, self._reports = self._reports, []
        if reports:
            self.last_report = self._clock.now
        return reports


class Simulation:
    """Replace the workers and the clock of the command's side.

    :ivar now: the time
    :ivar workers: the started workers
    :ivar start_error: the OSError that starting a worker raises; None to start it
    :ivar on_spawn: called with each new worker
    """

    def __init__(self, monkeypatch):
        self.now = 1000.0
        self.workers = []
        self.start_error = None
        self.on_spawn = lambda _: None
        for module in MODULES:
            monkeypatch.setattr(module, "time", self)
            monkeypatch.setattr(module, "Worker", self)
        monkeypatch.setattr(supervisor, "receive", self.receive)
        for module in (sending, quarantine):
            monkeypatch.setattr(module, "receive", self.receive_until)

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def spawn(self):
        if self.start_error:
            raise self.start_error
        worker = FakeWorker(self)
        self.workers.append(worker)
        self.on_spawn(worker)
        return worker

    def receive(self, workers, deadline, wake_up):
        """Return the queued reports. The time does not change."""
        found = [(worker, report) for worker in workers for report in worker.read()]
        if not found:
            sleep(0.001)  # let other threads run while one polls
        return found

    def receive_until(self, workers, deadline):
        """Return the queued reports. If there are none, set the clock to the deadline."""
        found = [(worker, report) for worker in workers for report in worker.read()]
        if not found:
            self.now = deadline
        return found


class RecordingListener:
    """Record what the command's side reports.

    :ivar entries: for each entry, its id, its new state, and the handler and the error of each result
    :ivar logged: the warnings
    :ivar notes: the messages for the operator that do not count as failures
    """

    def __init__(self):
        self.entries = []
        self.logged = []
        self.notes = []

    def entry(self, entry, where):
        self.entries.append((entry.id, where, [(result.handler, result.error) for result in entry.results]))

    def log(self, text):
        self.logged.append(text)

    def note(self, text):
        self.notes.append(text)
