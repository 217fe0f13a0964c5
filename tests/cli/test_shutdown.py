"""SIGINT and SIGTERM stop a long-running command, and the flag that they set."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from event._process import shutdown
from event._process.shutdown import SignalFlag

if os.name == "nt":
    pytest.skip("platform: the signals are those of a POSIX system", allow_module_level=True)


def test_two_signals_at_once_are_one_request_and_a_later_one_another(monkeypatch):
    monkeypatch.setattr(shutdown, "SAME_REQUEST", 600.0)  # longer than a busy machine needs
    with shutdown.GracefulShutdown() as stopping:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(shutdown, "SAME_REQUEST", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert (stopping.status, stopping.requested.is_set()) == (130, True)


def test_signal_without_a_waiter_is_remembered():
    with shutdown.GracefulShutdown() as stopping:
        signal.raise_signal(signal.SIGTERM)
    assert (stopping.requested.is_set(), stopping.status) == (True, 0)


def test_flag_is_set_and_cleared():
    flag = SignalFlag()
    assert not flag.wait(0.001)
    flag.set()
    assert flag.is_set()
    assert flag.wait()
    flag.clear()
    assert not flag.is_set()
    assert not flag.wait(0.001)


def test_signal_sets_a_flag_at_every_step():
    """With `threading.Event`, a signal at some steps would cause a deadlock."""
    flag = SignalFlag()
    before = signal.signal(signal.SIGUSR1, lambda *_: flag.set())
    steps, step, tracing = 0, 0, sys.gettrace()

    def trace(frame, what, _):
        nonlocal steps
        if frame.f_code.co_filename != sys.modules[SignalFlag.__module__].__file__:
            return None
        if what == "line":
            steps += 1
            if steps == step:
                signal.raise_signal(signal.SIGUSR1)
        return trace

    try:
        while steps >= step:
            flag.clear()
            steps, step = 0, step + 1
            sys.settrace(trace)
            flag.wait(0.01)
            sys.settrace(tracing)
            assert flag.is_set() == (steps >= step)
    finally:
        sys.settrace(tracing)
        signal.signal(signal.SIGUSR1, before)
    assert step > 3


def test_signal_ends_the_wait_for_a_flag():
    flag = SignalFlag()
    before = signal.signal(signal.SIGUSR1, lambda *_: flag.set())
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        assert flag.wait(60)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
