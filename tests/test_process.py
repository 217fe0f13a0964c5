"""The output of a command that `e3-event run` starts, and the result of its exit."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from event._process import child, output

if os.name == "nt":
    pytest.skip("platform: the pipes and signals are those of a POSIX system", allow_module_level=True)


def test_output_read_after_the_command_ended_is_limited(tmp_path, monkeypatch):
    # Smaller than usual, since the usual limits are larger than a pipe.
    monkeypatch.setattr(output, "_MAX_REST", 10)
    monkeypatch.setattr(output, "_PIPE_SIZE", 4)
    tee = output.Tee([(1, 2)], os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT))
    os.write(tee.writers[1], b"x" * 100)
    tee.end(0.0)
    assert (tmp_path / "log").read_bytes() == b"x" * 12
    assert tee.left_behind
    tee.spawned()


def test_full_nonblocking_pipe_is_waited_for(monkeypatch):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    size = os.write(writer, bytes(1 << 22))
    wait = output._writable

    # Empty the pipe only when `show` waits for it.
    def read_and_wait(fd):
        os.read(reader, size)
        wait(fd)

    monkeypatch.setattr(output, "_writable", read_and_wait)
    assert output.show(writer, b"x" * 100) is None
    assert os.read(reader, 200) == b"x" * 100
    os.close(reader)
    os.close(writer)


def test_show_returns_the_error_if_it_cannot_write():
    reader, writer = os.pipe()
    os.close(reader)
    assert output.show(writer, b"x").errno == errno.EPIPE
    os.close(writer)
    assert output.show(writer, b"x").errno == errno.EBADF


@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, errno.ENOSPC), (errno.EPIPE, None)])
def test_output_that_cannot_be_shown_is_an_error_if_a_reader_exists(monkeypatch, number, expected):
    monkeypatch.setattr(output, "show", lambda *_args: OSError(number, "no"))
    tee = output.Tee([(1,)], None)
    tee.spawned()
    tee.finish()
    assert (tee.show_error and tee.show_error.errno) == expected
    os.close(tee.streams[0].reader)


def test_log_whose_end_cannot_be_written_is_not_complete(tmp_path):
    """NFS reports a full disk only at the end."""
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    tee = output.Tee([(1,), (2,)], log)
    os.close(log)
    tee.spawned()
    tee.end(0.0)
    assert tee.error.errno == errno.EBADF
    tee.finish()


@pytest.mark.parametrize(
    ("code", "received", "outcome", "name", "status"),
    [
        pytest.param(0, [], "success", None, 0, id="success"),
        pytest.param(0, [signal.SIGTERM], "success", None, 0, id="success after a signal"),
        pytest.param(1, [], "failure", None, 1, id="failure"),
        pytest.param(1, [signal.SIGUSR1], "failure", None, 1, id="failure after a signal that does not cancel"),
        pytest.param(1, [signal.SIGINT, signal.SIGTERM], "cancel", "SIGTERM", 1, id="cancel"),
        pytest.param(-9, [signal.SIGTERM], "cancel", "SIGKILL", 137, id="cancel by SIGKILL"),
        pytest.param(-9, [], "failure", "SIGKILL", 137, id="killed"),
        pytest.param(-2, [], "cancel", "SIGINT", 130, id="ended by SIGINT"),
    ],
)
def test_exit_result_follows_from_the_exit_code_and_the_signals(code, received, outcome, name, status):
    result = child.ExitResult(code, 1.0, received)
    assert (result.outcome, result.signal, result.status) == (outcome, name, status)
