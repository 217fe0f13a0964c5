"""``e3-event check``."""

from __future__ import annotations

import itertools
import os
import re
import sys
import types
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

from event import EventHandler, _registry
from helpers.commands import stored_events

GOOD = "class Handler:\n    def send_event(self, event): return {result}\n    decode_config = lambda text: {{}}\n"


# Apprise 1.x imports a package that imports imghdr.
loading_apprise = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


class Extra(EventHandler):
    requires: ClassVar = {"json": "frob", "event_surely_missing.a": "frob[b]"}

    def send_event(self, event):
        return True


class NoExtra(Extra):
    requires: ClassVar = {"json": "frob"}


@pytest.fixture
def builtins(monkeypatch):
    """Return a table of the built-in handlers, to which the test may add others."""
    table = dict(_registry.BUILTINS)
    monkeypatch.setattr(_registry, "BUILTINS", table)
    return table


def states(lines):
    """Return the table of installed handlers: name -> (distribution, state)."""
    rows = [re.split(" {2,}", line.strip()) for line in lines[1 : lines.index("")]]
    return {name: (dist, state) for name, dist, state in rows}


def entries(lines, title="Handlers of E3_EVENT_HANDLERS:"):
    """Return the lines below a title, until an empty line."""
    return [*itertools.takewhile(bool, lines[lines.index(title) + 1 :])]


def test_check_succeeds_without_configuration(command):
    status, out, err = command("check")
    assert (status, err) == (0, [])
    assert out[0] == "Installed handlers:"
    assert [states(out)[name][1] for name in ("file", "logging", "smtp")] == ["ok"] * 3
    assert entries(out) == ["  none"]


def test_built_in_handlers_are_listed_with_their_distribution(process):
    done = process("check")
    found = states(done.stdout.splitlines())
    assert {"file", "logging", "smtp", "s3"} <= set(found)
    assert all(dist.startswith("e3-event ") for dist, _ in found.values())
    assert found["file"][1] == "ok"


def test_plugin_is_listed_with_its_distribution(command, plugin):
    plugin("slack", GOOD.format(result=True))
    status, out, _ = command("check")
    assert status == 0
    assert states(out)["slack"] == ("acme_slack 2.1", "ok")


def test_columns_are_aligned(command, plugin):
    plugin("a_very_long_name", GOOD.format(result=True))
    _, out, _ = command("check")
    rows = out[1 : out.index("")]
    assert len({row.index("  ok") for row in rows}) == 1


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param("import frob_is_missing\n", "fails to import: ModuleNotFoundError", id="an import fails"),
        pytest.param("def (:\n", "fails to import: SyntaxError", id="a syntax error"),
        pytest.param("raise SystemExit('bye')\n", "fails to import: SystemExit: bye", id="it exits"),
        pytest.param("Handler = 3\n", "is not a handler", id="no class"),
        pytest.param("class Handler: pass\n", "is not a handler", id="no send_event"),
        pytest.param("class Other: pass\n", "fails to import: AttributeError", id="no such attribute"),
    ],
)
def test_broken_plugin_is_listed_with_the_reason_and_exits_with_1(command, plugin, source, reason):
    plugin("bad", source)
    status, out, err = command("check")
    assert (status, err) == (1, ["e3-event check: 1 problem"])
    dist, state = states(out)["bad"]
    assert dist == "acme_bad 2.1"
    assert state.startswith("broken: handler 'bad'")
    assert reason in state


def test_name_in_two_distributions_is_broken_and_both_are_listed(command, plugin):
    plugin("twice", GOOD.format(result=True), dist="acme_one")
    plugin("twice", GOOD.format(result=True), dist="acme_two", group="event.handler")
    status, out, _ = command("check")
    assert status == 1
    dist, state = states(out)["twice"]
    assert dist == "acme_one 2.1, acme_two 2.1"
    assert "registered more than once" in state


@pytest.mark.parametrize(
    ("dist", "status", "state"),
    [
        pytest.param("acme_file", 1, "broken: not used: 'file' is a built-in handler", id="another package"),
        pytest.param("e3-core", 0, "not used: 'file' is a built-in handler", id="e3-core, which has the same handlers"),
    ],
)
def test_plugin_with_the_name_of_a_built_in_handler_is_reported(command, plugin, dist, status, state):
    plugin("file", GOOD.format(result=True), dist=dist)
    actual, out, _ = command("check")
    assert actual == status
    built_in, plugins = [re.split(" {2,}", line.strip()) for line in out if line.startswith("  file ")]
    assert built_in[1].startswith("e3-event ")
    assert plugins == ["file", f"{dist} 2.1", state]


def test_damaged_metadata_of_one_distribution_does_not_hide_the_rest(command, plugin):
    info = plugin("odd", GOOD.format(result=True))
    (info / "METADATA").unlink()
    _, out, _ = command("check")
    assert states(out)["odd"][0] == "an unknown distribution"
    assert states(out)["file"][1] == "ok"


def test_entry_point_without_a_distribution_is_listed_as_unknown(command, monkeypatch):
    monkeypatch.setattr(_registry, "entry_points", lambda: [EntryPoint("odd", "m:H", "e3.event.handler")])
    _, out, _ = command("check")
    assert states(out)["odd"][0] == "an unknown distribution"


def test_missing_extra_is_reported_but_not_broken(command, builtins):
    builtins["frob"] = (__name__, "Extra")
    builtins["knob"] = (__name__, "NoExtra")
    status, out, _ = command("check")
    assert status == 0
    assert states(out)["frob"][1] == 'event_surely_missing.a not installed; run: pip install "frob[b]"'
    assert states(out)["knob"][1] == "ok"


def test_loaded_module_without_a_spec_is_found(command, builtins, monkeypatch):
    monkeypatch.setitem(sys.modules, "event_specless", types.ModuleType("event_specless"))
    monkeypatch.setattr(Extra, "requires", {"event_specless": "frob"})
    builtins["frob"] = (__name__, "Extra")
    _, out, _ = command("check")
    assert states(out)["frob"][1] == "ok"


def test_built_in_handler_that_fails_to_import_is_broken(command, builtins):
    builtins["frob"] = ("event_surely_missing", "Handler")
    status, out, _ = command("check")
    assert status == 1
    assert states(out)["frob"][1].startswith("broken: ModuleNotFoundError")


def test_each_entry_of_the_variable_is_listed_without_its_configuration(command, monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", "file=hidden1|fiel=hidden2|file:b=hidden3|file=hidden4")
    status, out, err = command("check")
    assert (status, err[1:]) == (1, ["e3-event check: 1 problem"])
    assert "'file' appears twice" in err[0]
    assert "hidden" not in "".join(out + err)
    assert [line.split()[:2] for line in entries(out)] == [
        ["file", "not"],
        ["fiel", "broken:"],
        ["file:b", "ok"],
        ["file", "ok"],
    ]
    assert not os.listdir()


@loading_apprise
@pytest.mark.parametrize(
    ("config", "attribute"),
    [
        pytest.param("http=REFERENCE", "url", id="http-url"),
        pytest.param("http=http://127.0.0.1:9,,REFERENCE", "secret", id="http-secret"),
        pytest.param("http:label=REFERENCE", "url", id="label"),
        pytest.param("apprise=json://127.0.0.1:9 REFERENCE", "urls", id="apprise"),
        pytest.param("otel=REFERENCE", "endpoint", id="otel-endpoint"),
        pytest.param("otel=,,REFERENCE", "headers", id="otel-headers"),
        pytest.param("broker=REFERENCE", "url", id="broker"),
    ],
)
@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        pytest.param("env:T0PSECRET", "env:T0PSECRET is not set or empty", id="env"),
        pytest.param("file:missing", "file:missing cannot be read: No such file or directory", id="file"),
    ],
)
def test_unresolved_reference_is_a_problem(command, monkeypatch, config, attribute, reference, reason):  # noqa: PLR0913
    name, _, rest = config.replace("REFERENCE", reference).partition("=")
    monkeypatch.setenv("E3_EVENT_HANDLERS", f"{name}={rest}")
    status, out, err = command("check")
    assert (status, err) == (1, ["e3-event check: 1 problem"])
    (entry,) = entries(out)
    assert entry.startswith(f"  {name}  broken: {attribute}: {reason}")


@loading_apprise
def test_resolved_references_are_fine_and_not_shown(command, monkeypatch):
    monkeypatch.setenv("HOOK", "json://127.0.0.1:9/t0psecret")
    with open("key", "w", encoding="utf-8") as file:
        file.write("whsec_dDBwc2VjcmV0\n")
    monkeypatch.setenv(
        "E3_EVENT_HANDLERS", "http=http://127.0.0.1:9,,file:key|apprise=env:HOOK json://127.0.0.1:9|otel"
    )
    status, out, err = command("check")
    assert (status, err, entries(out)) == (0, [], ["  http     ok", "  apprise  ok", "  otel     ok"])


@pytest.mark.parametrize(
    ("attributes", "state"),
    [
        ("", "ok"),
        ("references = ('url',); url = 'env:BOARD'", "ok"),
        (
            "references = ('url',); url = 'env:ABSENT'",
            "broken: url: env:ABSENT is not set or empty; expected it to hold the secret",
        ),
        ("references = ('absent',)", "broken: AttributeError: 'Handler' object has no attribute 'absent'"),
    ],
)
def test_references_of_a_plugin_are_resolved(command, plugin, monkeypatch, attributes, state):
    plugin("board", GOOD.format(result=True) + f"\n    {attributes}\n")
    monkeypatch.setenv("BOARD", "https://board.example.com")
    monkeypatch.setenv("E3_EVENT_HANDLERS", "board")
    status, out, _ = command("check")
    assert (status, entries(out)) == (int(state != "ok"), [f"  board  {state}"])


def test_requirements_of_a_plugin_are_listed(command, plugin):
    plugin("board", GOOD.format(result=True) + "\n    requires = {'event_surely_missing': 'board-client'}\n")
    status, out, _ = command("check")
    assert status == 0
    assert states(out)["board"][1] == 'event_surely_missing not installed; run: pip install "board-client"'


def test_handlers_can_be_checked_before_they_are_configured(command):
    status, out, _ = command("check", "--send", "--handler", "file=events")
    assert status == 0
    assert entries(out, "Handlers of --handler:") == ["  file  ok"]
    (data,) = stored_events()
    assert (data["name"], data["test"]) == ("e3-event check", True)
    assert data["end_time"] is not None
    assert f"Test event {data['uid']}:" in out
    assert out[-1].startswith("  file  delivered in ")


def test_refused_test_event_names_the_handler(command, plugin, monkeypatch):
    plugin("down", GOOD.format(result=False))
    plugin("slack", GOOD.format(result=True))
    monkeypatch.setenv("E3_EVENT_HANDLERS", "slack|down|file=events")
    status, out, err = command("check", "--send")
    assert (status, err) == (1, ["e3-event check: 1 problem"])
    slack, down, file = out[-3:]
    assert slack.startswith("  slack  delivered")
    assert down == "  down   the handler returned False; not delivered"
    assert file.startswith("  file   delivered")


def test_test_event_without_a_handler_is_a_problem(command):
    status, _, err = command("check", "--send", "--env", "NONE")
    assert status == 1
    assert err[0].startswith("e3-event check: nothing is sent: NONE names no handler; set it, as in NONE=file=events")


def test_check_sends_nothing_without_send(command, monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", "file=events")
    assert command("check")[0] == 0
    assert not os.listdir()
