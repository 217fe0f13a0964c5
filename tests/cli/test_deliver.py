"""``e3-event deliver``."""

from __future__ import annotations

import os
import pathlib
import re
import socket
import subprocess
import sys
import threading

import pytest

from cli.outboxes import TRACED_ID, copy_golden, ids, make_due, path_of, put_waiting, text_of, unblock
from cli.processes import started
from event import Event, EventManager
from event._cli import deliver
from event._cli._support import terminal
from helpers.commands import TO_FILES, handler_source, stored_events
from helpers.waiting import wait_until
from servers.raw import raw_server
from servers.smtp import smtp_server

POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: POSIX signals and terminals")


def start(*args, **kwargs):
    """Start the command; return its `Popen`."""
    env = {**os.environ, "PYTHONUTF8": "1"}
    return subprocess.Popen([sys.executable, "-m", "event", *args], env=env, encoding="utf-8", **kwargs)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param(["send", "n", "--timeout", "0", *TO_FILES], "--timeout: the timeout is '0'", id="zero"),
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


def test_entry_is_delivered_when_due_and_not_before(command):
    (entry_id,) = put_waiting("n")
    unblock()
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
    put_waiting("a", "b")
    unblock()
    monkeypatch.setenv("E3_EVENT_OUTBOX", "ob")
    status, _, err = command("deliver", "--all")
    assert (status, err[-1]) == (0, "e3-event deliver: 2 of 2 delivered; nothing is waiting")


def test_strict_exits_with_1_if_a_delivery_fails_again(command):
    put_waiting("a", "b")
    status, _, err = command("deliver", "ob", "--all", "--timeout", "60", "--strict")
    assert (status, len(err)) == (1, 3)
    assert all(line.endswith("; kept") for line in err[:2])
    assert err[2].startswith(f"e3-event deliver: 0 of 2 delivered; 2 waiting in {os.path.abspath('ob')}, the next")


def test_damaged_entry_is_kept_and_others_are_delivered(command):
    damaged, _ = put_waiting("a", "b")
    unblock()
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
    copy_golden()
    for name in ("junk", ".x", "x.y"):
        pathlib.Path("ob/waiting", name).mkdir()
    status, _, err = command("deliver", "ob")
    assert (status, err[-1]) == (0, "e3-event deliver: 1 of 1 delivered; nothing is waiting")
    assert {"junk", ".x", "x.y"} == set(os.listdir("ob/waiting"))


def test_golden_entry_is_delivered_to_its_pending_handlers(command, here):
    copy_golden()
    status, _, err = command("deliver", "ob")
    assert status == 0
    assert len(err) == 2
    assert err[0].startswith("8f14e45f-ceea compile: file:archive: delivered")
    assert not (here / "events").exists()
    assert [data["target"] for data in stored_events("archive")] == ["arm"]
    assert (here / "archive/compile-42/build.log").read_text("utf-8") == "all well\n"


def test_golden_entry_with_a_span_is_delivered(command):
    copy_golden(entry_id=TRACED_ID)
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
    expected = put_waiting(*(f"n{number}" for number in range(40)))
    unblock()
    both = [start("deliver", "ob", "--all", stderr=subprocess.PIPE) for _ in range(2)]
    lines = "".join(process.communicate(timeout=120)[1] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(re.findall(r"^(\S+) \S+: file: delivered", lines, re.MULTILINE)) == sorted(i[:13] for i in expected)
    assert len(stored_events()) == 40
    assert ids() == []


# A mail server that is down, hangs, and is up again.


class MailProxy:
    """A proxy for a mail server.

    :ivar state: ``down`` closes each connection, ``hung`` accepts it and does nothing, ``up`` forwards it
    :ivar reached: set when a client connects
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
                replies = threading.Thread(target=forward, args=(server, connection))
                replies.start()
                forward(connection, server)
                replies.join()


def forward(source, target):
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
        proxy = MailProxy(mail)
        with raw_server(proxy.serve) as port:
            monkeypatch.setenv("E3_EVENT_HANDLERS", f"file=events|smtp=s,a@x.test,b@x.test,127.0.0.1:{port}")
            done = process("send", "first", "--uid", "u1")
            assert (done.returncode, done.stderr.count("; kept")) == (0, 1)
            proxy.state = "hung"
            proxy.reached.clear()
            sender = start("send", "second", "--uid", "u2")
            assert proxy.reached.wait(60)
            sender.kill()
            sender.wait()
            listed = process("outbox", "list")
            assert listed.returncode == 0
            assert sorted(row.split()[1:3] for row in listed.stdout.splitlines()[1:]) == [
                ["in", "delivery"],
                ["waiting", listed.stdout.split("waiting")[1].split()[0]],
            ]
            assert all(row.partition(": ")[0].endswith("-> smtp") for row in listed.stdout.splitlines()[1:])
            proxy.state = "up"
            # The worker of the killed sender still has its claim, until it delivers the event or its deadline passes.
            wait_until(
                lambda: process("deliver", "--all").returncode == 0 and not ids() + ids(state="claimed"),
                "both events are delivered",
            )
        assert len(mail.envelopes) == 2
    assert sorted(data["uid"] for data in stored_events()) == ["u1", "u2"]
    assert process("outbox", "list").stderr == "e3-event outbox list: nothing\n"


# On a terminal.


@POSIX
def test_terminal_shows_progress_and_clears_it(here, plugin, monkeypatch):
    plugin("held", handler_source("open(__import__('os').environ['GATE']).close(); return True", "return {}"))
    put_waiting("a", "b", handlers=(("held", "events"),))  # it fails, since there is no gate yet
    os.mkfifo("gate")
    monkeypatch.setenv("GATE", "gate")
    master, slave = os.openpty()
    process = start("deliver", "ob", "--all", stderr=slave)
    os.close(slave)
    output = b""
    while not output.endswith(b"0 of 2 done"):
        output += os.read(master, 4096)
    try:
        with open("gate", "w"):
            while data := os.read(master, 4096):
                output += data
    except OSError:  # Linux: the other end is closed
        pass
    os.close(master)
    assert process.wait() == 0
    text = output.decode()
    assert re.search(r"^0 of 2 done\r +\r", text)
    screen = [re.split("\r *\r", line)[-1].rstrip("\r") for line in text.split("\n")]
    assert [line.partition(" delivered")[0].split(" ", 1)[-1] for line in screen] == [
        *(f"{name}: held:" for name in ("ab" if "a: held" in screen[0] else "ba")),
        "deliver: 2 of 2",
        "",
    ]


def test_no_progress_is_written_without_a_terminal(process):
    put_waiting("a")
    assert "\r" not in process("deliver", "ob", "--all").stderr


def test_output_that_is_no_terminal_has_the_default_width(capsys):
    assert terminal.width(sys.stderr, 80) == 80


class ClosedTerminal:
    """A terminal whose window was closed."""

    def isatty(self):
        return True

    def write(self, text):
        raise OSError(5, "Input/output error")

    def flush(self):
        pass

    def fileno(self):
        raise OSError


def test_closed_terminal_does_not_stop_the_delivery(monkeypatch):
    class RunningSupervisor:
        finished, total = False, 2

    monkeypatch.setattr(sys, "stderr", ClosedTerminal())
    report = deliver.Report("deliver")
    report.show_progress(RunningSupervisor())
    report.clear()


# Plugins that exit or hang.


def test_event_is_stored_before_a_plugin_ends_the_process(process, plugin):
    plugin("quits", "import os; os._exit(0)\n")
    process("send", "n", "--outbox", "ob", "--handler", "quits")
    assert len(ids()) == 1


HANGS_AT_IMPORT = "open('gate').close()\n" + handler_source()  # until a process opens the FIFO `gate` to write


@POSIX
def test_handler_with_a_hung_import_does_not_delay_others(here, plugin):
    os.mkfifo("gate")
    plugin("hangs", HANGS_AT_IMPORT)
    with started("send", "n", "--handler", "hangs", *TO_FILES, "--timeout", "600") as sending:
        wait_until(lambda: list(here.glob("events/*.json")), "the file handler has the event")
        with open("gate", "w"):
            assert sending.end() == 0
    assert len(sending.lines) == 2


@POSIX
def test_send_and_deliver_abandon_a_hung_import_at_the_timeout(command, process, plugin):
    plugin("hangs", HANGS_AT_IMPORT)
    command("send", "n", "--outbox", "ob", "--handler", "hangs")  # it fails, since there is no gate yet
    os.mkfifo("gate")
    for args, status in ((["send", "n", "--handler", "hangs"], 1), (["deliver", "ob", "--all"], 0)):
        done = process(*args, "--timeout", "0.3")
        assert done.returncode == status
        assert "not done within 0.3 s" in done.stderr


@pytest.mark.parametrize("name", [42, 2026.1, None, {"a": 1}, ["x"]])
def test_event_whose_name_is_not_a_string_is_delivered(command, name):
    manager = EventManager(outbox="ob")
    manager.add_handler("file", "events")
    pathlib.Path("events").write_text("in the way", encoding="utf-8")
    for each in (name, "good"):
        assert manager.send_event(Event(each)) is False
    pathlib.Path("events").unlink()
    status, _, err = command("deliver", "ob", "--all")
    assert (status, len(stored_events())) == (0, 2), err
