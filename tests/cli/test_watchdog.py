"""A process in which no thread can run is ended; any other is left alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

STUCK = "import re\nre.match('(a+)+$', 'a' * 60 + 'b')"  # in C, without end for all that is to be seen
SLOW = "import time\ntime.sleep(0.8)"


def run(work, patience=0.3, before=""):
    """Run work in a process, beneath a watchdog."""
    code = (
        f"import sys\nfrom event._cli import _watchdog\n"
        f"_watchdog._GRACE, _watchdog._PULSE = {patience}, 0.05\n{before}\n"
        f"with _watchdog.Watchdog(0.0):\n    exec({work!r})\nprint('done')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_a_process_in_which_no_thread_can_run_is_ended_and_tells_where_it_stood():
    done = run(STUCK)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Timeout (0:00:00.3" in done.stderr
    assert "re.py" in done.stderr or "re/__init__.py" in done.stderr


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("sys.stderr = None", id="none"),
        pytest.param("sys.stderr.close()", id="closed"),
        pytest.param("import os; os.close(2)", id="closed beneath"),
    ],
)
def test_it_is_ended_without_a_stderr_too(before):
    done = run(STUCK, before=before)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_process_that_waits_is_left_alone():
    done = run(SLOW)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_process_may_take_its_time_afterwards():
    done = run("pass\n", before="import atexit, re; atexit.register(re.match, '(a+)+$', 'a' * 24 + 'b')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
