"""Sending one event, as the command sees it: a result for each handler, in time, whatever the handlers' code does."""

from __future__ import annotations

import os
import pathlib
import time

import pytest

from event._event import Event, raw_content
from event._outbox import Outbox
from event._worker import EventSender, Worker, sending
from event._worker.results import Result
from helpers.commands import handler_source, stored_events
from worker.staging import Stage

if os.name == "nt":
    pytest.skip("platform: the handlers end their process as on a POSIX system", allow_module_level=True)

FILE = ("file", "events")


def content(name="n"):
    event = Event(name, uid="u")
    event.close()
    return raw_content(event)


@pytest.fixture
def sender(here):
    """Make a sender; what it logs is in `sender.logged`."""
    made = []

    def make(*handlers, outbox=None, timeout=60.0, worker=None):
        logged = []
        one = EventSender(handlers, outbox=outbox, timeout=timeout, log=logged.append, worker=worker)
        one.logged = logged
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def send(sender, **values):
    return sender.send(content(), **{"sending": "s", **values})


def summary(sent):
    return [(result.handler, result.ok, result.error) for result in sent.results]


def waiting():
    return [entry for _, entry in Outbox("outbox").entries()]


def test_worker_serves_one_event_after_another(sender):
    one = sender(FILE)
    assert summary(send(one)) == [("file", True, "")]
    (first, sent) = (one._worker, send(one, sending="t"))
    assert summary(sent) == [("file", True, "")]
    assert one._worker is first
    assert len(stored_events()) == 2


def test_existing_worker_is_reused_and_prepares(sender):
    worker = Worker.spawn()
    one = sender(FILE, worker=worker)
    one.prepare()
    assert send(one).results[0].ok
    assert one._worker is worker


def test_dead_worker_is_replaced_before_the_next_event(sender):
    worker = Worker.spawn()
    one = sender(FILE, worker=worker)
    worker.kill()
    assert send(one).results[0].ok
    sender(FILE).prepare()  # without a worker there is nothing to prepare


def test_each_handler_fails_if_no_worker_can_be_started(sender, monkeypatch):
    def refuse():
        raise OSError(11, "no more processes")

    monkeypatch.setattr(Worker, "spawn", refuse)
    sent = send(sender(FILE, ("logging", "")))
    assert summary(sent) == [
        (name, False, "no worker can be started: no more processes") for name in ("file", "logging")
    ]


@pytest.fixture
def no_workers(monkeypatch):
    def refuse():
        raise OSError(11, "no more processes")

    monkeypatch.setattr(Worker, "spawn", refuse)


@pytest.mark.usefixtures("no_workers")
def test_event_is_kept_if_no_worker_can_be_started(sender, here):
    (here / "log").write_text("x")
    one = sender(FILE, ("logging@failure", ""), outbox="outbox")
    sent = send(one, attach=[("log", "log"), ("none", "none")])
    reason = "no worker can be started: no more processes"
    assert summary(sent) == [("file", False, reason), ("logging@failure", True, "")]
    assert sent.kept
    (entry,) = waiting()
    assert ([*entry.pending], [*entry.event.get_attachments()]) == (["file"], ["log"])
    assert len(one.logged) == 1
    assert "cannot attach 'none'" in one.logged[0]


@pytest.mark.usefixtures("no_workers")
def test_event_for_no_handler_is_not_kept_if_no_worker_can_be_started(sender):
    sent = send(sender(("logging@failure", ""), outbox="outbox"))
    assert (summary(sent), sent.kept) == ([("logging@failure", True, "")], False)


@pytest.mark.usefixtures("no_workers")
def test_event_whose_file_is_missing_is_kept_if_no_worker_can_be_started(sender):
    one = sender(FILE, outbox="outbox")
    sent = send(one, attach=[("none", "none")])
    assert (sent.not_attached, sent.kept, one.logged) == (
        ["none"],
        True,
        ["cannot attach 'none' to event n (u): no such file"],
    )


@pytest.mark.usefixtures("no_workers")
def test_log_explains_a_lost_event_if_no_worker_can_be_started(sender, here):
    (here / "file").write_text("in the way")
    one = sender(FILE, outbox="file/outbox")
    assert not send(one).kept
    (line,) = one.logged
    assert line.startswith("the event cannot be kept in the outbox file/outbox: not a directory: ")


@pytest.mark.usefixtures("no_workers")
def test_unexpected_error_while_the_event_is_kept_without_a_worker_is_logged(sender, monkeypatch):
    monkeypatch.setattr("event._worker.send_job.store", None)
    one = sender(FILE, outbox="outbox")
    assert not send(one).kept
    assert "the event cannot be kept in the outbox outbox: TypeError" in one.logged[0]


def test_handlers_without_a_report_after_a_crash_get_a_worker_each(sender, plugin):
    plugin("crash", handler_source("import os; os._exit(3)"))
    one = sender(("crash", ""), FILE, ("crash:b", ""), outbox="outbox")
    sent = send(one)
    assert summary(sent) == [
        ("crash", False, "its process ended with status 3"),
        ("file", True, ""),
        ("crash:b", False, "its process ended with status 3"),
    ]
    assert (sent.kept, len(stored_events()), one._worker) == (True, 1, None)
    (entry,) = waiting()
    assert ([*entry.pending], entry.last_error) == (["crash", "crash:b"], "its process ended with status 3")


# One that is under way when its worker is killed, and delivers in the next one; and one that waits for that.
UNDER_WAY = """import os, threading
        if not os.path.exists('under way'):
            open('under way', 'w').close()
            threading.Event().wait()
        open('delivered', 'w').close()
        return True"""
WHEN_IT_IS = "import os, signal, time\n        while not os.path.exists('under way'): time.sleep(0.01)\n        "


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        pytest.param("os._exit(3)", "its process ended with status 3", id="it crashes"),
        pytest.param("os.kill(os.getpid(), signal.SIGSTOP)", "not done within 12 s", id="it stops"),
    ],
)
def test_running_handler_of_a_dead_worker_delivers_in_another(sender, plugin, end, reason):
    plugin("fine", handler_source(UNDER_WAY))
    plugin("hostile", handler_source(WHEN_IT_IS + end), dist="acme_other")
    assert summary(send(sender(("fine", ""), ("hostile", ""), timeout=12.0))) == [
        ("fine", True, ""),
        ("hostile", False, reason),
    ]
    assert os.path.exists("delivered")


def test_handler_that_crashes_alone_is_tried_once(sender, plugin):
    plugin("crash", handler_source("open('tries', 'a').write('x'); import os; os._exit(3)"))
    assert summary(send(sender(("crash", "")))) == [("crash", False, "its process ended with status 3")]
    assert pathlib.Path("tries").read_text() in ("x", "")


def test_silent_worker_is_replaced_and_other_handlers_deliver(sender, plugin):
    plugin("stops", handler_source("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"))
    sent = send(sender(("stops", ""), FILE, timeout=8.0))
    assert summary(sent) == [("stops", False, "not done within 8 s"), ("file", True, "")]
    assert sent.results[0].timed_out


def test_handler_that_hangs_alone_is_killed_and_stays_pending(sender, plugin):
    plugin("hangs", handler_source("__import__('threading').Event().wait()"))
    sent = send(sender(("hangs", ""), outbox="outbox", timeout=3.0))
    assert summary(sent) == [("hangs", False, "not done within 3 s")]
    assert sent.kept
    assert len(waiting()) == 1


def test_worker_with_a_hung_handler_takes_no_other_event(sender, plugin):
    plugin("hangs", handler_source("__import__('threading').Event().wait()"))
    one = sender(("hangs", ""), FILE, timeout=3.0)
    assert [ok for _, ok, _ in summary(send(one))] == [False, True]
    assert one._worker is None


def test_handler_without_a_thread_runs_in_its_own_worker(sender, plugin):
    source = 'def no(*args): raise RuntimeError("can\'t start new thread")\n'
    source += "import threading; threading.Thread.start = no\n"
    plugin("thief", handler_source() + source)
    one = sender(("thief", ""), *((f"file:{n}", f"events{n}") for n in range(4)), outbox="outbox")
    assert all(ok for _, ok, _ in summary(send(one)))
    assert waiting() == []


def test_unusable_outbox_is_logged_and_the_event_sent_directly(sender, here):
    (here / "file").write_text("in the way")
    one = sender(FILE, outbox="file/outbox")
    sent = send(one)
    assert (summary(sent), sent.kept) == ([("file", True, "")], False)
    (line,) = one.logged
    assert line.startswith(
        "the event cannot be kept in the outbox file/outbox and is sent without it: not a directory: "
    )


def test_hung_outbox_is_logged_and_the_event_sent_directly(sender, here, plugin, tmp_path):
    plugin("good", handler_source())
    site = pathlib.Path(os.environ["PYTHONPATH"])
    (site / "sitecustomize.py").write_text("import os, threading\nos.fsync = lambda fd: threading.Event().wait()\n")
    one = sender(("good", ""), outbox="outbox", timeout=6.0)
    sent = send(one)
    assert (summary(sent), sent.kept) == ([("good", True, "")], False)
    assert "it did not answer within 3." in one.logged[0]


def test_entry_stays_claimed_if_journaling_hangs(sender, plugin, monkeypatch):
    plugin("crash", handler_source("import os; os._exit(3)"))
    monkeypatch.setattr(sending, "RESUME_TIMEOUT", 0.0)
    assert send(sender(("crash", ""), outbox="outbox")).kept
    ((candidate, _),) = Outbox("outbox").entries()
    assert candidate.state == "claimed"


def test_entry_stays_claimed_if_no_worker_can_journal(sender, plugin, monkeypatch):
    plugin("crash", handler_source("import os; os._exit(3)"))
    worker = Worker.spawn()

    def refuse():
        raise OSError(11, "no more processes")

    monkeypatch.setattr(Worker, "spawn", refuse)
    assert send(sender(("crash", ""), outbox="outbox", worker=worker)).kept
    assert len(waiting()) == 1


def test_entry_claimed_by_another_process_is_not_reported_as_stored(sender, plugin):
    plugin("crash", handler_source("import os, shutil; shutil.rmtree('outbox'); os._exit(3)"))
    assert not send(sender(("crash", ""), outbox="outbox")).kept


def test_permanent_failure_is_stored_for_an_operator(sender, plugin):
    plugin("refuses", "from event import PermanentError\n" + handler_source("raise PermanentError('no such user')"))
    one = sender(("refuses", ""), outbox="outbox")
    sent = send(one)
    assert (sent.results[0].permanent, sent.kept) == (True, True)
    assert len(one.logged) == 1


def test_missing_file_is_logged(sender):
    one = sender(FILE, outbox="outbox")
    sent = send(one, attach=[("log", "gone")])
    assert (summary(sent), one.logged) == ([("file", True, "")], ["cannot attach 'gone' to event n (u): no such file"])
    assert sent.not_attached == ["log"]


def test_missing_file_is_logged_once_by_several_workers(sender, plugin):
    plugin("falls", handler_source("os._exit(3)"))
    one = sender(("falls", ""), FILE, outbox=None)
    sent = send(one, attach=[("log", "gone")])
    assert [result.ok for result in sent.results] == [False, True]
    assert sent.not_attached == ["log"]
    assert one.logged.count("cannot attach 'gone' to event n (u): no such file") == 1


def test_hurry_shortens_a_running_send(sender, plugin):
    plugin("hangs", handler_source("__import__('threading').Event().wait()"))
    one = sender(("hangs", ""), timeout=600.0)
    one.hurry(1.0)
    assert summary(send(one)) == [("hangs", False, "not done within 600 s")]
    one.hurry(None)
    assert one.latest > time.monotonic() + 600


def test_an_interrupt_ends_the_workers(sender, monkeypatch):
    workers = []

    def interrupt(serving, deadline):
        workers.extend(serving)
        raise KeyboardInterrupt

    monkeypatch.setattr(sending, "receive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        send(sender(FILE))
    assert [worker.ended for worker in workers] == ["it was ended"]


def test_a_report_with_wrong_types_counts_as_a_failure():
    odd = Result("h", {"ok": 1, "error": 2, "said": None, "seconds": "x", "permanent": "yes", "loaded": 0, "done": [1]})
    assert odd.as_dict() == {
        "done": [],
        "handler": "h",
        "ok": False,
        "error": "",
        "said": "",
        "seconds": 0.0,
        "permanent": False,
        "loaded": True,
        "skipped": False,
        "timed_out": False,
    }
    assert repr(odd) == "<Result h: not delivered>"
    assert repr(Result("h", {"ok": True})) == "<Result h: delivered>"
    assert Result("h", {"done": "no list"}).done == []
    assert Result("h", {"done": ["ann", None]}).done == ["ann"]


# Workers that the test plays.


def test_untried_handler_is_tried_alone_and_can_time_out(monkeypatch):
    stage = Stage(monkeypatch)

    def answer(worker):
        if len(stage.workers) == 2:
            worker.report("result", handler="other", ok=True)
            worker.report("result", handler="a", ok=False, timed_out=True, error="TimeoutError")
        worker.report("done")

    stage.on_spawn = answer
    one = EventSender((("a", ""),), outbox=None, timeout=60.0, log=print)
    sent = send(one)
    assert summary(sent) == [("a", False, "not done within 60 s")]
    assert sent.clean
    assert [worker.jobs[0]["alone"] for worker in stage.workers] == [True, True]


def test_file_that_several_workers_miss_is_listed_and_logged_once(monkeypatch):
    stage = Stage(monkeypatch)

    def answer(worker):
        worker.report("not_attached", name="log", text="it is gone")
        worker.report("not_attached", name="log", text="it is gone")
        worker.report("not_attached", name="other", text="")  # the worker has logged the reason
        worker.report("result", handler="a", ok=True)
        worker.report("done")

    stage.on_spawn = answer
    logged = []
    sent = send(EventSender((("a", ""),), outbox=None, timeout=60.0, log=logged.append))
    assert (sent.not_attached, logged) == (["log", "other"], ["it is gone"])
