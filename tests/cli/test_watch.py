"""``e3-event deliver --watch``."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from cli.outboxes import ids, make_due, put_waiting, unblock
from cli.processes import started
from helpers.commands import handler_source
from helpers.waiting import wait_until

if os.name == "nt":
    pytest.skip("platform: the signals are those of a POSIX system", allow_module_level=True)

# With the usual intervals, each of these tests would take seconds.
SHORT_INTERVALS = """
from event._cli import deliver
from event._worker import deliver_job
deliver._SIGNAL_CHECK_INTERVAL = deliver_job.POLL = 0.02
"""


@contextmanager
def watching(*options, patch="", status=0):
    """Run ``deliver --watch``. At the end, stop it with SIGTERM if it still runs, and check its status."""
    with started("deliver", "ob", "--watch", *options, patch=SHORT_INTERVALS + patch) as watch:
        yield watch
        assert watch.end(signal.SIGTERM) == status


BUSY = """import pathlib, time
        pathlib.Path('begun').touch()
        while not pathlib.Path('go').exists():
            time.sleep(0.01)
        return True"""


@pytest.fixture
def busy(command, plugin):
    """Put an event for a handler that returns when the file ``go`` exists."""
    command("send", "n", "--outbox", "ob", "--handler", "busy=1")
    plugin("busy", handler_source(BUSY))


def wait_until_busy():
    wait_until(pathlib.Path("begun").exists, "the handler has the event")


@pytest.mark.parametrize(
    ("number", "status"), [pytest.param("SIGTERM", 0, id="SIGTERM"), pytest.param("SIGINT", 130, id="SIGINT")]
)
def test_signal_ends_watch_after_the_current_delivery(busy, number, status):
    with watching("--all", status=status) as watch:
        wait_until_busy()
        watch.signal(getattr(signal, number))
        time.sleep(0.2)  # enough for a wrong exit; a right one waits for the handler
        assert watch.popen.poll() is None
        pathlib.Path("go").touch()
        watch.popen.wait(60)
    (line,) = watch.lines
    assert "busy: delivered" in line
    assert ids() == ids(state="claimed") == []


def test_second_signal_aborts_the_delivery_and_keeps_the_event(busy):
    # The second signal counts even if it arrives at once. A busy machine has enough time to release the entry.
    patch = "from event._process import shutdown\nfrom event._worker import supervisor\n"
    patch += "shutdown.SAME_REQUEST = 0.0\nsupervisor._RELEASE_TIMEOUT = 60.0"
    with watching("--all", patch=patch, status=130) as watch:
        wait_until_busy()
        watch.signal(signal.SIGINT)
    assert (len(ids()), ids(state="claimed")) == (1, [])


def test_watch_delivers_new_and_due_entries(command):
    """The outbox does not exist at first."""
    with watching() as watch:
        (first,) = put_waiting("first")
        unblock()
        assert command("outbox", "retry", first, "--outbox", "ob")[0] == 0
        watch.line("first: file: delivered")
        (second,) = put_waiting("second", handlers=[("file", "later")])
        unblock("later")
        make_due(second)
        watch.line("second: file: delivered")
    assert len(watch.lines) == 2


# Writes a byte to a file whenever the outbox is scanned.
COUNT_SCANS = """
from event._outbox import Outbox
candidates = Outbox.candidates
def count_and_scan(*args, **kwargs):
    with open("scans", "a") as file:
        file.write("x")
    return candidates(*args, **kwargs)
Outbox.candidates = count_and_scan
"""


def test_watch_survives_a_temporarily_unusable_outbox(command, here):
    (first,) = put_waiting("first")
    os.rename("ob/tmp", "away")
    pathlib.Path("ob/tmp").write_text("in the way", "utf-8")
    with watching("--all", patch=COUNT_SCANS) as watch:
        wait_until(lambda: (here / "scans").exists() and (here / "scans").stat().st_size > 2, "the third scan")
        os.remove("ob/tmp")
        os.rename("away", "ob/tmp")
        unblock()
        assert command("outbox", "retry", first, "--outbox", "ob")[0] == 0
        watch.line("first: file: delivered")
    problem, _ = watch.lines  # which is printed only once
    assert "not a directory" in problem


def test_watch_delivers_entries_of_a_dead_process(here):
    code = (
        "import event, time; from event._outbox import Outbox; put = Outbox('ob').put; "
        "put(event.Event('waits'), {'file': 'events'}).postpone(0); put(event.Event('n'), {'file': 'events'}); "
        "print('put', flush=True); time.sleep(300)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"put\n"
            with watching() as watch:
                watch.line("waits: file: delivered")
                other.kill()
                watch.line("n: file: delivered")
        finally:
            other.kill()
    assert len(watch.lines) == 2


def test_watch_with_all_tries_each_entry_that_is_not_due_once(here):
    put_waiting("stuck")
    with watching("--all") as watch:
        watch.line("stuck: file: not a directory")
        (other,) = put_waiting("other", handlers=[("file", "later")])
        unblock("later")
        make_due(other)
        watch.line("other: file: delivered")
    assert len(watch.lines) == 2
