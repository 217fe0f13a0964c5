"""``e3-event deliver`` with a simulated supervisor."""

from __future__ import annotations

import io
import os
import signal
import sys

import pytest

import event._worker
from event._cli import deliver
from event._worker import OpenEntry, Result

if os.name == "nt":
    pytest.skip("platform: the signals are those of a POSIX system", allow_module_level=True)


@pytest.fixture
def simulate(monkeypatch):
    """Return a function that replaces the supervisor. Each argument is called in one step of it, with its listener.

    The function returns the list of the calls of `stop` and `abort`.
    """
    calls = []

    def start(*steps, summary=None):
        class Supervisor:
            finished = is_absent = False
            failed = ""
            total = 0

            def __init__(self, job, listener, worker):
                self.summary = summary
                self._steps = list(steps)
                self._listener = listener

            def step(self, seconds):
                if self._steps:
                    self._steps.pop(0)(self._listener)
                self.finished = not self._steps

            def stop(self):
                calls.append("stop")

            def abort(self):
                calls.append("abort")

        monkeypatch.setattr(event._worker, "Supervisor", Supervisor, raising=False)
        return calls

    return start


def raise_signal(number):
    return lambda _listener: signal.raise_signal(number)


def do_nothing(_listener):
    pass


def interrupt(_listener):
    raise KeyboardInterrupt


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signal_stops_the_supervisor_and_sets_the_exit_status(command, simulate, number, expected):
    calls = simulate(do_nothing, raise_signal(number), do_nothing)
    status, _, err = command("deliver", "ob", "--watch")
    assert (status, err) == (expected, [])
    assert calls == ["stop", "stop"]


def test_second_signal_aborts_the_supervisor(command, simulate):
    calls = simulate(raise_signal(signal.SIGINT), interrupt)
    assert command("deliver", "ob") == (130, [], [])
    assert calls == ["stop", "abort"]


def test_unknown_summary_counts_are_omitted(command, simulate):
    simulate(do_nothing)
    status, _, err = command("deliver", "ob")
    assert (status, err) == (0, ["e3-event deliver: nothing was due"])


@pytest.mark.parametrize(("options", "expected"), [((), 0), (("--strict",), 1)], ids=["usual", "strict"])
def test_outbox_problem_exits_with_1_if_strict(command, simulate, options, expected):
    simulate(lambda listener: listener.log("the disk is full"), summary={"waiting": 0})
    status, _, err = command("deliver", "ob", *options)
    assert (status, err[0]) == (expected, "e3-event deliver: the disk is full")


def test_number_of_jobs_is_passed_to_the_supervisor(command, simulate):
    simulate(do_nothing)
    assert command("deliver", "ob", "--jobs", "3")[0] == 0
    status, _, err = command("deliver", "ob", "--jobs", "0")
    assert status == 2
    assert "expected a number from 1 to 100, not '0'" in err[0]


@pytest.mark.parametrize("shown", [True, False])
def test_quiet_prints_no_line_for_a_success_without_warnings(capsys, shown):
    entry = OpenEntry("e", "claim", "n")
    entry.results.append(Result("file", {"ok": True, "said": "by the way" if shown else ""}))
    deliver.Report("relay", quiet=True).entry(entry, "delivered")
    assert bool(capsys.readouterr().err) is shown


class Terminal(io.StringIO):
    """A terminal of unknown width."""

    def isatty(self):
        return True

    def fileno(self):
        raise OSError


class RunningSupervisor:
    finished, total = False, 2


def test_terminal_progress_replaces_the_previous_text(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    report = deliver.Report("deliver")
    report.show_progress(RunningSupervisor())
    entry = OpenEntry("e", "claim", "n")
    entry.results.append(Result("file", {"ok": False, "error": "down"}))
    report.entry(entry, "waiting")
    report.clear()
    terminal.truncate(terminal.seek(0))
    report.show_progress(RunningSupervisor())
    report.clear()
    assert terminal.getvalue() == "1 of 2 done, 1 not delivered\r                            \r"


def test_entry_released_untried_is_neither_counted_nor_a_failure():
    report = deliver.Report("deliver")
    report.entry(OpenEntry("e", "claim", "n"), "waiting")
    assert (report.entries, report.has_trouble) == (0, False)


@pytest.mark.parametrize("keeps", [True, False])
def test_results_are_kept_only_for_json(keeps):
    """A relay, which runs for days, would use more and more memory for them."""
    report = deliver.Report("relay", quiet=True, keeps_results=keeps)
    entry = OpenEntry("e", "claim", "n")
    entry.results.append(Result("file", {"ok": True}))
    report.entry(entry, "delivered")
    assert (report.entries, len(report.results)) == (1, int(keeps))
