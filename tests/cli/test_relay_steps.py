"""What ``relay`` does with its sink and its loop, which the test plays."""

from __future__ import annotations

import os
import signal

import pytest

from event import _broker
from event._cli import relay

if os.name == "nt":
    pytest.skip("platform: the signals are those of a POSIX system", allow_module_level=True)


class Counts:
    finished, dead_lettered = 3, 0


@pytest.fixture
def play(monkeypatch):
    """Have the loop do what a test says; return what was asked of the sink, and the jobs that it was given."""
    asked, jobs = [], []

    def start(*acts, counts=Counts):
        class Sink:
            def __init__(self, job, listener):
                jobs.append(job)

            def close(self):
                asked.append("close")

            def abort(self):
                asked.append("abort")

        class Relay:
            def __init__(self, url, queue, sink, tell):
                self.counts = counts

            def run(self, stop):
                for act in acts:
                    act()
                asked.append("stopped" if stop.is_set() else "ended")

        monkeypatch.setattr(relay, "WorkerSink", Sink)
        monkeypatch.setattr(_broker, "Relay", Relay)
        return asked, jobs

    return start


URL = "redis://127.0.0.1:9"
FILE = ("--handler", "file=events")


def raising(number):
    return lambda: signal.raise_signal(number)


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_stops_the_loop_and_closes_the_sink(command, play, number, expected):
    asked, jobs = play(raising(number))
    status, _, err = command("relay", URL, *FILE, "--outbox", "ob", "--jobs", "3")
    assert (status, asked) == (expected, ["stopped", "close"])
    assert err[-1] == "e3-event relay: 3 relayed"
    assert (jobs[0]["handlers"], jobs[0]["jobs"]) == ([("file", "events")], 3)
    assert err[0].endswith(f"queue e3-event -> file; outbox {jobs[0]['outbox']}")


def test_a_second_signal_aborts_the_sink(command, play):
    asked, _ = play(raising(signal.SIGTERM), interrupt)
    status, _, err = command("relay", URL, *FILE)
    assert (status, asked) == (130, ["abort"])
    assert err[-1] == "e3-event relay: 3 relayed"


def test_dead_lettered_messages_are_counted(command, play):
    class Dead(Counts):
        dead_lettered = 2

    play(counts=Dead)
    status, _, err = command("relay", URL, *FILE)
    assert (status, err[-1]) == (0, "e3-event relay: 1 relayed, 2 dead-lettered")


def test_broken_handler_is_reported_and_nothing_is_consumed(command, play):
    asked, _ = play()
    status, _, err = command("relay", URL, "--handler", "none=x")
    assert (status, asked) == (1, [])
    assert err[0].startswith("none: not loaded: ")
    assert "add --outbox to keep them until they can be" in err[-1]


def test_handler_that_publishes_to_the_relayed_queue_is_refused(command, play):
    asked, _ = play()
    status, _, err = command("relay", URL, "--handler", f"broker={URL}")
    assert (status, asked) == (2, [])
    assert "events would go in a circle" in err[-1]


@pytest.mark.parametrize("config", ["redis://127.0.0.1:10", "nowhere"])
def test_handler_for_another_queue_or_a_broken_one_is_no_loop(command, play, config):
    asked, _ = play()
    command("relay", URL, "--handler", f"broker={config}", "--outbox", "ob")
    assert asked == ["ended", "close"]
