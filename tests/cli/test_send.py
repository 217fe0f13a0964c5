"""``e3-event send`` with an event from the command line, or from files."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import uuid

import pytest

import event
from helpers.commands import TO_FILES, stored_events


def test_event_with_data_and_an_attachment_reaches_the_handler(process, here):
    (here / "build.log").write_text("all well\n", "utf-8")
    done = process("send", "compile", "target=arm", "flags:=[1, null]", "--attach", "build.log", *TO_FILES)
    assert done.returncode == 0
    uid = done.stdout.removesuffix("\n")
    assert str(uuid.UUID(uid)) == uid
    assert re.fullmatch(r"file: delivered in \d+\.\d{3} s\n", done.stderr)
    (data,) = stored_events()
    assert {k: data[k] for k in ("name", "uid", "target", "flags")} == {
        "name": "compile",
        "uid": uid,
        "target": "arm",
        "flags": [1, None],
    }
    assert data["end_time"] is not None
    assert (here / f"events/compile-{uid}/build.log").read_text("utf-8") == "all well\n"


def test_installed_command_equals_the_module(here):
    program = os.path.join(os.path.dirname(sys.executable), "e3-event")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"e3-event \d+\.\d+.*\n", done.stdout)


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        pytest.param("a=1", "a", "1", id="a number as a string"),
        pytest.param("a=", "a", "", id="empty"),
        pytest.param("a=b=c:=d", "a", "b=c:=d", id="several ="),
        pytest.param("a:=1.5", "a", 1.5, id="number"),
        pytest.param('a:={"b": [true]}', "a", {"b": [True]}, id="object"),
        pytest.param(
            'a:={"b": ' + "[" * 99 + "]" * 99 + "}", "a", json.loads('{"b": ' + "[" * 99 + "]" * 99 + "}"), id="deep"
        ),
        pytest.param("a:b=1", "a:b", "1", id="colon within the key"),
        pytest.param("self=1", "self", "1", id="a Python word"),
        pytest.param("_data=1", "_data", "1", id="an internal name"),
        pytest.param("a= x\n y ", "a", " x\n y ", id="white space"),
        pytest.param("begin_time:=0", "begin_time", "1970-01-01T00:00:00", id="begin in seconds"),
        pytest.param("begin_time=monday", "begin_time", "monday", id="begin as text"),
        pytest.param("begin_time:=true", "begin_time", True, id="begin as a Boolean"),
    ],
)
def test_key_value_arguments_become_data(command, word, key, value):
    status, _, _ = command("send", "n", word, *TO_FILES)
    assert status == 0
    (data,) = stored_events()
    assert data[key] == value
    assert type(data[key]) is type(value)


def test_arguments_and_options_can_be_in_any_order(command):
    status, out, _ = command("send", *TO_FILES, "n", "a=1", "--uid", "u", "b=2", "--", "-c=3", "--uid=4")
    assert (status, out) == (0, ["u"])
    (data,) = stored_events()
    assert [data[k] for k in ("name", "a", "b", "-c", "--uid")] == ["n", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param([], "e3-event: the following arguments are required: COMMAND", id="no command"),
        pytest.param(
            ["--", "send"], "e3-event: the following arguments are required: COMMAND", id="a command after --"
        ),
        pytest.param(["sned"], "e3-event: argument COMMAND: invalid choice: 'sned'", id="unknown command"),
        pytest.param(["check", "x"], "e3-event check: unrecognized argument 'x'", id="a word for check"),
        pytest.param(["check", "--", "x"], "e3-event check: unrecognized argument 'x'", id="a word after -- for check"),
        pytest.param(["send"], "the event's NAME is missing", id="no name"),
        pytest.param(["send", ""], "the event's NAME is missing", id="empty name"),
        pytest.param(["send", "a=1"], "the event's NAME is missing", id="data in the name's place"),
        pytest.param(["send", "n", "--frob"], "unrecognized argument '--frob'", id="unknown option"),
        pytest.param(["send", "n", "--handlr=http=hush"], "argument '--handlr';", id="unknown option with a value"),
        pytest.param(["send", "n", "--att", "x"], "unrecognized argument '--att'", id="abbreviated option"),
        pytest.param(["send", "n", "x"], "'x': expected key=value or key:=json", id="no ="),
        pytest.param(["send", "n", "=x"], "'': expected key=value or key:=json", id="no key"),
        pytest.param(["send", "n", ":=1"], "'': expected key=value or key:=json", id="no key for JSON"),
        pytest.param(["send", "n", "a=1", "a:=2"], "'a' is given twice", id="key twice"),
        pytest.param(["send", "n", "uid=1"], "'uid' cannot be set as data; use --uid UID", id="uid"),
        pytest.param(["send", "n", "name=1"], "'name' cannot be set as data", id="name"),
        pytest.param(["send", "n", "end_time:=1"], "'end_time' cannot be set as data", id="end_time"),
        pytest.param(["send", "n", "--uid", " "], "--uid: expected printable characters", id="blank uid"),
        pytest.param(["send", "n", "--uid", "a\nb"], "--uid: expected printable characters", id="uid of two lines"),
        pytest.param(["send", "n", "--attach", ""], "--attach: '': expected PATH or NAME=PATH", id="no path"),
        pytest.param(["send", "n", "--attach", "x="], "--attach: 'x=': expected PATH or NAME=PATH", id="name alone"),
        pytest.param(["send", "n", "--attach", "=x"], "--attach: '=x': expected PATH or NAME=PATH", id="= alone"),
        pytest.param(["send", "n", "--attach", "a/l", "--attach", "b/l"], "two files are named 'l'", id="name twice"),
        pytest.param(["send", "n", "--handler", "=x"], "--handler: the name is missing", id="nameless handler"),
        pytest.param(
            ["send", "n", *TO_FILES, *TO_FILES], "--handler: 'file' is given twice; add a label", id="handler twice"
        ),
        pytest.param(["send", "n", *TO_FILES, "--env", "V"], "not allowed with argument", id="handler and variable"),
        pytest.param(["send", "n", "--from-file", "x", "--uid", "u"], "--from-file takes no NAME", id="file and uid"),
        pytest.param(["send", "--attach", "x", "--from-file", "x"], "--from-file takes no NAME", id="file and attach"),
        pytest.param(["send", "n", "a=1", "--from-file", "x"], "--from-file takes no NAME", id="file and name"),
    ],
)
def test_wrong_command_line_exits_with_2_and_sends_nothing(command, here, args, message):
    if args[:2] == ["send", "n"] and "--handler" not in args and "--env" not in args:
        args = [*args, *TO_FILES]
    status, out, err = command(*args)
    assert (status, out, len(err)) == (2, [], 1)
    assert message in err[0]
    assert "hush" not in err[0]
    assert re.search(r"; see e3-event( send| check)? --help$", err[0])
    assert not list(here.iterdir())


def test_process_with_a_wrong_command_line_exits_with_2(process):
    done = process("send", "n", "x", *TO_FILES)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "e3-event send: 'x': expected key=value or key:=json; see e3-event send --help\n"


@pytest.mark.parametrize("args", [[], ["send"], ["check"]], ids=["e3-event", "send", "check"])
def test_help_goes_to_stdout_with_examples(command, args):
    status, out, err = command(*args, "--help")
    assert (status, err) == (0, [])
    assert "examples:" in out
    assert "exit status:" in out


@pytest.mark.parametrize("args", [[], ["send"], ["check"]], ids=["e3-event", "send", "check"])
def test_each_example_in_the_help_is_a_valid_command_line(command, here, plugin, monkeypatch, args):
    _, out, _ = command(*args, "--help")
    lines = itertools.takewhile(str.strip, out[out.index("examples:") + 1 :])
    examples = re.findall(r"e3-event [^)&\n]*", "\n".join(lines))
    monkeypatch.setenv("E3_EVENT_HANDLERS", "file=events")
    for name in ("build.log", "junit.xml"):
        (here / "out").mkdir(exist_ok=True)
        (here / name).touch()
        (here / "out" / name).touch()
    assert examples
    for example in examples:
        status, _, err = command(*(word.replace("/srv", "srv") for word in shlex.split(example)[1:]))
        assert status == 0 or "events/*.json" in example, (example, err)


@pytest.mark.parametrize(
    ("text", "name", "content"),
    [
        pytest.param("a.log", "a.log", "a", id="name of the file"),
        pytest.param("sub/b.log", "b.log", "b", id="name without the directory"),
        pytest.param("report=sub/b.log", "report", "b", id="given name"),
        pytest.param("x=1.log", "x=1.log", "x", id="a file whose path contains ="),
        pytest.param("y=x=1.log", "y", "x", id="given name, and = in the path"),
    ],
)
def test_file_is_attached(command, here, text, name, content):
    (here / "sub").mkdir()
    for path, letter in (("a.log", "a"), ("sub/b.log", "b"), ("x=1.log", "x"), ("1.log", "other")):
        (here / path).write_text(letter, "utf-8")
    assert command("send", "n", "--uid", "u", "--attach", text, *TO_FILES)[0] == 0
    assert {p.name: p.read_text("utf-8") for p in (here / "events/n-u").iterdir()} == {name: content}


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        pytest.param("gone.log", "gone.log", "cannot attach 'gone.log' to event n (u): no such file", id="missing"),
        pytest.param("out=1/gone", "out", "cannot attach '1/gone' to event n (u): no such", id="missing, with a name"),
        pytest.param(".", "here", "is not a regular file", id="a directory"),
        pytest.param("/", "/", "is not a regular file", id="the root"),
    ],
)
def test_event_is_sent_without_a_file_that_cannot_be_attached(command, here, text, name, message):
    (here / "log").write_text("all well", "utf-8")
    send = ("send", "n", "--uid", "u", "--attach", text, "--attach", "log", *TO_FILES)
    status, out, err = command(*send)
    assert (status, out, len(err)) == (0, ["u"], 2)
    assert message in err[0]
    assert err[1].startswith("file: delivered")
    assert stored_events()[0]["not_attached"] == [name]
    assert [path.name for path in (here / "events/n-u").iterdir()] == ["log"]
    assert command(*send, "--strict")[0] == 1
    status, out, _ = command(*send, "--json")
    assert (status, json.loads("".join(out))["events"][0]["not_attached"]) == (0, [name])


def dump(directory, name="n", attach=None):
    """Dump an event; return the path of the file."""
    with event.Event(name, uid=f"u-{name}", a=1) as e:
        if attach:
            e.attach_file(attach)
    return e.dump(directory)


def test_dumped_events_are_sent(command, here):
    (here / "build.log").write_text("x", "utf-8")
    paths = [dump("in", "one", "build.log"), dump("in", "two")]
    status, out, err = command("send", "--from-file", *paths, *TO_FILES)
    assert (status, out) == (0, ["u-one", "u-two"])
    assert [line.partition(" delivered")[0] for line in err] == [f"{path}: file:" for path in paths]
    assert [(data["name"], data["a"]) for data in stored_events()] == [("one", 1), ("two", 1)]
    assert (here / "events/one-u-one/log").read_text("utf-8") == "x"


def test_malformed_dumped_event_prints_a_line_and_others_are_sent(command, here):
    (here / "build.log").write_text("x", "utf-8")
    changed = dump("in", "changed", "build.log")
    (here / "build.log").write_text("y", "utf-8")
    (here / "bad.json").write_text("{", "utf-8")
    good = dump("in", "good")
    status, out, err = command("send", "--from-file", changed, "bad.json", "gone.json", good, *TO_FILES)
    assert (status, out, len(err)) == (1, ["u-good"], 4)
    assert err[0].startswith(f"{changed}: not sent: attachment 'log'")
    assert err[0].endswith("has changed")
    assert err[1].startswith("bad.json: not sent: bad.json is not a dumped event")
    assert err[2].startswith("gone.json: not sent: no such file or directory")
    assert [data["name"] for data in stored_events()] == ["good"]


def test_dumped_events_without_handlers_print_a_line(command, here):
    status, out, (line,) = command("send", "--from-file", dump("in"))
    assert (status, out) == (0, [])
    assert line.startswith("e3-event send: nothing is sent: ")


def test_quiet_send_without_handlers_prints_only_the_uid(command):
    assert command("send", "n", "--uid", "u", "--quiet") == (0, ["u"], [])


def test_dumped_uid_of_two_lines_is_escaped(command, here):
    path = event.Event("n", uid="a\nb").dump("in")
    assert command("send", "--from-file", path, *TO_FILES)[:2] == (0, ["a\\nb"])


# Limits of the process


@pytest.mark.skipif(sys.platform != "linux", reason="platform: other systems need other limits")
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("descriptors", [5, 6, 7, 8])
def test_few_file_descriptors_do_not_lose_the_event(descriptors):
    """The shell sets the limit. Each line shows whether the event is delivered, kept or lost."""
    words = [sys.executable, "-m", "event", "send", "n", "--uid", "u", "--outbox", "ob", *TO_FILES]
    script = f"ulimit -n {descriptors}; exec {shlex.join(words)}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "u\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("file: ")
    assert "delivered" in line or line.endswith("no worker can be started: too many open files; kept")
