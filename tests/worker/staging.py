"""Workers that a test plays, and a clock that it sets: nothing waits."""

from __future__ import annotations

from time import sleep

from event._worker import quarantine, sending, supervisor, worker_sink

MODULES = (quarantine, sending, supervisor, worker_sink)


class FakeWorker:
    """A worker without a process.

    :ivar jobs: the frames that it was given
    """

    def __init__(self, clock):
        self.ended = ""
        self.jobs = []
        self.last_report = clock.now
        self._clock = clock
        self._reports = []

    def report(self, kind, **values):
        """Have it report."""
        self._reports.append({"report": kind, **values})

    def send(self, job, blob=b"", *, deadline, is_more=False):
        self.jobs.append(dict(job))

    def kill(self, reason="it was ended"):
        self.ended = self.ended or reason

    def finish(self, timeout):
        self.kill("it was asked to end")

    def read(self):
        if self.ended:
            return []
        reports, self._reports = self._reports, []
        if reports:
            self.last_report = self._clock.now
        return reports


class Stage:
    """What the command's side sees of workers and of the time.

    :ivar now: the time
    :ivar workers: those that were started
    :ivar refusal: why no worker can be started, an OSError; None if one can
    :ivar on_spawn: called with each new worker
    """

    def __init__(self, monkeypatch):
        self.now = 1000.0
        self.workers = []
        self.refusal = None
        self.on_spawn = lambda _: None
        for module in MODULES:
            monkeypatch.setattr(module, "time", self)
            monkeypatch.setattr(module, "Worker", self)
        monkeypatch.setattr(supervisor, "receive", self.receive)
        monkeypatch.setattr(sending, "receive", self.receive_in_time)

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def spawn(self):
        if self.refusal:
            raise self.refusal
        worker = FakeWorker(self)
        self.workers.append(worker)
        self.on_spawn(worker)
        return worker

    def receive(self, workers, deadline):
        found = [(worker, report) for worker in workers for report in worker.read()]
        if not found:
            sleep(0.001)  # so that a thread that asks all the time leaves some to others
        return found

    def receive_in_time(self, workers, deadline):
        """Return what was reported; if nothing was, the time has passed."""
        found = [(worker, report) for worker in workers for report in worker.read()]
        if not found:
            self.now = deadline
        return found


class Heard:
    """What a listener is told.

    :ivar entries: the id of each entry, where it went, and its results: the handler and the error of each
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
