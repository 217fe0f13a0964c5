"""``e3-event deliver``, and what ``send`` keeps for it."""

from __future__ import annotations

import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from cli.outboxes import TRACED_ID, block, free, golden, ids, make_due, path_of, text_of, wait_for
from cli.relays import eventually
from event import Event, EventManager
from event._cli import deliver, main
from event._cli._support import terminal
from event._process import shutdown
from helpers.commands import TO_FILES, handler_source, stored_events
from servers.raw import raw_server
from servers.smtp import smtp_server

POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: POSIX signals and terminals")
SUMMARY = re.compile(r"e3-event deliver: (.*)")


def start(*args, **kwargs):
    """Start the command, to be watched and signalled."""
    env = {**os.environ, "PYTHONUTF8": "1"}
    return subprocess.Popen([sys.executable, "-m", "event", *args], env=env, encoding="utf-8", **kwargs)


# send


def test_undelivered_event_is_stored_and_reported(command):
    block()
    status, out, err = command("send", "n", "--uid", "u", "--outbox", "ob", *TO_FILES, "--handler", "file:b=other")
    assert (status, out, len(err)) == (0, ["u"], 2)
    assert err[0].startswith("file: ")
    assert err[0].endswith("; kept")
    assert err[1].startswith("file:b: delivered")
    assert len(ids()) == 1


def test_event_delivered_by_all_handlers_leaves_the_outbox_empty(command, monkeypatch):
    monkeypatch.setenv("E3_EVENT_OUTBOX", "ob")
    status, _, err = command("send", "n", *TO_FILES)
    assert (status, len(err)) == (0, 1)
    assert [sorted(os.listdir(f"ob/{state}")) for state in sorted(os.listdir("ob"))] == [[]] * 5


def test_a_handler_that_cannot_be_loaded_gets_its_event_later(command, plugin):
    status, out, err = command("send", "n", "--uid", "u", "--outbox", "ob", "--handler", "late=1", *TO_FILES)
    assert (status, out, len(err)) == (0, ["u"], 2)
    assert err[0].startswith("late: no handler is named 'late'")
    assert err[0].endswith("; not loaded (in --handler); kept")
    plugin("late", handler_source("import pathlib; return pathlib.Path('got').write_text(event.uid + self.config)"))
    status, _, err = command("deliver", "ob", "--all")
    assert (status, len(err)) == (0, 2)
    assert pathlib.Path("got").read_text("utf-8") == "u1"
    assert len(stored_events()) == 1


def test_event_is_stored_if_no_handler_loads(command):
    status, out, err = command("send", "n", "--uid", "u", "--outbox", "ob", "--handler", "late=1")
    assert (status, out) == (0, ["u"])
    assert "; kept" in err[0]
    assert len(ids()) == 1


def test_failing_outbox_is_reported_and_the_event_sent(command):
    pathlib.Path("ob").write_text("in the way", "utf-8")
    status, _, err = command("send", "n", "--outbox", "ob", "--handler", "late=1", *TO_FILES)
    assert (status, len(err)) == (1, 3)
    assert f"cannot be kept in the outbox {os.path.abspath('ob')} and is sent without it" in err[0]
    assert err[2].startswith("file: delivered")
    assert len(stored_events()) == 1


def test_log_of_a_handler_thread_is_a_separate_line(command, plugin):
    log = "logging.getLogger('event').warning"
    plugin(
        "busy",
        handler_source(
            f"import threading; t = threading.Thread(target=lambda: ({log}('%d', 'x'), {log}('late')));"
            "t.start(); t.join(); return True"
        ),
    )
    status, _, err = command("send", "n", "--handler", "busy")
    assert (status, err[:2]) == (0, ["%d", "late"])
    assert err[2].startswith("busy: delivered")


def test_long_reason_is_shortened_before_the_final_state(command, plugin):
    plugin("down", handler_source("raise OSError('x' * 9999)"))
    _, _, err = command("send", "n", "--outbox", "ob", "--handler", "down")
    assert err[0].endswith("xx; kept")


def test_permanently_refused_event_moves_to_failed(command, plugin):
    plugin("strict", handler_source("import event as e; raise e.error.PermanentError('no such board')"))
    status, _, err = command("send", "n", "--outbox", "ob", "--handler", "strict")
    assert status == 0
    assert "is no longer retried, and is kept in failed/: no such board" in err[0]
    assert err[1:] == ["strict: no such board; refused for good, kept"]
    assert len(ids(state="failed")) == 1


def test_permanent_and_temporary_failure_are_reported_differently(command, plugin):
    plugin("strict", handler_source("import event as e; raise e.error.PermanentError('no such board')"))
    block()
    _, _, err = command("send", "n", "--outbox", "ob", "--handler", "strict", *TO_FILES)
    assert err[0] == "strict: no such board; refused for good, kept"
    assert err[1].endswith("; kept")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param(["send", "n", "--timeout", "0", *TO_FILES], "--timeout: the timeout is '0'", id="no time"),
        pytest.param(["send", "n", "--timeout", "soon", *TO_FILES], "--timeout: the timeout is 'soon'", id="a word"),
        pytest.param(["send", "n", "--outbox", "", *TO_FILES], "--outbox: expected a directory", id="no outbox"),
        pytest.param(["deliver", ""], "--outbox: expected a directory, or none", id="empty"),
        pytest.param(["deliver", "a", "--outbox", "b"], "the outbox is given twice: 'a' and --outbox b", id="both"),
        pytest.param(["deliver", "a", "b"], "unrecognized argument 'b'; expected one OUTBOX", id="two"),
        pytest.param(["deliver", "a", "--timeout", "-1"], "--timeout: the timeout is '-1'", id="timeout"),
        pytest.param(["deliver", "a", "--fast"], "unrecognized argument '--fast'", id="unknown option"),
    ],
)
def test_wrong_command_line_prints_one_line_and_exits_with_2(command, here, args, message):
    status, out, err = command(*args)
    assert (status, out, len(err)) == (2, [], 1)
    assert message in err[0]
    assert not list(here.iterdir())


# deliver


def test_entry_is_delivered_when_due_and_not_before(command):
    (entry_id,) = wait_for("n")
    free()
    status, out, err = command("deliver", "ob")
    assert (status, out, len(err)) == (0, [], 1)
    assert re.fullmatch(r"e3-event deliver: nothing was due; 1 waiting in \S+/ob, the next one due at \S+Z", err[0])
    make_due(entry_id)
    status, _, err = command("deliver", "ob")
    assert status == 0
    assert re.fullmatch(rf"{entry_id[:13]} n: file: delivered in \d\.\d{{3}} s", err[0])
    assert err[1:] == ["e3-event deliver: 1 of 1 delivered; nothing is waiting"]
    assert [data["uid"] for data in stored_events()] == ["u-n"]


def test_environment_variable_sets_the_outbox(command, monkeypatch):
    wait_for("a", "b")
    free()
    monkeypatch.setenv("E3_EVENT_OUTBOX", "ob")
    status, _, err = command("deliver", "--all")
    assert (status, err[-1]) == (0, "e3-event deliver: 2 of 2 delivered; nothing is waiting")


def test_strict_exits_with_1_if_a_delivery_fails_again(command):
    wait_for("a", "b")
    status, _, err = command("deliver", "ob", "--all", "--timeout", "60", "--strict")
    assert (status, len(err)) == (1, 3)
    assert all(line.endswith("; kept") for line in err[:2])
    assert err[2].startswith(f"e3-event deliver: 0 of 2 delivered; 2 waiting in {os.path.abspath('ob')}, the next")


def test_damaged_entry_is_kept_and_others_are_delivered(command):
    damaged, _ = wait_for("a", "b")
    free()
    text_of(path_of(damaged)).write_text("{", "utf-8")
    status, _, err = command("deliver", "ob", "--all")
    assert status == 0
    assert sum(f"e3-event deliver: outbox entry {damaged} is moved to corrupt" in line for line in err) == 1
    assert err[-1] == "e3-event deliver: 1 of 1 delivered; nothing is waiting"
    assert (len(stored_events()), ids(state="corrupt")) == (1, [damaged])


def test_nothing_is_delivered_without_an_outbox(command, here, monkeypatch):
    monkeypatch.setenv("E3_EVENT_OUTBOX", str(here / "ob"))
    assert command("deliver") == (
        0,
        [],
        [f"e3-event deliver: nothing to deliver: there is no outbox {here / 'ob'} yet"],
    )


@pytest.mark.parametrize("args", [["ob"], ["--outbox", "ob"]])
def test_outbox_given_by_path_must_exist(command, here, args):
    assert command("deliver", *args) == (
        1,
        [],
        [f"e3-event deliver: nothing to deliver: there is no directory {here / 'ob'} yet"],
    )


def test_directory_that_is_no_outbox_prints_one_line_and_exits_with_1(command):
    pathlib.Path("ob").write_text("", "utf-8")
    status, _, err = command("deliver", "ob")
    assert (status, len(err)) == (1, 1)
    assert "not a directory" in err[0]


def test_directory_without_an_outbox_is_unchanged(command, here):
    (here / "mine").mkdir()
    assert command("deliver", "mine")[0] == 0
    assert not list((here / "mine").iterdir())


def test_files_that_are_no_entries_are_ignored(command):
    golden()
    for name in ("junk", ".x", "x.y"):
        pathlib.Path("ob/waiting", name).mkdir()
    status, _, err = command("deliver", "ob")
    assert (status, err[-1]) == (0, "e3-event deliver: 1 of 1 delivered; nothing is waiting")
    assert {"junk", ".x", "x.y"} == set(os.listdir("ob/waiting"))


def test_golden_entry_is_delivered_to_its_pending_handlers(command, here):
    golden()
    status, _, err = command("deliver", "ob")
    assert status == 0
    assert len(err) == 2
    assert err[0].startswith("8f14e45f-ceea compile: file:archive: delivered")
    assert not (here / "events").exists()
    assert [data["target"] for data in stored_events("archive")] == ["arm"]
    assert (here / "archive/compile-42/build.log").read_text("utf-8") == "all well\n"


def test_golden_entry_with_a_span_is_delivered(command):
    golden(entry_id=TRACED_ID)
    assert command("deliver", "ob")[0] == 0
    assert [data["name"] for data in stored_events()] == ["released"]


def test_no_secret_of_a_plugin_is_shown(process, plugin):
    plugin("hook", handler_source("raise OSError(f'GET {self.config}')"))
    env = {"E3_EVENT_OUTBOX": "ob", "E3_EVENT_HANDLERS": "hook=https://hooks.example/hunter2"}
    texts = [process(*args, env=env) for args in (["send", "n"], ["deliver", "--all"], ["outbox", "list"])]
    texts.append(process("outbox", "show", *ids(), env=env))
    for done in texts:
        assert "***" in done.stdout + done.stderr
        assert "hunter2" not in done.stdout + done.stderr


def test_permanent_failure_is_reported_without_secrets(command, plugin):
    plugin("hook", handler_source("import event as e; raise e.error.PermanentError('GET ' + self.config)"))
    for args in (["send", "n", "--outbox", "ob", "--handler", "hook=hunter2"], ["deliver", "ob", "--all"]):
        _, _, err = command(*args)
        assert "hunter2" not in "".join(err)
        command("outbox", "retry", *ids(state="failed"), "--outbox", "ob")
    assert sum("is no longer retried, and is kept in failed/: GET ***" in line for line in err) == 1


def test_handler_that_exits_does_not_change_the_exit_status(command, plugin):
    command("send", "n", "--outbox", "ob", "--handler", "gone=1")
    plugin("gone", handler_source("sys.exit(0)"))
    status, _, err = command("deliver", "ob", "--all")
    assert status == 0
    assert any("SystemExit: 0" in line for line in err)
    assert len(ids()) == 1


def test_two_processes_deliver_each_entry_once(here):
    expected = wait_for(*(f"n{number}" for number in range(40)))
    free()
    both = [start("deliver", "ob", "--all", stderr=subprocess.PIPE) for _ in range(2)]
    lines = "".join(process.communicate(timeout=120)[1] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(re.findall(r"^(\S+) \S+: file: delivered", lines, re.MULTILINE)) == sorted(i[:13] for i in expected)
    assert len(stored_events()) == 40
    assert ids() == []


# A mail server that is down, hangs, and is up again.


class Line:
    """The line to a mail server; `port` is this side's.

    :ivar state: down, hung or up
    """

    def __init__(self, server):
        self.state = "down"
        self.reached = threading.Event()
        self._server = server

    def serve(self, connection, stopped):
        if self.state == "down":
            connection.close()
        self.reached.set()
        if self.state == "up":
            with socket.create_connection(("127.0.0.1", self._server.port)) as server:
                back = threading.Thread(target=pump, args=(server, connection))
                back.start()
                pump(connection, server)
                back.join()


def pump(source, target):
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.mark.server
@POSIX
def test_mail_of_a_killed_sender_arrives_exactly_once(process, monkeypatch):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    monkeypatch.setenv("E3_EVENT_OUTBOX", "ob")
    with smtp_server() as mail:
        line = Line(mail)
        with raw_server(line.serve) as port:
            monkeypatch.setenv("E3_EVENT_HANDLERS", f"file=events|smtp=s,a@x.test,b@x.test,127.0.0.1:{port}")
            done = process("send", "first", "--uid", "u1")
            assert (done.returncode, done.stderr.count("; kept")) == (0, 1)
            line.state = "hung"
            line.reached.clear()
            sender = start("send", "second", "--uid", "u2")
            assert line.reached.wait(60)
            sender.kill()
            sender.wait()
            listed = process("outbox", "list")
            assert listed.returncode == 0
            assert sorted(row.split()[1:3] for row in listed.stdout.splitlines()[1:]) == [
                ["in", "delivery"],
                ["waiting", listed.stdout.split("waiting")[1].split()[0]],
            ]
            assert all(row.partition(": ")[0].endswith("-> smtp") for row in listed.stdout.splitlines()[1:])
            line.state = "up"
            # The worker of the sender that was killed goes on, or ends at its deadline.
            eventually(lambda: process("deliver", "--all").returncode == 0 and not ids() + ids(state="claimed"), "all")
        assert len(mail.envelopes) == 2
    assert sorted(data["uid"] for data in stored_events()) == ["u1", "u2"]
    assert process("outbox", "list").stderr == "e3-event outbox list: nothing\n"


# On a terminal.


@POSIX
def test_terminal_shows_progress_and_clears_it(here, plugin, monkeypatch):
    plugin("held", handler_source("open(__import__('os').environ['GATE']).close(); return True", "return {}"))
    wait_for("a", "b", handlers=(("held", "events"),))  # there is no gate yet: it fails
    os.mkfifo("gate")
    monkeypatch.setenv("GATE", "gate")
    ours, theirs = os.openpty()
    process = start("deliver", "ob", "--all", stderr=theirs)
    os.close(theirs)
    seen = b""
    while not seen.endswith(b"0 of 2 done"):
        seen += os.read(ours, 4096)
    try:
        with open("gate", "w"):
            while data := os.read(ours, 4096):
                seen += data
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    text = seen.decode()
    assert re.search(r"^0 of 2 done\r +\r", text)
    screen = [re.split("\r *\r", line)[-1].rstrip("\r") for line in text.split("\n")]
    assert [line.partition(" delivered")[0].split(" ", 1)[-1] for line in screen] == [
        *(f"{name}: held:" for name in ("ab" if "a: held" in screen[0] else "ba")),
        "deliver: 2 of 2",
        "",
    ]


def test_no_progress_is_written_without_a_terminal(process):
    wait_for("a")
    assert "\r" not in process("deliver", "ob", "--all").stderr


def test_output_that_is_no_terminal_has_the_default_width(capsys):
    assert terminal.width(sys.stderr, 80) == 80


class Terminal:
    """A terminal whose window has been closed."""

    def isatty(self):
        return True

    def write(self, text):
        raise OSError(5, "Input/output error")

    def flush(self):
        pass

    def fileno(self):
        raise OSError


def test_closed_terminal_does_not_stop_the_delivery(monkeypatch):
    class Pass:
        finished, total = False, 2

    monkeypatch.setattr(sys, "stderr", Terminal())
    report = deliver.Report("deliver")
    report.show_progress(Pass())
    report.clear()


# --watch


BUSY = handler_source("""import pathlib, time
        pathlib.Path('begun').touch()
        while not pathlib.Path('go').exists():
            time.sleep(0.01)
        return True""")


def busy(plugin):
    """Put an event for a handler that takes it once there is a file ``go``; return a watch that has begun with it."""
    main(["send", "n", "--outbox", "ob", "--handler", "busy=1"])
    plugin("busy", BUSY)
    process = start("deliver", "ob", "--watch", "--all", stderr=subprocess.PIPE)
    eventually(pathlib.Path("begun").exists, "the handler has the event")
    return process


def finish(process):
    """Return the lines that a process has yet to write; kill it if it does not end."""
    try:
        return process.communicate(timeout=60)[1].splitlines()
    finally:
        process.kill()
        process.communicate()


@POSIX
@pytest.mark.parametrize(
    ("number", "status"), [pytest.param("SIGTERM", 0, id="SIGTERM"), pytest.param("SIGINT", 130, id="SIGINT")]
)
def test_signal_ends_watch_after_the_current_delivery(here, plugin, number, status):
    process = busy(plugin)
    process.send_signal(getattr(signal, number))
    time.sleep(0.5)
    assert process.poll() is None
    pathlib.Path("go").touch()
    (line,) = finish(process)
    assert process.returncode == status
    assert "busy: delivered" in line
    assert ids() == ids(state="claimed") == []


@POSIX
def test_second_signal_aborts_the_delivery_and_keeps_the_event(here, plugin):
    process = busy(plugin)
    process.send_signal(signal.SIGTERM)
    time.sleep(shutdown.SAME_REQUEST + 0.2)  # later: it is another wish
    process.send_signal(signal.SIGTERM)
    finish(process)
    assert process.returncode == 130
    assert (len(ids()), ids(state="claimed")) == (1, [])


@POSIX
def test_watch_delivers_new_and_due_entries(here):
    """It begins where there is no outbox yet, sees one appear, an entry come, and one fall due."""
    process = start("deliver", "ob", "--watch", stderr=subprocess.PIPE)
    try:
        (first,) = wait_for("first")
        free()
        assert main(["outbox", "retry", first, "--outbox", "ob"]) == 0
        assert "first: file: delivered" in line_of(process)
        (second,) = wait_for("second", handlers=[("file", "later")])
        free("later")
        make_due(second)
        assert "second: file: delivered" in line_of(process)
    finally:
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")


@POSIX
def test_watch_survives_a_temporarily_unusable_outbox(here):
    (first,) = wait_for("first")
    os.rename("ob/tmp", "away")
    pathlib.Path("ob/tmp").write_text("in the way", "utf-8")
    process = start("deliver", "ob", "--watch", "--all", stderr=subprocess.PIPE)
    try:
        assert "not a directory" in line_of(process)
        time.sleep(2)  # it looks again, and does not say the same again
        os.remove("ob/tmp")
        os.rename("away", "ob/tmp")
        free()
        assert main(["outbox", "retry", first, "--outbox", "ob"]) == 0
        assert "first: file: delivered" in line_of(process)
    finally:
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")


@POSIX
def test_watch_delivers_entries_of_a_dead_process(here):
    code = (
        "import event, time; from event._outbox import Outbox; put = Outbox('ob').put; "
        "put(event.Event('waits'), {'file': 'events'}).postpone(0); put(event.Event('n'), {'file': 'events'}); "
        "print('put', flush=True); time.sleep(300)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"put\n"
        process = start("deliver", "ob", "--watch", stderr=subprocess.PIPE)
        try:
            assert "waits: file: delivered" in line_of(process)
            other.kill()
            assert "n: file: delivered" in line_of(process)
        finally:
            other.kill()
            process.send_signal(signal.SIGTERM)
            _, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")


@POSIX
def test_watch_with_all_tries_each_entry_that_is_not_due_once(here):
    wait_for("stuck")
    process = start("deliver", "ob", "--watch", "--all", stderr=subprocess.PIPE)
    try:
        assert "stuck: file: not a directory" in line_of(process)
        (other,) = wait_for("other", handlers=[("file", "later")])
        free("later")
        make_due(other)
        assert "other: file: delivered" in line_of(process)
    finally:
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")


def line_of(process):
    """Return the next line, or fail after a minute."""
    assert select.select([process.stderr], [], [], 60)[0]
    return process.stderr.readline()


def test_event_is_stored_before_a_plugin_ends_the_process(process, plugin):
    plugin("quits", "import os; os._exit(0)\n")
    process("send", "n", "--outbox", "ob", "--handler", "quits")
    assert len(ids()) == 1


def test_plugin_with_a_hung_import_blocks_neither_send_nor_deliver(process, plugin):
    plugin("hangs", "import time; time.sleep(100)\n")
    done = process("send", "n", "--outbox", "ob", "--timeout", "5", "--handler", "hangs", *TO_FILES)
    assert done.returncode == 0
    assert len(stored_events()) == 1
    done = process("deliver", "ob", "--all", "--timeout", "0.5")
    assert "not done within 0.5 s" in done.stderr


@pytest.mark.parametrize("name", [42, 2026.1, None, {"a": 1}, ["x"]])
def test_event_with_a_name_that_is_no_text_is_delivered(command, name):
    manager = EventManager(outbox="ob")
    manager.add_handler("file", "events")
    pathlib.Path("events").write_text("in the way", encoding="utf-8")
    for each in (name, "good"):
        assert manager.send_event(Event(each)) is False
    pathlib.Path("events").unlink()
    status, _, err = command("deliver", "ob", "--all")
    assert (status, len(stored_events())) == (0, 2), err
