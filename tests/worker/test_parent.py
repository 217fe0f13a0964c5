"""The command's side of a worker: start it, send it jobs, receive its reports, and end it, even if it misbehaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from event._worker import Worker, parent, receive, spawning, system
from event._worker.protocol import encode_frame
from helpers.commands import stored_events
from helpers.waiting import SECONDS
from worker.jobs import send_job

if os.name == "nt":
    pytest.skip("platform: the pipes are those of a POSIX system", allow_module_level=True)


def receive_kinds(worker):
    """Receive reports until `done` or until the worker has ended; return their kinds."""
    kinds, deadline = [], time.monotonic() + SECONDS
    while "done" not in kinds and not worker.ended and time.monotonic() < deadline:
        kinds += [report["report"] for _, report in receive([worker], deadline) if report["report"] != "alive"]
    return kinds


@pytest.fixture
def spawn():
    """Return a function that starts a worker whose process runs some code.

    The function returns the worker, and the process's ends of the pipes for jobs and for reports.
    """
    made = []

    def make(code="import time; time.sleep(1000)"):
        jobs, to_worker, from_worker, reports = system.make_pipes()
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(jobs), str(reports)], pass_fds=(jobs, reports), start_new_session=True
        )
        worker = Worker(process.pid, to_worker, from_worker, process)
        made.append((worker, jobs, reports))
        return worker, jobs, reports

    yield make
    for worker, jobs, reports in made:
        worker.kill()
        for fd in (jobs, reports):
            try:
                os.close(fd)
            except OSError:
                pass


def test_worker_runs_jobs_until_it_is_asked_to_exit(here):
    worker = Worker.spawn()
    worker.send(send_job(), deadline=time.monotonic() + SECONDS)
    assert receive_kinds(worker) == ["taken", "begin", "result", "done"]
    worker.send(send_job(sending="t"), deadline=time.monotonic() + SECONDS)
    assert receive_kinds(worker) == ["taken", "begin", "result", "done"]
    worker.finish(SECONDS)
    assert worker.ended == "it was asked to end"
    assert len(stored_events()) == 2
    worker.finish(SECONDS)
    worker.kill()
    assert worker.read() == worker.check() == []


@pytest.mark.skipif(sys.platform != "linux", reason="platform: the command forks on Linux only")
def test_forked_worker_never_continues_as_the_command(here):
    code = (
        "import os, sys, time; from event._worker import Worker; from event._worker import child\n"
        "child.main = lambda *fds: 1 / 0\n"
        "worker = Worker.fork()\n"
        "while not worker.ended: worker.check()\n"
        "print(worker.ended)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("its process ended with status 1\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="platform: the command forks on Linux only")
def test_command_knows_the_process_of_a_forked_worker(monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
    monkeypatch.setattr(os, "fork", lambda: process.pid)
    worker = Worker.fork()
    assert worker.pid == process.pid
    worker.kill()
    assert worker.ended == "it was ended"
    process.returncode = -9


@pytest.mark.skipif(sys.platform != "linux", reason="platform: the command forks on Linux only")
def test_forked_process_only_runs_jobs(monkeypatch):
    from event._worker import child

    calls = []
    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(child, "main", lambda *args: calls.append(args))
    assert Worker.fork() is None
    ((jobs, reports, command),) = calls
    assert command == os.getpid()
    os.close(jobs)
    os.close(reports)


@pytest.mark.skipif(sys.platform != "linux", reason="platform: the command forks on Linux only")
def test_forked_process_exits_after_an_error(monkeypatch):
    from event._worker import child

    def fail(jobs, reports, command):
        os.close(jobs)
        os.close(reports)
        raise RuntimeError

    statuses = []
    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(child, "main", fail)
    assert Worker.fork() is None
    assert statuses == [1]


def test_failed_start_leaks_no_descriptor(monkeypatch):
    def refuse(*args, **kwargs):
        raise BlockingIOError(11, "no more processes")

    before = os.listdir("/dev/fd")
    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(spawning, "Popen", refuse)
    for start in (Worker.fork, Worker.spawn):
        with pytest.raises(BlockingIOError):
            start()
    pipes = iter([os.pipe()])
    monkeypatch.setattr(os, "pipe", lambda: next(pipes, None) or refuse())
    with pytest.raises(BlockingIOError):
        system.make_pipes()
    assert os.listdir("/dev/fd") == before


def test_pipes_of_a_process_without_standard_streams_avoid_their_descriptors():
    code = "import os\nfor fd in 0, 1, 2: os.close(fd)\nfrom event._worker.system import make_pipes\n"
    code += "assert min(make_pipes()) > 2"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param("import os; os._exit(7)", "its process ended with status 7", id="exit"),
        pytest.param("import os; os.kill(os.getpid(), 9)", "its process ended with SIGKILL", id="signal"),
        pytest.param("import os; os.kill(os.getpid(), 40)", "its process ended with signal 40", id="real-time signal"),
        pytest.param(
            "import os, sys, time; os.close(int(sys.argv[2])); time.sleep(1000)",
            "it closed its connection",
            id="closed",
        ),
        pytest.param(
            "import os, sys, time; os.write(int(sys.argv[2]), b'garbage!' * 99); time.sleep(1000)",
            "it sent an invalid report (a frame of 1734439522 and 1634166049 bytes)",
            id="garbage",
        ),
    ],
)
def test_worker_reports_why_it_stopped(spawn, code, reason, monkeypatch):
    monkeypatch.setattr(parent, "_KILL_TIMEOUT", 0.1 if "closed" in reason else SECONDS)
    worker, _, reports = spawn(code)
    os.close(reports)
    assert receive_kinds(worker) == []
    assert worker.ended == reason


def test_both_ends_of_a_pipe_avoid_the_standard_streams(monkeypatch):
    from event._process import signals

    pipes = iter([(0, 7), (8, 2)])
    monkeypatch.setattr(os, "pipe", lambda: next(pipes))
    monkeypatch.setattr(signals, "above_standard", lambda fd: fd + 100)
    assert system.make_pipes() == (100, 7, 8, 102)


def test_last_reports_are_read_if_another_process_holds_the_pipe_open(spawn):
    frame = encode_frame({"report": "result", "id": 0})
    worker, _, _ = spawn(f"import os, sys; os.write(int(sys.argv[2]), {frame!r})")
    assert receive_kinds(worker) in (["result"], ["result", "alive"])
    receive_kinds(worker)
    assert worker.ended == "its process ended with status 0"


def test_report_of_an_earlier_job_is_ignored(spawn):
    worker, _, reports = spawn()
    worker.send({"job": "x"}, deadline=time.monotonic() + SECONDS)
    os.write(reports, encode_frame({"report": "done", "id": 0}) + encode_frame({"report": "done", "id": 1}))
    ((_, report),) = receive([worker], time.monotonic() + SECONDS)
    assert report == {"report": "done", "id": 1}


def test_receive_returns_at_its_deadline(spawn):
    worker, _, _ = spawn()
    assert receive([worker], time.monotonic() + 0.1) == []
    assert receive([worker], 0.0) == []
    worker.kill()
    assert receive([worker], time.monotonic() + SECONDS) == []


def test_receive_returns_during_a_flood_of_reports(spawn, monkeypatch):
    monkeypatch.setattr(parent, "_MAX_READS", 1)
    worker, _, reports = spawn()
    frame = encode_frame({"report": "log", "id": 0, "text": "x" * 30_000})
    os.write(reports, frame * 2)
    assert len(receive([worker], time.monotonic() + SECONDS)) == 2


def test_worker_that_does_not_read_its_job_is_killed(spawn):
    worker, _, _ = spawn()
    worker.send({"job": "x" * 1_000_000}, deadline=time.monotonic() + 0.05)
    assert worker.ended == "it did not take its job in time"


def test_last_reports_are_read_after_a_job_could_not_be_sent(spawn):
    worker, jobs, reports = spawn("pass")
    os.write(reports, encode_frame({"report": "log", "id": 1, "text": "the last"}))
    os.close(jobs)
    worker.send({"job": "x" * 1_000_000}, deadline=time.monotonic() + SECONDS)
    assert worker.ended == ""
    ((_, report),) = receive([worker], time.monotonic() + SECONDS)
    assert report["text"] == "the last"
    assert receive([worker], time.monotonic() + SECONDS) == []
    assert worker.ended.startswith("its process ended")


def test_kill_ends_the_child_processes_of_a_worker():
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    code = f"import os, time; os.fork(); os.write({writer}, b'x'); time.sleep(1000)"
    jobs, to_worker, from_worker, reports = system.make_pipes()
    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=(writer,), start_new_session=True)
    worker = Worker(process.pid, to_worker, from_worker, process)
    os.close(writer)
    assert os.read(reader, 1) + os.read(reader, 1) == b"xx"
    worker.kill()
    assert os.read(reader, 1) == b""  # both processes have ended
    for fd in (reader, jobs, reports):
        os.close(fd)


def test_kill_returns_even_if_the_process_does_not_end(spawn, monkeypatch):
    """A process that waits for a failed disk cannot be killed."""
    worker, _, _ = spawn()
    monkeypatch.setattr(parent, "_KILL_TIMEOUT", 0.01)
    with monkeypatch.context() as patched:
        patched.setattr(os, "killpg", lambda *args: None)
        patched.setattr(os, "kill", lambda *args: None)
        worker.kill("it did not answer")
    assert worker.ended == "it did not answer"
    os.killpg(worker.pid, signal.SIGKILL)
    os.waitpid(worker.pid, 0)


def test_process_with_an_unknown_exit_status_counts_as_ended(spawn, monkeypatch):
    worker, _, _ = spawn("pass")
    monkeypatch.setattr(os, "waitpid", lambda *args: (_ for _ in ()).throw(ChildProcessError()))
    receive_kinds(worker)
    assert worker.ended == "its process ended with status 0"
    monkeypatch.undo()
    os.waitpid(worker.pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="platform: only Linux reports the memory of a process")
def test_worker_above_its_memory_limit_is_killed(spawn, monkeypatch):
    monkeypatch.setattr(system, "MEMORY_LIMIT", 1 << 20)
    worker, _, _ = spawn()
    receive_kinds(worker)
    assert worker.ended.startswith("it used ")
    assert worker.ended.endswith(" MiB of memory")


def test_ended_process_uses_no_memory():
    assert system.memory_of(-1) == 0
    assert system.memory_limit() <= system.MEMORY_LIMIT


@pytest.mark.parametrize("flag", ["-I", "-S"])
def test_new_interpreter_has_the_flags_of_its_parent(flag):
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from event._worker import Worker, spawning\n"
        "def show(command, **_options): print(command[1]); raise OSError\n"
        "spawning.Popen = show\n"
        "try: Worker.spawn()\n"
        "except OSError: pass"
    )
    done = subprocess.run([sys.executable, flag, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{flag}\n"


def test_package_exports_the_documented_names():
    import event._worker as room

    assert room.Worker is Worker
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        room.nothing  # noqa: B018
