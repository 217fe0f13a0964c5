"""The format of outbox entries is that of the golden entries, and the documentation shows it."""

from __future__ import annotations

import json
import os
import re

import event
from cli.outboxes import (
    GOLDEN,
    TRACED_ID,
    block,
    golden_path,
    ids,
    path_of,
    text_of,
)

AT = ("--outbox", "ob")


def test_new_entry_has_the_format_of_the_golden_entry(command, here):
    """Other releases and other programs rely on the format."""
    (here / "build.log").write_text("all well\n", "utf-8")
    block("archive")
    args = ["send", "compile", "target=arm", "--uid", "42", "--attach", "build.log", *AT]
    assert command(*args, "--handler", "file=events", "--handler", "file:archive=archive")[0] == 0
    (entry_id,) = ids()
    path, model = path_of(entry_id), golden_path()
    assert sorted(os.listdir(path)) == sorted(os.listdir(model))
    assert (path / "0").read_bytes() == (model / "0").read_bytes()
    written, expected = (lines_of(place)[:3] for place in (path, model))
    for lines in (written, expected):
        lines[1:] = sorted(lines[1:], key=lambda line: line["handler"])  # handlers run in parallel
    assert [shape(line) for line in written] == [shape(line) for line in expected]
    assert written[0]["event"]["attachments"] == expected[0]["event"]["attachments"]


def lines_of(path):
    """Return the complete lines of an entry's text."""
    return [json.loads(line) for line in text_of(path).read_text("ascii").split("\n")[:-1]]


def test_new_entry_with_a_span_has_the_format_of_the_golden_entry(command, monkeypatch):
    model = lines_of(golden_path(TRACED_ID))[0]
    monkeypatch.setenv("TRACEPARENT", model["trace"]["traceparent"])
    monkeypatch.setenv("TRACESTATE", model["trace"]["tracestate"])
    block()
    manager = event.EventManager(outbox="ob")
    manager.add_handler("file", "events")
    with event.track("build") as parent:
        assert not manager.send_event(event.Event("released"))
    (entry_id,) = ids()
    written = lines_of(path_of(entry_id))[0]
    assert shape(written) == shape(model)
    assert written["trace"] == {key: getattr(parent, key) for key in model["trace"]}


def shape(value):
    """Return the keys and types of a JSON value, in order."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    return [shape(item) for item in value] if isinstance(value, list) else type(value)


def test_formats_page_shows_the_golden_entry():
    page = (GOLDEN.parents[2] / "docs/reference/formats.md").read_text("utf-8")
    shown = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", page, re.DOTALL) if "handlers" in text]
    assert shown == [lines_of(golden_path())[0]]
    (trace,) = re.findall(r'```json\n(\{"trace".*?)```', page, re.DOTALL)
    assert json.loads(trace)["trace"] == lines_of(golden_path(TRACED_ID))[0]["trace"]
    (journal,) = re.findall(r"```text\n(.{,3}time.*?)```", page, re.DOTALL)
    assert [json.loads(text) for text in re.split(r"\n(?=\{)", journal)] == lines_of(golden_path())[1:]
