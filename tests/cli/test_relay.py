"""``e3-event relay``, against a real RabbitMQ and a real Redis."""

from __future__ import annotations

import os
import pathlib
import signal
import sys

import pytest

from cli.outboxes import ids
from cli.relays import BOTH, RELAYED, both, publish, uids
from helpers.commands import HOLDS_THE_LOCK, TO_FILES, handler_source
from helpers.waiting import wait_until

pytestmark = pytest.mark.server


# From the queue to the handlers.


@both
@pytest.mark.parametrize("outbox", [pytest.param(["--outbox", "ob"], id="outbox"), pytest.param([], id="no outbox")])
def test_published_events_arrive_complete_and_sigterm_ends_the_relay(broker, relaying, here, outbox):
    attachment = here / "log"
    attachment.write_bytes(os.urandom(100_000))
    publish(broker, "a", attachment=attachment)
    process = relaying(*outbox, *TO_FILES, "--handler", "file:b=other")
    publish(broker, "b", "c", attachment=attachment)
    for path in ("events", "other"):
        wait_until(lambda path=path: uids(path) == ["u-a", "u-b", "u-c"], "the events are delivered")
        for name in "abc":
            assert (here / path / f"{name}-u-{name}" / "log").read_bytes() == attachment.read_bytes()
    assert process.end(signal.SIGTERM) == 0
    assert process.lines[-1] == RELAYED.format(3)
    assert process.lines[0].startswith("e3-event relay: ")
    assert process.lines[0].endswith(
        f", queue {broker.name} -> file, file:b" + (f"; outbox {here / 'ob'}" if outbox else "")
    )
    assert len(process.lines) == 2
    assert broker.size() == 0
    if outbox:
        assert ids() == ids(state="claimed") == ids(state="tmp") == []


@both
def test_sigint_ends_the_relay_with_status_130(broker, relaying):
    process = relaying("--outbox", "ob", *TO_FILES)
    publish(broker, "a")
    wait_until(lambda: uids() == ["u-a"], "the event is delivered")
    assert process.end(signal.SIGINT) == 130
    assert process.lines[-1] == RELAYED.format(1)


def test_environment_variables_set_handlers_outbox_and_timeout(broker, relaying, plugin):
    plugin("hung", handler_source("import threading; threading.Event().wait()"))
    env = {"E3_EVENT_HANDLERS": "file=events|hung", "E3_EVENT_OUTBOX": "ob", "E3_EVENT_TIMEOUT": "0.3"}
    publish(broker, "a")
    process = relaying(env=env)
    assert process.line("a: hung: ").endswith("a: hung: not done within 0.3 s; kept")
    assert uids() == ["u-a"]
    assert process.end(signal.SIGTERM) == 0
    assert len(ids()) == 1


# The broker's URL.


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param([], "the broker's URL is missing", id="no URL"),
        pytest.param(["redis://u:hunter2@h", "redis://u:hunter2@i"], "expected one URL, not 2 words", id="two URLs"),
        pytest.param(["hunter2"], "this is not a broker's URL", id="no URL at all"),
        pytest.param(["redis://u:hunter2@h:port"], "this is not a broker's URL", id="a wrong port"),
        pytest.param(["gopher://u:hunter2@h"], "the URL's scheme is gopher://", id="another protocol"),
        pytest.param(["env:NOWHERE"], "env:NOWHERE is not set or empty", id="no such variable"),
        pytest.param(["file:nowhere"], "file:nowhere cannot be read", id="no such file"),
        pytest.param(["env:URL", "--queue", ""], "--queue: '' is not a valid queue name", id="no queue"),
        pytest.param(["env:URL", "--queue", "a\nb"], "--queue: 'a\\nb' is not a valid", id="a queue of two lines"),
        pytest.param(["env:URL", "--queue", "ä" * 121], "expected at most 240 printable bytes", id="a long queue"),
        pytest.param(["env:URL", "--timeout", "0"], "--timeout: the timeout is '0'", id="no time"),
        pytest.param(["env:URL", "--timeout", "soon"], "--timeout: the timeout is 'soon'", id="a word"),
        pytest.param(["env:URL", "--outbox", ""], "--outbox: expected a directory", id="no outbox"),
        pytest.param(["env:URL", "--s3", "https://b/c"], "--s3: s3: the URL is 'https://b/c'", id="no S3"),
        pytest.param(["env:URL", "--fast"], "unrecognized argument '--fast'", id="an unknown option"),
        pytest.param(["env:URL", "--handler", "file=a", "--handler", "file=b"], "'file' is given twice", id="twice"),
    ],
)
def test_wrong_command_line_prints_one_line_and_exits_with_2(command, monkeypatch, here, args, message):
    monkeypatch.setenv("URL", "redis://u:hunter2@127.0.0.1:9")
    status, out, err = command("relay", *args)
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith("e3-event relay: ")
    assert message in err[0]
    assert "hunter2" not in err[0]
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("module", "args", "extra"),
    [
        pytest.param("redis", [], "broker", id="redis"),
        pytest.param("boto3", ["--s3", "s3://bucket/prefix"], "s3", id="boto3"),
    ],
)
def test_missing_extra_prints_one_line_and_exits_with_2(command, monkeypatch, module, args, extra):
    monkeypatch.setitem(sys.modules, module, None)
    status, _, err = command("relay", "redis://127.0.0.1:9", *args)
    assert (status, len(err)) == (2, 1)
    assert f'pip install "e3-event[{extra}]"' in err[0]


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        pytest.param("redis://:hunter2@127.0.0.1:9", True, id="in clear"),
        pytest.param("redis://127.0.0.1:9", False, id="no password"),
        pytest.param("env:URL", False, id="a reference"),
        pytest.param("file:url", False, id="a file"),
    ],
)
def test_password_in_the_url_prints_a_warning_and_is_not_shown(command, monkeypatch, here, url, warned):
    monkeypatch.setenv("URL", "redis://:hunter2@127.0.0.1:9")
    (here / "url").write_text("redis://:hunter2@127.0.0.1:9\n", "utf-8")
    status, _, err = command("relay", url)
    assert status == 1
    assert err == [
        *["e3-event relay: warning: password visible in the process list; use env:NAME or file:PATH"] * warned,
        "e3-event relay: nothing is relayed: E3_EVENT_HANDLERS names no handler",
    ]


def test_s3_is_not_contacted_before_the_first_message(command):
    args = ("relay", "redis://127.0.0.1:9", "--s3", "s3://bucket/prefix", "--profile", "ci")
    assert command(*args)[2] == ["e3-event relay: nothing is relayed: E3_EVENT_HANDLERS names no handler"]


def test_help_lists_the_exit_statuses(command):
    status, out, _ = command("relay", "--help")
    assert (status, out[0]) == (0, "usage: e3-event relay URL [option]...")
    assert [line[:5].strip() for line in out if line.startswith("  ") and line.strip()[:1].isdigit()] == [
        *("0", "1", "2", "130"),
    ]
    assert "E3_EVENT_TIMEOUT, else the configuration file's, else 30)" in " ".join(" ".join(out).split())


@both
def test_wrong_password_is_reported_without_it_and_retried(broker, relaying, monkeypatch):
    password = broker.server.password
    monkeypatch.setenv("BROKER", broker.server.url.replace(password, "hunter2-%41"))
    process = relaying(*TO_FILES)
    line = process.line("cannot be reached: ")
    assert process.end(signal.SIGTERM) == 0
    assert [shown for shown in process.lines if "cannot be reached" in shown] == [line]
    assert password not in process.text
    assert "hunter2" not in process.text
    assert process.lines[-1] == RELAYED.format(0)


@both
def test_relay_waits_for_a_broker_that_is_down(broker, relaying):
    server = broker.server
    publish(broker, "a")
    server.stop()
    try:
        process = relaying("--outbox", "ob", *TO_FILES)
        process.line("cannot be reached: ")
    finally:
        server.start()
    process.line("is reachable again")
    wait_until(lambda: uids() == ["u-a"], "the event that the broker has kept is delivered")
    assert process.end(signal.SIGTERM) == 0
    assert server.password not in process.text


# Usually only tests/test_relay_crash.py kills RabbitMQ, whose start takes six seconds of processor time.
@pytest.mark.parametrize(
    "broker", [pytest.param("rabbit", id="RabbitMQ", marks=pytest.mark.long), BOTH[1]], indirect=True
)
def test_relay_receives_again_after_a_kill_of_the_broker(broker, relaying):
    server = broker.server
    publish(broker, "a")
    server.stop()  # if RabbitMQ is killed now, it may forget the new queue
    server.start()
    process = relaying("--outbox", "ob", *TO_FILES)
    wait_until(lambda: uids() == ["u-a"], "the first event is delivered")
    server.kill()
    server.start()
    publish(broker, "b")
    wait_until(lambda: uids() == ["u-a", "u-b"], "the second event is delivered")
    assert process.end(signal.SIGTERM) == 0
    assert server.password not in process.text


# The handlers.


def test_relay_without_handlers_consumes_nothing(broker, command):
    publish(broker, "a")
    status, _, err = command("relay", "env:BROKER", "--queue", broker.name, "--env", "NONE", "--outbox", "ob")
    assert (status, err) == (1, ["e3-event relay: nothing is relayed: NONE names no handler"])
    assert broker.size() == 1


def test_relay_without_an_outbox_refuses_a_broken_handler(broker, command):
    publish(broker, "a")
    args = ("relay", "env:BROKER", "--queue", broker.name, *TO_FILES, "--handler", "s3=nonsense", "--handler", "no=x")
    status, _, err = command(*args)
    assert (status, len(err)) == (1, 3)
    assert err[0].startswith("s3: not loaded: ")
    assert err[1].startswith("no: not loaded: ")
    assert err[2].startswith(
        "e3-event relay: nothing is relayed: its events could not be delivered; add --outbox to keep them"
    )
    assert broker.size() == 1


def test_relay_with_an_outbox_stores_events_for_a_broken_handler(broker, relaying, process, plugin):
    publish(broker, "a", "b")
    running = relaying("--outbox", "ob", *TO_FILES, "--handler", "late=x")
    assert running.line("late: not loaded: ").endswith("(in --handler)")
    wait_until(lambda: uids() == ["u-a", "u-b"], "the other handler has both")
    wait_until(lambda: len(ids()) == 2, "both are stored for the broken handler")
    assert running.end(signal.SIGTERM) == 0
    plugin("late", handler_source("import pathlib; return pathlib.Path(event.name).write_text(self.config) > 0"))
    assert process("deliver", "ob", "--all").returncode == 0
    assert [pathlib.Path(name).read_text("utf-8") for name in "ab"] == ["x", "x"]
    assert uids() == ["u-a", "u-b"]


def test_failures_show_no_secret_of_a_plugin(broker, relaying, plugin):
    plugin(
        "hook", handler_source("logging.getLogger('event').warning(self.config); raise OSError(f'GET {self.config}')")
    )
    for outbox in ([], ["--outbox", "ob"]):
        publish(broker, "a")
        process = relaying(*outbox, "--handler", "hook=https://hooks.example/hunter2")
        assert "***" in process.line("a: hook: ")
        assert process.end(signal.SIGTERM) == 0
        assert "hunter2" not in process.text


@both
def test_relay_without_an_outbox_requeues_undelivered_events(broker, relaying, plugin):
    try_twice = "import os\n        if os.path.exists(event.name): open('got', 'a').write(event.name); return True"
    plugin("fickle", handler_source(f"{try_twice}\n        open(event.name, 'w').close(); return False"))
    publish(broker, "a", "b")
    process = relaying(*TO_FILES, "--handler", "fickle")
    wait_until(lambda: os.path.exists("got") and os.path.getsize("got") == 2, "the handler has both")
    assert process.end(signal.SIGTERM) == 0
    assert broker.size() == 0
    assert sum("fickle: " in line for line in process.lines) == 2
    assert uids() == ["u-a", "u-b"]


@both
def test_refused_event_is_dead_lettered_and_can_be_relayed_again(broker, relaying, plugin, here):
    refuse = "import os, event as e\n        if os.path.exists('strict'): raise e.error.PermanentError('no such board')"
    plugin("strict", handler_source(f"{refuse}\n        open(event.name, 'w').close(); return True"))
    (here / "strict").touch()
    publish(broker, "a", "b")
    broker.put(b"no event")
    process = relaying("--handler", "strict", *TO_FILES)
    wait_until(lambda: broker.size(f"{broker.name}.dead") == 3, "all messages are dead-lettered")
    assert process.end(signal.SIGTERM) == 0
    assert process.lines[-1] == RELAYED.format("0") + ", 3 dead-lettered"
    assert sum("refused for good: strict: no such board" in line for line in process.lines) == 2
    assert sum("it is not an e3-event message" in line for line in process.lines) == 1
    (here / "strict").unlink()
    broker.name += ".dead"
    process = relaying("--handler", "strict", *TO_FILES)
    wait_until(lambda: (here / "a").exists() and (here / "b").exists(), "both are delivered")
    process.line(".dead.dead: it is not an e3-event message")
    assert process.end(signal.SIGTERM) == 0
    assert uids() == ["u-a", "u-b"]


# Plugins that misbehave, with an outbox.


@pytest.mark.parametrize(
    ("send", "error"),
    [
        pytest.param("import threading; threading.Event().wait()", "not done within 0.5 s", id="hangs"),
        pytest.param("raise ValueError('no')", "ValueError: no", id="raises"),
        pytest.param("sys.exit(3)", "SystemExit: 3", id="exits"),
        pytest.param("return None", "", id="fails"),
    ],
)
def test_misbehaving_plugin_does_not_affect_other_handlers(broker, relaying, plugin, send, error):
    plugin("bad", handler_source(send))
    publish(broker, "a", "b")
    process = relaying("--outbox", "ob", "--timeout", "0.5", "--handler", "bad", *TO_FILES)
    assert error in process.line("a: bad: ")
    assert error in process.line("b: bad: ")
    publish(broker, "c")
    wait_until(lambda: uids() == ["u-a", "u-b", "u-c"], "the healthy handler has all")
    assert process.end(signal.SIGTERM) == 0
    assert (broker.size(), len(ids())) == (0, 3)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        pytest.param("os._exit(7)", "status 7", id="os._exit"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL", id="SIGKILL"),
    ],
)
def test_plugin_that_ends_its_process_does_not_end_the_relay(broker, relaying, plugin, end, reason):
    plugin("fatal", handler_source(f"import os, signal\n        if event.name == 'a': {end}\n        return True"))
    publish(broker, "a")
    process = relaying("--outbox", "ob", "--handler", "fatal", *TO_FILES)
    process.line(f"fatal: its process ended with {reason}")
    assert broker.size() == 0
    publish(broker, "b")  # the relay stores it even if no worker runs now
    wait_until(lambda: "u-b" in uids(), "the next event is delivered")
    assert process.end(signal.SIGTERM) == 0
    assert process.lines[-1] == RELAYED.format(2)
    assert len(ids()) + len(ids(state="claimed")) == 1


STUCK = handler_source(f"return event.name != 'a' or bool({HOLDS_THE_LOCK})")


def test_plugin_that_holds_the_interpreter_does_not_end_the_relay(broker, relaying, plugin):
    """Another worker continues without the plugin, and the relay exits without waiting for it."""
    plugin("stuck", STUCK)
    publish(broker, "a")
    process = relaying("--outbox", "ob", "--handler", "stuck", "--timeout", "1", *TO_FILES)
    process.line("stuck: not done")
    publish(broker, "b")
    wait_until(lambda: "u-b" in uids(), "the next event is delivered")
    assert process.end(signal.SIGTERM) == 0


def test_plugin_that_holds_the_interpreter_does_not_end_a_direct_relay(broker, relaying, plugin):
    plugin("stuck", STUCK)
    publish(broker, "a")
    process = relaying("--handler", "stuck", "--timeout", "1", *TO_FILES)
    publish(broker, "b")
    wait_until(lambda: uids() == ["u-a", "u-b"], "the healthy handler has both")
    assert process.end(signal.SIGTERM) == 0
    assert broker.size() == 1


def test_handler_of_a_relay_has_an_empty_stdin(broker, relaying, plugin):
    plugin("nosy", handler_source("return sys.stdin.read() == '' and len(open(0, closefd=False).read()) == 0"))
    publish(broker, "a", "b")
    process = relaying("--outbox", "ob", "--handler", "nosy", *TO_FILES)
    wait_until(lambda: uids() == ["u-a", "u-b"] and ids() == ids(state="claimed") == [], "both are delivered")
    assert process.end(signal.SIGTERM) == 0
    assert len(process.lines) == 2


# Loops.


def test_handler_that_publishes_to_the_relayed_queue_is_refused(broker, command):
    for url in (broker.server.url, "env:BROKER"):
        args = ("relay", "env:BROKER", "--queue", broker.name, "--handler", f"broker:x={url},{broker.name}")
        status, _, err = command(*args)
        assert status == 2
        assert err == [
            "e3-event relay: the handler 'broker:x' publishes to the relay's own queue; events would go in a circle; "
            "see e3-event relay --help"
        ]


def test_handler_that_publishes_to_another_queue_passes_events_on(broker, relaying):
    publish(broker, "a")
    process = relaying("--handler", f"broker=env:BROKER,{broker.name}-2", "--handler", "broker:no=env:NOWHERE,x")
    process.line("a: broker:no: ")
    wait_until(lambda: broker.size(f"{broker.name}-2") == 1, "the event is in the other queue")
    assert process.end(signal.SIGTERM) == 0
