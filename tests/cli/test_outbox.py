"""``e3-event outbox``: list, show, retry and drop."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import event
from cli.outboxes import (
    GOLDEN_ID,
    copy_golden,
    golden_path,
    ids,
    path_of,
    put_failed,
    put_waiting,
    unblock,
)
from event._cli._support import outbox_index
from event._outbox import Candidate, Outbox
from helpers.commands import TO_FILES, handler_source, stored_events

AT = ("--outbox", "ob")


def put_corrupt(command):
    """Put an event and damage it; return its id and its undamaged text."""
    (entry_id,) = put_waiting("damaged")
    unblock()
    path = path_of(entry_id)
    whole = path.read_text("utf-8")
    path.write_text("{", "utf-8")
    assert command("deliver", "ob", "--all")[0] == 0
    assert ids(state="corrupt") == [entry_id]
    return entry_id, whole


# Retry with another handler


def test_event_for_a_mistyped_handler_is_given_to_the_right_one(command, here):
    (here / "log").write_text("all well", "utf-8")
    command("send", "n", "--uid", "u", "--attach", "log", "--handler", "flie=events", *AT)
    (wrong,) = ids()
    status, out, _ = command("outbox", "retry", wrong[:8], "--handler", "file=events", *AT)
    (new,) = ids()
    assert (status, out, new != wrong) == (0, [f"{wrong} is due now, with the new ID {new}"], True)
    assert command("deliver", "ob")[0] == 0
    assert (here / "events/n-u/log").read_text("utf-8") == "all well"
    assert ids() == []


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        pytest.param("flie=events", "flie: no handler is named 'flie'", id="an unknown name"),
        pytest.param("file=", "file: the log directory is ''; expected a directory", id="an empty configuration"),
        pytest.param("smtp=x", "smtp: ", id="too few parts"),
        pytest.param("file@soon=events", "file@soon: ", id="an unknown condition"),
    ],
)
def test_retry_with_a_handler_that_cannot_work_changes_nothing(command, handler, reason):
    (entry_id,) = put_waiting("n")
    before = path_of(entry_id).read_bytes()
    status, out, err = command("outbox", "retry", entry_id, "--handler", "file:good=good", "--handler", handler, *AT)
    assert (status, out, f"--handler: {reason}" in err[-1]) == (2, [], True), err
    assert (ids(), path_of(entry_id).read_bytes()) == ([entry_id], before)


def test_retry_with_another_handler_keeps_an_entry_with_a_damaged_attachment(command, here):
    (here / "log").write_text("all well", "utf-8")
    command("send", "n", "--attach", "log", "--handler", "flie=events", *AT)
    (entry_id,) = ids()
    next(here.glob("ob/waiting/*/*/0")).chmod(0o600)
    next(here.glob("ob/waiting/*/*/0")).write_text("other", "utf-8")
    status, _, err = command("outbox", "retry", entry_id, "--handler", "file=events", *AT)
    assert (status, "has changed" in err[0], ids()) == (1, True, [entry_id])


def test_retry_of_all_entries_with_another_handler_is_refused(command):
    put_waiting("n")
    status, _, err = command("outbox", "retry", "--all", "--handler", "file=events", *AT)
    assert (status, "--handler needs an ID" in err[-1]) == (2, True)


# List


def test_golden_entry_is_listed(command):
    due = outbox_index.utc(int(copy_golden().parent.name))
    assert command("outbox", "list", *AT) == (
        0,
        [
            f"{'ID':<38}STATE        DUE                   SINCE                 TRIED  EVENT -> PENDING: LAST ERROR",
            f"{GOLDEN_ID}  waiting      {due}  2026-05-28T20:26:40Z    2 x  compile -> file:archive: not a directory",
        ],
        ["e3-event outbox list: 1 waiting"],
    )


def test_every_state_is_listed_and_counted(command, plugin):
    failed = put_failed(command, plugin)
    corrupt, _ = put_corrupt(command)
    (waiting,) = put_waiting("n")
    claim = Outbox("ob").put(event.Event("now"), {"file": "events"})
    status, out, err = command("outbox", "list", *AT)
    assert status == 1
    assert [re.split(" {2,}", line)[:2] for line in out[1:]] == [
        [claim.entry.id, "in delivery"],
        [waiting, "waiting"],
        [failed, "failed"],
        [corrupt, "corrupt"],
    ]
    assert out[3].endswith("n -> none: no such board")
    assert "cannot be read: " in out[4]
    assert err == ["e3-event outbox list: 1 in delivery, 1 waiting, 1 failed, 1 corrupt"]


def test_empty_or_missing_outbox_is_no_error(command, here):
    command("send", "n", *AT, *TO_FILES)
    assert command("outbox", "list", *AT) == (0, [], ["e3-event outbox list: nothing"])
    assert command("outbox", "list", "--outbox", "no") == (
        0,
        [],
        [f"e3-event outbox list: there is no outbox {here / 'no'} yet"],
    )


def test_entry_of_a_newer_release_is_listed_and_unchanged(command):
    path = copy_golden()
    (path / "entry").write_text('{"version": 99}', "utf-8")
    status, out, _ = command("outbox", "list", *AT)
    assert status == 1
    assert "cannot be read: its version is 99" in out[1]
    assert command("deliver", "ob")[0] == 0
    assert path.exists()


def test_event_name_of_two_lines_is_printed_on_one_line(command):
    put_waiting("a\nb\x1b[31m")
    _, out, _ = command("outbox", "list", *AT)
    assert len(out) == 2
    assert r"  a b\x1b[31m -> file: " in out[1]


@pytest.mark.skipif(os.name == "nt", reason="platform: no pseudo-terminal")
def test_line_is_cut_at_the_terminal_width(here):
    put_waiting("x" * 300)
    master, slave = os.openpty()
    subprocess.run(["stty", "cols", "70"], stdin=slave, check=True)
    process = subprocess.Popen([sys.executable, "-m", "event", "outbox", "list", *AT], stdout=slave)
    os.close(slave)
    text = b""
    try:
        while data := os.read(master, 4096):
            text += data
    except OSError:  # Linux: the other end is closed
        pass
    os.close(master)
    assert process.wait() == 0
    assert [len(line) for line in text.decode().splitlines()] == [70, 70]


def test_first_line_is_printed_before_the_last_entry_is_read(here):
    """If its reader exits, the command ends, without reading all entries."""
    source = copy_golden()
    for number in range(1000):  # whose lines are more than a pipe holds
        shutil.copyfile(source / "entry", f"ob/failed/{number:06}")
    process = subprocess.Popen(
        [sys.executable, "-m", "event", "outbox", "list", *AT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout.readline().startswith("ID ")
    process.stdout.close()
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert rest.startswith("e3-event outbox list: 1 waiting")
    assert sum(map(int, re.findall(r"(\d+) (?:waiting|failed)", rest))) < 1000


# Show


def test_golden_entry_is_shown(command, here):
    path = copy_golden()
    status, out, err = command("outbox", "show", GOLDEN_ID, *AT)
    assert (status, err) == (0, [])
    assert out == [
        f"  id         {GOLDEN_ID}",
        "  state      waiting, due at 2026-05-28T20:28:00Z",
        f"  path       {here / path}",
        "  since      2026-05-28T20:26:40Z",
        "  tried      2 x, last at 2026-05-28T20:27:40Z",
        "  event      compile (42)",
        "  pending    file:archive",
        "  delivered  file",
        "",
        "Attachments (name, file, size, checksum):",
        "  build.log  0  9 bytes  SHA-1 3e68916b4e6d4ce41e38684fa89eb22008661b54",
        "",
        "Journal:",
        "  2026-05-28T20:26:40Z  file          delivered",
        "  2026-05-28T20:26:40Z  file:archive  not delivered: not a directory",
        "",
        "Data:",
        "  {",
        '    "uid": "42",',
        '    "name": "compile",',
        '    "begin_time": "2026-05-28T20:26:30",',
        '    "end_time": "2026-05-28T20:26:39",',
        '    "target": "arm"',
        "  }",
    ]


def test_untried_entry_with_a_missing_file_is_shown(command):
    path = copy_golden()
    first, *_ = (path / "entry").read_text("ascii").split("\n")
    (path / "entry").write_text(f'{first}\n{{"time": "noon", "handler": "other", "ok": false}}\n', "ascii")
    (path / "0").unlink()
    _, out, _ = command("outbox", "show", GOLDEN_ID, *AT)
    assert any("no such file or directory" in line for line in out)
    assert "  ?  other  not delivered:" in out
    (path / "entry").write_text(first, "ascii")
    _, out, _ = command("outbox", "show", GOLDEN_ID, *AT)
    assert "Journal:" not in out


def test_permanent_failure_is_shown(command, plugin):
    entry_id = put_failed(command, plugin)
    _, out, _ = command("outbox", "show", entry_id, *AT)
    assert "  state    failed" in out
    assert "  pending  none" in out
    assert "  failed   strict" in out


def test_problem_and_files_of_a_corrupt_entry_are_shown(command):
    entry_id, _ = put_corrupt(command)
    status, out, _ = command("outbox", "show", entry_id, *AT)
    assert status == 0
    assert out[1] == "  state    corrupt"
    assert out[3].startswith("  problem  the entry cannot be read: ")
    assert len(out) == 4


def test_attachments_of_a_corrupt_entry_are_shown(command):
    path = copy_golden()
    (path / "entry").write_text("{", "ascii")
    assert command("outbox", "show", GOLDEN_ID, *AT)[1][-1] == "  files    0, entry"


# IDs


def test_unique_id_prefix_is_accepted(command):
    copy_golden()
    copy = shutil.copytree(golden_path(), "ob/waiting/1780000080/8f14e45f-ceea-467f-a0e6-000000000002")
    status, _, err = command("outbox", "show", "8f14", *AT)
    assert status == 1
    assert err == ["e3-event outbox show: 2 IDs begin with '8f14'; give a longer prefix"]
    shutil.rmtree(copy)
    assert command("outbox", "show", "8f14", *AT)[0] == 0


def test_full_id_is_accepted_even_if_it_is_a_prefix_of_another(command):
    copy_golden()
    shutil.copytree(golden_path(), f"ob/waiting/1780000080/{GOLDEN_ID}-more")
    assert command("outbox", "show", GOLDEN_ID, *AT)[0] == 0


@pytest.mark.parametrize("action", ["show", "retry", "drop"])
def test_unknown_id_prints_one_line_and_exits_with_1(command, action):
    copy_golden()
    for prefix in ("zz", "", "../waiting"):
        assert command("outbox", action, prefix, *AT) == (
            1,
            [],
            [f"e3-event outbox {action}: no entry's ID begins with {prefix!r}"],
        )
    assert ids() == [GOLDEN_ID]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param([], "the following arguments are required: ACTION", id="no action"),
        pytest.param(["frob"], "invalid choice: 'frob'", id="unknown action"),
        pytest.param(["list", "x", *AT], "the outbox is given twice: 'x' and --outbox ob", id="two outboxes"),
        pytest.param(["list", "--outbox", ""], "--outbox: expected a directory, or none", id="empty outbox"),
        pytest.param(["show", *AT], "the ID is missing", id="show nothing"),
        pytest.param(["show", "a", "b", *AT], "unrecognized argument 'b'; expected one ID", id="show two"),
        pytest.param(["retry", *AT], "the ID is missing", id="retry nothing"),
        pytest.param(["drop", "a", "--force", *AT], "unrecognized argument '--force'", id="unknown option"),
    ],
)
def test_wrong_command_line_prints_one_line_and_exits_with_2(command, here, args, message):
    status, out, err = command("outbox", *args)
    assert (status, out, len(err)) == (2, [], 1)
    assert message in err[0]
    assert not list(here.iterdir())


def test_id_in_a_missing_outbox_is_an_error(command, here):
    assert command("outbox", "drop", "a", *AT) == (1, [], [f"e3-event outbox drop: there is no outbox {here / 'ob'}"])


# Retry and drop


def test_wrong_id_does_not_prevent_the_retry_of_other_entries(command):
    first, second = put_waiting("a", "b")
    unblock()
    status, out, err = command("outbox", "retry", first, "zz", second, *AT)
    assert (status, out) == (1, [f"{first} is due now", f"{second} is due now"])
    assert err == ["e3-event outbox retry: no entry's ID begins with 'zz'"]
    assert command("deliver", "ob")[2][-1] == "e3-event deliver: 2 of 2 delivered; nothing is waiting"


def test_permanent_failure_is_retried(command, plugin, here):
    entry_id = put_failed(command, plugin)
    assert command("outbox", "retry", entry_id, *AT)[0] == 0
    (module,) = here.parent.glob("site/acme_strict_module.py")
    module.write_text(handler_source("return True"), "utf-8")
    assert command("deliver", "ob")[0] == 0
    assert ids(state="failed") == ids() == []


def test_corrupt_entry_is_retried_after_its_repair(command):
    entry_id, whole = put_corrupt(command)
    status, out, err = command("outbox", "retry", entry_id, *AT)
    assert (status, out) == (1, [])
    assert "is moved to corrupt/" in err[0]
    assert err[1] == f"e3-event outbox retry: {entry_id} is not retried: it is being delivered or cannot be read"
    (path,) = pathlib.Path("ob/corrupt").iterdir()
    path.write_text(whole, "utf-8")
    assert command("outbox", "retry", entry_id, *AT) == (0, [f"{entry_id} is due now"], [])
    assert command("deliver", "ob")[0] == 0
    assert len(stored_events()) == 1


def test_entries_of_every_state_are_dropped(command, plugin):
    failed = put_failed(command, plugin)
    corrupt, _ = put_corrupt(command)
    (waiting,) = put_waiting("n")
    status, out, _ = command("outbox", "drop", failed, corrupt, waiting, waiting, *AT)
    assert (status, out) == (0, [f"{entry_id} is dropped" for entry_id in (failed, corrupt, waiting)])
    assert command("outbox", "list", *AT)[2] == ["e3-event outbox list: nothing"]
    assert os.listdir("ob/tmp") == []


@pytest.mark.parametrize("action", ["retry", "drop"])
def test_entry_being_delivered_is_neither_retried_nor_dropped(command, action):
    claim = Outbox("ob").put(event.Event("n"), {"file": "events"})
    status, out, err = command("outbox", action, claim.entry.id, *AT)
    assert (status, out, len(err)) == (1, [], 1)
    assert "is being delivered" in err[0]
    assert ids(state="claimed") == [claim.entry.id]


def test_entry_that_was_moved_meanwhile_prints_one_line(command, monkeypatch):
    copy_golden()
    old_name = Candidate(f"waiting/30/{GOLDEN_ID}")
    monkeypatch.setattr(Outbox, "find", lambda *_: [old_name])
    for action in ("show", "retry", "drop"):
        status, out, err = command("outbox", action, GOLDEN_ID, *AT)
        assert (status, out, len(err)) == (1, [], 1)


def test_time_beyond_the_calendar_is_unknown():
    assert outbox_index.utc(1e300) == "?"
    assert outbox_index.utc(0) == "1970-01-01T00:00:00Z"
