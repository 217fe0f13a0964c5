"""The command's side of sending one event: each handler gets a result in time, even if its code hangs or crashes."""

from __future__ import annotations

import os
import pathlib

import pytest

from event._outbox import Outbox
from event._worker import EventSender, Worker, sending
from helpers.commands import handler_source, stored_events
from worker.jobs import send, summary

if os.name == "nt":
    pytest.skip("platform: the handlers end their process as on a POSIX system", allow_module_level=True)

FILE = ("file", "events")
TIMEOUT = 60.0  # no test waits for it
CRASHES = handler_source("import os; os._exit(3)")
CRASHED = "its process ended with status 3"
HANGS = handler_source("open('called', 'w').close(); __import__('threading').Event().wait()")
RECORDS_ITS_PROCESS = handler_source("import os; print(os.getpid(), file=open('pids', 'a')); return True")


@pytest.fixture
def make_sender(here, monkeypatch):
    """Return a function that makes a sender; its list `logged` gets the lines that it logs."""
    # On a busy machine, a worker may need more time to start.
    monkeypatch.setattr(sending, "RESUME_TIMEOUT", TIMEOUT)
    senders = []

    def make(*handlers, outbox=None, timeout=TIMEOUT, worker=None):
        logged = []
        sender = EventSender(handlers, outbox=outbox, timeout=timeout, log=logged.append, worker=worker)
        sender.logged = logged
        senders.append(sender)
        return sender

    yield make
    for sender in senders:
        sender.close()


@pytest.fixture
def after_receive(monkeypatch):
    """Return a function that sets a callback. The sender calls it with the reports whenever it has looked for some.

    A test can so end a wait when what it waits for has happened.
    """

    def set_callback(callback):
        receive = sending.receive

        def receive_and_call(workers, deadline):
            found = receive(workers, deadline)
            callback([report for _, report in found])
            return found

        monkeypatch.setattr(sending, "receive", receive_and_call)

    return set_callback


def entries():
    return [entry for _, entry in Outbox("outbox").entries()]


def states():
    return [candidate.state for candidate, _ in Outbox("outbox").entries()]


def worker_pids():
    """Return the process id of each call of a handler that records its process."""
    return [int(line) for line in pathlib.Path("pids").read_text().split()]


def refuse_workers(monkeypatch):
    def refuse():
        raise OSError(11, "no more processes")

    monkeypatch.setattr(Worker, "spawn", refuse)


# A worker serves several events.


def test_worker_serves_one_event_after_another(make_sender, plugin):
    plugin("pid", RECORDS_ITS_PROCESS)
    sender = make_sender(("pid", ""))
    for sending_id in "st":
        assert summary(send(sender, sending=sending_id)) == [("pid", True, "")]
    first, second = worker_pids()
    assert first == second


def test_existing_worker_is_used_for_preparing_and_sending(make_sender, plugin):
    plugin("pid", RECORDS_ITS_PROCESS)
    worker = Worker.spawn()
    sender = make_sender(("pid", ""), worker=worker)
    sender.prepare()
    assert send(sender).results[0].ok
    assert worker_pids() == [worker.pid]


def test_prepare_does_nothing_without_a_worker(make_sender):
    make_sender(FILE).prepare()


def test_dead_worker_is_replaced_before_the_next_event(make_sender):
    worker = Worker.spawn()
    sender = make_sender(FILE, worker=worker)
    worker.kill()
    assert send(sender).results[0].ok


# No worker can be started.


@pytest.fixture
def no_workers(monkeypatch):
    refuse_workers(monkeypatch)


@pytest.mark.usefixtures("no_workers")
def test_each_handler_fails_if_no_worker_can_be_started(make_sender):
    sent = send(make_sender(FILE, ("logging", "")))
    assert summary(sent) == [
        (name, False, "no worker can be started: no more processes") for name in ("file", "logging")
    ]


@pytest.mark.usefixtures("no_workers")
def test_event_is_kept_if_no_worker_can_be_started(make_sender, here):
    (here / "log").write_text("x")
    sender = make_sender(FILE, ("logging@failure", ""), outbox="outbox")
    sent = send(sender, attach=[("log", "log"), ("none", "none")])
    reason = "no worker can be started: no more processes"
    assert summary(sent) == [("file", False, reason), ("logging@failure", True, "")]
    assert sent.kept
    (entry,) = entries()
    assert ([*entry.pending], [*entry.event.get_attachments()]) == (["file"], ["log"])
    (line,) = sender.logged
    assert "cannot attach 'none'" in line


@pytest.mark.usefixtures("no_workers")
def test_event_for_no_handler_is_not_kept_if_no_worker_can_be_started(make_sender):
    sent = send(make_sender(("logging@failure", ""), outbox="outbox"))
    assert (summary(sent), sent.kept) == ([("logging@failure", True, "")], False)


@pytest.mark.usefixtures("no_workers")
def test_event_with_a_missing_file_is_kept_if_no_worker_can_be_started(make_sender):
    sender = make_sender(FILE, outbox="outbox")
    sent = send(sender, attach=[("none", "none")])
    assert (sent.not_attached, sent.kept) == (["none"], True)
    assert sender.logged == ["cannot attach 'none' to event n (u): no such file"]


@pytest.mark.usefixtures("no_workers")
def test_lost_event_is_logged_if_no_worker_can_be_started(make_sender, here):
    (here / "file").write_text("in the way")
    sender = make_sender(FILE, outbox="file/outbox")
    assert not send(sender).kept
    (line,) = sender.logged
    assert line.startswith("the event cannot be kept in the outbox file/outbox: not a directory: ")


@pytest.mark.usefixtures("no_workers")
def test_unexpected_error_while_storing_the_event_without_a_worker_is_logged(make_sender, monkeypatch):
    monkeypatch.setattr("event._worker.send_job.store", None)
    sender = make_sender(FILE, outbox="outbox")
    assert not send(sender).kept
    (line,) = sender.logged
    assert "the event cannot be kept in the outbox outbox: TypeError" in line


# Handlers that crash or hang.


def test_handlers_without_a_result_after_a_crash_get_separate_workers(make_sender, plugin):
    plugin("crash", CRASHES)
    sent = send(make_sender(("crash", ""), FILE, ("crash:b", ""), outbox="outbox"))
    assert summary(sent) == [("crash", False, CRASHED), ("file", True, ""), ("crash:b", False, CRASHED)]
    assert (sent.kept, len(stored_events())) == (True, 1)
    (entry,) = entries()
    assert ([*entry.pending], entry.last_error) == (["crash", "crash:b"], CRASHED)


# The first call of this handler hangs, and the next one delivers.
HANGS_ONCE = handler_source("""import os, threading
        if not os.path.exists("running"):
            open("running", "w").close()
            threading.Event().wait()
        open("delivered", "w").close()
        return True""")
WAITS_FOR_IT = """import os, signal, time
        while not os.path.exists("running"): time.sleep(0.01)
        """
STOPS_ITS_PROCESS = "open('stops', 'a').write('x'); import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"


@pytest.fixture
def no_wait_for_stopped_workers(after_receive, monkeypatch):
    """Return a function that lets a sender treat stopped workers as if their timeouts had passed.

    After the handler has stopped the first worker, silence of any length counts as a hang. After the handler has
    stopped its separate worker, too, and another handler has delivered, the sending ends.
    """

    def watch(sender):
        delivered = []

        def callback(reports):
            delivered.extend(report for report in reports if report.get("ok"))
            stops = os.path.getsize("stops") if os.path.exists("stops") else 0
            if stops:
                monkeypatch.setattr(sending, "SILENT_SHARE", 0.0)
            if stops == 2 and delivered:
                sender.hurry(0.0)

        after_receive(callback)
        return sender

    return watch


def test_running_handler_of_a_crashed_worker_delivers_in_another(make_sender, plugin):
    plugin("fine", HANGS_ONCE)
    plugin("crash", handler_source(WAITS_FOR_IT + "os._exit(3)"))
    sent = send(make_sender(("fine", ""), ("crash", "")))
    assert summary(sent) == [("fine", True, ""), ("crash", False, CRASHED)]
    assert os.path.exists("delivered")


def test_running_handler_of_a_stopped_worker_delivers_in_another(make_sender, plugin, no_wait_for_stopped_workers):
    plugin("fine", HANGS_ONCE)
    plugin("stop", handler_source(WAITS_FOR_IT + STOPS_ITS_PROCESS))
    sent = send(no_wait_for_stopped_workers(make_sender(("fine", ""), ("stop", ""))))
    assert summary(sent) == [("fine", True, ""), ("stop", False, "not done within 60 s")]
    assert os.path.exists("delivered")


def test_stopped_worker_is_replaced_and_other_handlers_deliver(make_sender, plugin, no_wait_for_stopped_workers):
    plugin("stop", handler_source(STOPS_ITS_PROCESS))
    sent = send(no_wait_for_stopped_workers(make_sender(("stop", ""), FILE)))
    assert summary(sent) == [("stop", False, "not done within 60 s"), ("file", True, "")]
    assert sent.results[0].timed_out
    assert os.path.getsize("stops") == 2  # it was tried again in a separate worker


def test_handler_that_crashes_alone_is_tried_once(make_sender, plugin):
    plugin("crash", handler_source("open('tries', 'a').write('x'); import os; os._exit(3)"))
    assert summary(send(make_sender(("crash", "")))) == [("crash", False, CRASHED)]
    assert pathlib.Path("tries").read_text() == "x"


@pytest.fixture
def hurry_when_called(after_receive):
    """Return a function that ends a sender's wait when the handler that hangs has been called."""

    def watch(sender):
        after_receive(lambda _: os.path.exists("called") and sender.hurry(0.0))
        return sender

    return watch


def test_handler_that_hangs_alone_is_killed_and_stays_pending(make_sender, plugin, hurry_when_called):
    plugin("hangs", HANGS)
    sent = send(hurry_when_called(make_sender(("hangs", ""), outbox="outbox")))
    assert summary(sent) == [("hangs", False, "not done within 60 s")]
    assert sent.kept
    assert states() == ["waiting"]  # another worker has released the claim of the killed one


def test_hurry_shortens_a_running_send(make_sender, plugin, hurry_when_called):
    plugin("hangs", HANGS)
    sender = hurry_when_called(make_sender(("hangs", ""), timeout=600.0))
    assert summary(send(sender)) == [("hangs", False, "not done within 600 s")]
    sender.hurry(None)
    assert sender.latest == float("inf")


def test_handler_without_a_thread_runs_in_its_own_worker(make_sender, plugin):
    source = 'def no(*args): raise RuntimeError("can\'t start new thread")\n'
    source += "import threading; threading.Thread.start = no\n"
    plugin("last_thread", handler_source() + source)
    files = [(f"file:{number}", f"events{number}") for number in range(4)]
    sent = send(make_sender(("last_thread", ""), *files, outbox="outbox"))
    assert all(ok for _, ok, _ in summary(sent))
    assert entries() == []


# The outbox fails.


def test_unusable_outbox_is_logged_and_the_event_sent_directly(make_sender, here):
    (here / "file").write_text("in the way")
    sender = make_sender(FILE, outbox="file/outbox")
    sent = send(sender)
    assert (summary(sent), sent.kept) == ([("file", True, "")], False)
    (line,) = sender.logged
    assert line.startswith(
        "the event cannot be kept in the outbox file/outbox and is sent without it: not a directory: "
    )


def test_hung_outbox_is_logged_and_the_event_sent_directly(make_sender, plugin, after_receive, monkeypatch):
    plugin("good", handler_source())
    site = pathlib.Path(os.environ["PYTHONPATH"])
    hang = "lambda fd: open('hangs', 'w').close() or threading.Event().wait()"
    (site / "sitecustomize.py").write_text(f"import os, threading\nos.fsync = {hang}\n")
    sender = make_sender(("good", ""), outbox="outbox")
    # When the outbox's disk hangs, its share of the timeout has passed.
    after_receive(lambda _: os.path.exists("hangs") and monkeypatch.setattr(sending, "OUTBOX_SHARE", 0.0))
    sent = send(sender)
    assert (summary(sent), sent.kept) == ([("good", True, "")], False)
    (line,) = sender.logged
    assert "it did not answer within " in line


def test_entry_stays_claimed_if_journaling_hangs(make_sender, plugin, monkeypatch):
    plugin("crash", CRASHES)
    sender = make_sender(("crash", ""), outbox="outbox")
    monkeypatch.setattr(sending, "RESUME_TIMEOUT", 0.0)
    assert send(sender).kept
    assert states() == ["claimed"]


def test_entry_stays_claimed_if_no_worker_can_journal(make_sender, plugin, monkeypatch):
    plugin("crash", CRASHES)
    worker = Worker.spawn()
    refuse_workers(monkeypatch)
    assert send(make_sender(("crash", ""), outbox="outbox", worker=worker)).kept
    assert states() == ["claimed"]


def test_event_is_not_reported_as_kept_after_the_outbox_was_deleted(make_sender, plugin):
    plugin("crash", handler_source("import os, shutil; shutil.rmtree('outbox'); os._exit(3)"))
    assert not send(make_sender(("crash", ""), outbox="outbox")).kept


def test_permanent_failure_is_stored_for_an_operator(make_sender, plugin):
    plugin("refuses", "from event import PermanentError\n" + handler_source("raise PermanentError('no such user')"))
    sender = make_sender(("refuses", ""), outbox="outbox")
    sent = send(sender)
    assert (sent.results[0].permanent, sent.kept, states()) == (True, True, ["failed"])
    assert len(sender.logged) == 1


# Files that can't be attached.


def test_missing_file_is_logged(make_sender):
    sender = make_sender(FILE, outbox="outbox")
    sent = send(sender, attach=[("log", "gone")])
    assert summary(sent) == [("file", True, "")]
    assert sender.logged == ["cannot attach 'gone' to event n (u): no such file"]
    assert sent.not_attached == ["log"]


def test_missing_file_is_logged_once_by_several_workers(make_sender, plugin):
    plugin("crash", CRASHES)
    sender = make_sender(("crash", ""), FILE)
    sent = send(sender, attach=[("log", "gone")])
    assert summary(sent) == [("crash", False, CRASHED), ("file", True, "")]
    assert sent.not_attached == ["log"]
    assert sender.logged == ["cannot attach 'gone' to event n (u): no such file"]


# Interrupts.


def test_interrupt_kills_the_workers(make_sender, monkeypatch):
    workers = []

    def interrupt(receiving, deadline):
        workers.extend(receiving)
        raise KeyboardInterrupt

    monkeypatch.setattr(sending, "receive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        send(make_sender(FILE))
    assert [worker.ended for worker in workers] == ["it was ended"]
