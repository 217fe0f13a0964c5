"""``e3-event relay``: signals, closed streams, an unusable outbox and a full disk."""

from __future__ import annotations

import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest

from cli.outboxes import ids
from cli.processes import children_of
from cli.relays import RELAYED, both, publish, uids
from helpers.commands import TO_FILES, handler_source
from helpers.waiting import has_ended, wait_until

pytestmark = pytest.mark.server

# Code that sets how long, in seconds, further signals count as one with the first.
SAME_REQUEST = "from event._process import shutdown; shutdown.SAME_REQUEST = {}"


# Shutdown.


def test_stopping_delivers_due_entries(broker, relaying, here, plugin):
    held = "import os, time\n        while not os.path.exists('go'): time.sleep(0.02)\n        time.sleep(0.2)"
    plugin("held", handler_source(f"{held}; return True"))
    names = [f"n{number}" for number in range(8)]
    publish(broker, *names)
    process = relaying("--outbox", "ob", "--handler", "held", *TO_FILES)
    wait_until(lambda: len({*ids(), *ids(state="claimed")}) == len(names), "all are in the outbox")
    process.signal(signal.SIGTERM)
    (here / "go").touch()
    assert process.end() == 0
    assert ids() == ids(state="claimed") == []
    assert uids() == [f"u-{name}" for name in names]
    assert process.lines[-1] == RELAYED.format(8)


@both
def test_stopping_a_direct_relay_requeues_events_not_started(broker, relaying, plugin):
    names = [f"n{number}" for number in range(8)]
    plugin("slow", handler_source("import time, pathlib; pathlib.Path('begun').touch(); time.sleep(1); return True"))
    publish(broker, *names)
    process = relaying("--handler", "slow")
    wait_until(lambda: pathlib.Path("begun").exists(), "the handler has begun")
    assert process.end(signal.SIGTERM) == 0
    relayed = int(process.lines[-1].split()[2])
    assert 1 <= relayed <= 8
    wait_until(lambda: broker.size() == 8 - relayed, "the other events are requeued")


@both
def test_second_signal_ends_the_relay_and_requeues_the_event(broker, relaying, plugin):
    plugin("hung", handler_source("import time, pathlib; pathlib.Path('begun').touch(); time.sleep(300)"))
    publish(broker, "a", "b")
    process = relaying("--handler", "hung", "--timeout", "300", patch=SAME_REQUEST.format(0.0))
    wait_until(lambda: pathlib.Path("begun").exists(), "the handler has begun")
    process.signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.popen.wait(0.5)
    assert process.end(signal.SIGINT) == 130
    wait_until(lambda: broker.size() == 2, "both are requeued")


def test_signal_sent_twice_at_once_counts_once(broker, relaying, plugin):
    """`timeout` sends its signal to the process, and then to its group."""
    plugin("slow", handler_source("import time, pathlib; pathlib.Path('begun').touch(); time.sleep(1); return True"))
    publish(broker, "a")
    process = relaying("--handler", "slow", patch=SAME_REQUEST.format(600.0))
    wait_until(lambda: pathlib.Path("begun").exists(), "the handler has begun")
    process.signal(signal.SIGTERM)
    process.signal(signal.SIGTERM)
    assert process.end() == 0
    assert process.lines[-1] == RELAYED.format(1)


WRITES_PID = "import os, pathlib; pathlib.Path('pid').write_text(str(os.getpid())); "


def worker_pid():
    """Wait until the handler has written the process id of its worker; return it."""
    pid = pathlib.Path("pid")
    return int(wait_until(lambda: pid.exists() and pid.read_text("utf-8"), "the handler has begun"))


@pytest.mark.parametrize(("first", "second"), [("SIGTERM", "SIGINT"), ("SIGINT", "SIGTERM")])
def test_second_signal_ends_the_worker_and_keeps_the_event(broker, relaying, plugin, first, second):
    plugin("hung", handler_source(WRITES_PID + "import time; time.sleep(300)"))
    publish(broker, "a")
    patch = SAME_REQUEST.format(0.0)
    process = relaying("--outbox", "ob", "--handler", "hung", "--timeout", "300", patch=patch)
    pid = worker_pid()
    process.signal(getattr(signal, first))
    with pytest.raises(subprocess.TimeoutExpired):
        process.popen.wait(0.5)
    assert process.end(getattr(signal, second)) == 130
    assert has_ended(pid)
    assert len(ids()) + len(ids(state="claimed")) == 1


def test_signal_to_the_worker_is_ignored(broker, relaying, plugin):
    plugin("slow", handler_source(WRITES_PID + "import time; time.sleep(1); return True"))
    publish(broker, "a")
    process = relaying("--outbox", "ob", "--handler", "slow", *TO_FILES, start_new_session=True)
    pid = worker_pid()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    os.killpg(process.popen.pid, signal.SIGTERM)
    assert process.end() == 0
    assert process.lines[-1] == RELAYED.format(1)
    assert (uids(), ids(state="claimed")) == (["u-a"], [])


def test_worker_of_a_killed_relay_ends_after_its_delivery(broker, relaying, plugin):
    plugin("slow", handler_source(WRITES_PID + "import time; time.sleep(2); return True"))
    publish(broker, "a", "b", "c", "d")
    process = relaying("--outbox", "ob", "--handler", "slow")
    pid = worker_pid()
    wait_until(lambda: len(ids(state="claimed")) == 4, "all entries are claimed")
    process.end(signal.SIGKILL)  # and wait until the worker too has closed stderr
    wait_until(lambda: has_ended(pid), "the worker has ended")
    assert len(ids()) < 4  # the event that the handler had is delivered
    assert ids(state="claimed") == []


# Closed streams and a full disk.


@pytest.mark.parametrize(
    ("closed", "outbox"),
    [
        pytest.param("0<&-", ["--outbox", "ob"], id="stdin"),
        pytest.param("2>&-", ["--outbox", "ob"], id="stderr"),
        pytest.param("0<&- 1>&- 2>&-", ["--outbox", "ob"], id="all"),
        pytest.param("0<&- 1>&- 2>&-", [], id="all, no outbox"),
    ],
)
def test_relay_works_with_closed_streams(broker, here, closed, outbox):
    publish(broker, "a")
    command = [sys.executable, "-m", "event", "relay", "env:BROKER", "--queue", broker.name, *outbox, *TO_FILES]
    process = subprocess.Popen(["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *command], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: uids() == ["u-a"], "the event is delivered")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert broker.size() == 0


@both
def test_nothing_is_acknowledged_while_the_outbox_is_unusable(broker, relaying, here):
    (here / "ob").write_text("in the way", "utf-8")
    publish(broker, "a", "b")
    process = relaying("--outbox", "ob", *TO_FILES)
    process.line("receiving is paused: ")
    assert process.end(signal.SIGTERM) == 0
    assert process.lines[-1] == RELAYED.format(0)
    wait_until(lambda: broker.size() == 2, "the broker still has both")
    process = relaying("--outbox", "ob", *TO_FILES)
    process.line("receiving is paused: ")
    (here / "ob").unlink()
    wait_until(lambda: uids() == ["u-a", "u-b"], "both are delivered after the repair")
    assert process.end(signal.SIGTERM) == 0
    assert broker.size() == 0


@both
def test_nothing_is_acknowledged_while_the_disk_is_full(broker, relaying, here):
    attachment = here / "log"
    attachment.write_bytes(b"x" * 50_000)
    process = relaying("--outbox", "ob", *TO_FILES)
    publish(broker, "a")
    wait_until(lambda: uids() == ["u-a"], "the event is delivered")
    (worker,) = children_of(process.popen.pid)
    limits = resource.prlimit(worker, resource.RLIMIT_FSIZE)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (1000, limits[1]))
    publish(broker, "b", attachment=attachment)
    assert "File too large" in process.line("receiving is paused: ")
    # Reading the file server's clock puts a file there too, for a moment.
    wait_until(lambda: os.listdir("ob/tmp") == [], "the incomplete entry is removed")
    publish(broker, "c")
    resource.prlimit(worker, resource.RLIMIT_FSIZE, limits)
    wait_until(lambda: uids() == ["u-a", "u-b", "u-c"], "all are delivered when there is space")
    assert (here / "events" / "b-u-b" / "log").read_bytes() == attachment.read_bytes()
    assert process.end(signal.SIGTERM) == 0
    assert broker.size() == 0
