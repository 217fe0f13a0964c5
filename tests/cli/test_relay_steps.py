"""``e3-event relay`` with a simulated sink and a simulated relay loop."""

from __future__ import annotations

import os
import signal

import pytest

from event import _broker
from event._cli import relay

if os.name == "nt":
    pytest.skip("platform: the signals are those of a POSIX system", allow_module_level=True)


@pytest.fixture
def simulate(monkeypatch):
    """Return a function that replaces sink and loop. The loop calls each of the arguments, and ends.

    The function returns two lists: how the loop ended and which methods of the sink were called, and the sink's jobs.
    """
    calls, jobs = [], []

    def start(*acts, dead=0):
        class Sink:
            def __init__(self, job, listener):
                jobs.append(job)

            def close(self):
                calls.append("close")

            def abort(self):
                calls.append("abort")

        class Relay:
            def __init__(self, url, queue, sink, log):
                self.relayed, self.dead_lettered = 3, dead

            def run(self, stop):
                for act in acts:
                    act()
                calls.append("stopped" if stop.is_set() else "ended")

        monkeypatch.setattr(relay, "WorkerSink", Sink)
        monkeypatch.setattr(_broker, "Relay", Relay)
        return calls, jobs

    return start


URL = "redis://127.0.0.1:9"
FILE = ("--handler", "file=events")


def raise_signal(number):
    return lambda: signal.raise_signal(number)


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signal_stops_the_loop_and_closes_the_sink(command, simulate, number, expected):
    calls, jobs = simulate(raise_signal(number))
    status, _, err = command("relay", URL, *FILE, "--outbox", "ob", "--jobs", "3")
    assert (status, calls) == (expected, ["stopped", "close"])
    assert err[-1] == "e3-event relay: 3 relayed"
    assert (jobs[0]["handlers"], jobs[0]["jobs"]) == ([("file", "events")], 3)
    assert err[0].endswith(f"queue e3-event -> file; outbox {jobs[0]['outbox']}")


def test_second_signal_aborts_the_sink(command, simulate):
    calls, _ = simulate(raise_signal(signal.SIGTERM), interrupt)
    status, _, err = command("relay", URL, *FILE)
    assert (status, calls) == (130, ["abort"])
    assert err[-1] == "e3-event relay: 3 relayed"


def test_dead_lettered_messages_are_counted(command, simulate):
    simulate(dead=2)
    status, _, err = command("relay", URL, *FILE)
    assert (status, err[-1]) == (0, "e3-event relay: 3 relayed, 2 dead-lettered")


def test_broken_handler_is_reported_and_nothing_is_consumed(command, simulate):
    calls, _ = simulate()
    status, _, err = command("relay", URL, "--handler", "none=x")
    assert (status, calls) == (1, [])
    assert err[0].startswith("none: not loaded: ")
    assert "add --outbox to keep them until they can be" in err[-1]


def test_handler_that_publishes_to_the_relayed_queue_is_refused(command, simulate):
    calls, _ = simulate()
    status, _, err = command("relay", URL, "--handler", f"broker={URL}")
    assert (status, calls) == (2, [])
    assert "events would go in a circle" in err[-1]


@pytest.mark.parametrize("config", ["redis://127.0.0.1:10", "nowhere"])
def test_handler_for_another_queue_or_a_broken_one_is_no_loop(command, simulate, config):
    calls, _ = simulate()
    command("relay", URL, "--handler", f"broker={config}", "--outbox", "ob")
    assert calls == ["ended", "close"]
