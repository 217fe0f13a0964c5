"""No failing system call loses an event. A preloaded library makes each call of `send` and `deliver` fail once."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys

import pytest

from cli import failing

COMPILER = shutil.which("cc") if platform.libc_ver()[0] == "glibc" else None
ERRORS = ("EIO", "ESTALE", "EACCES", "EMFILE", "ENOMEM", "ENOSPC", "ETIMEDOUT")
CALLS = {"open", "close", "read", "write", "rename", "unlink", "rmdir", "opendir", "readdir64"}

pytestmark = [
    pytest.mark.server,  # it takes seconds
    pytest.mark.skipif(not COMPILER, reason="platform: the library needs Linux, glibc and a C compiler"),
]


def preloaded(directory):
    """Compile the library; return an environment in which calls for ``directory/failing`` can fail."""
    library, state = directory / "failing_calls.so", directory / "state"
    source = pathlib.Path(__file__).parents[1] / "helpers" / "failing_calls.c"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    state.write_bytes(bytes(failing.STATE.size))
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return env | {
        "LD_PRELOAD": str(library), "FAILING_DIRECTORY": str(directory / "failing"), "FAILING_STATE": str(state)
    }  # fmt: skip


def run_failing(directory, command, handler, form, errors):
    """Run a command once for each of its calls, which then fails; return the results."""
    env = preloaded(directory)
    arguments = [sys.executable, failing.__file__, directory, command, handler, form, ",".join(errors)]
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_no_event_is_lost(command, runs):
    for run in runs:
        assert run["damaged"] == [], run
        assert run["left"] == [], run
        assert len(run["deliveries"]) == 1, run
        assert run["files"] == 1, run
        assert "Traceback" not in run["stderr"], run
        if run["status"]:  # this `deliver` could not read the outbox; the next one has delivered the event
            assert (run["status"], command) == (1, "deliver"), run
            assert os.strerror(getattr(errno, run["error"])).lower() in run["stderr"].lower(), run
    assert len(runs) > 50


@pytest.mark.parametrize(("command", "handler"), [("send", "down"), ("deliver", "up")])
def test_failure_of_any_call_of_the_command_loses_no_event(tmp_path, command, handler):
    runs = run_failing(tmp_path, command, handler, "directory", ERRORS)
    assert_no_event_is_lost(command, runs)
    if handler == "up":
        assert {run["failed"] for run in runs} > CALLS


def test_attachment_that_fails_from_any_call_on_does_not_lose_its_event(tmp_path):
    """First the checksum reads the attachment, then the outbox copies it, then the handlers read the copy."""
    steps = set()
    for run in run_failing(tmp_path, "send", "up", "attachment", ERRORS):
        err = run["stderr"]
        step = "checksum" if "cannot attach" in err else "copy" if "is left out" in err else "handler"
        assert (len(run["deliveries"]), run["files"], run["left"]) == (1, 1, []), run
        assert run["not_attached"] == [None if step == "handler" else ["log"]], run
        assert "lost" not in err, run
        steps.add(step)
    assert steps == {"checksum", "copy", "handler"}


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("form", ["file", "directory"])
@pytest.mark.parametrize("handler", ["up", "down"])
@pytest.mark.parametrize("command", ["send", "deliver"])
def test_failure_of_any_call_with_any_error_loses_no_event(tmp_path, command, handler, form):
    runs = run_failing(tmp_path, command, handler, form, ("each", *ERRORS))
    assert_no_event_is_lost(command, runs)
