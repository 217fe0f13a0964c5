"""The setting `redact` of the configuration file."""

from __future__ import annotations

import pathlib

import pytest

from helpers.commands import stored_events

TO_EVENTS = '[handlers.file]\ndirectory = "events"\n'
REDACTED = 'redact = ["env:DEPLOY_PINCODE"]\n'


def test_configuration_file_sets_redaction(command, config, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hush-hush-hush")
    config(TO_EVENTS)
    command("send", "a", "x=hush-hush-hush")
    config(f"redact = false\n{TO_EVENTS}")
    command("send", "b", "x=hush-hush-hush")
    assert [data["x"] for data in stored_events()] == ["***", "hush-hush-hush"]


@pytest.mark.parametrize("trigger", ["next event", "deliver"])
@pytest.mark.parametrize("how", ["one line", "several lines", "typo"])
def test_event_kept_for_a_wrong_file_is_delivered_without_the_secrets_of_the_fixed_one(
    command, config, monkeypatch, trigger, how
):
    monkeypatch.setenv("DEPLOY_PINCODE", "4711-0815")
    redact = {"one line": REDACTED, "several lines": REDACTED.replace("[", "[\n"), "typo": "redact = [\n"}[how]
    config(f"{redact}[handlers.file\n")
    assert command("send", "a", "x=pin 4711-0815", "--outbox", "ob")[0] == 0
    (entry,) = pathlib.Path("ob/waiting").rglob("*-*-*")
    assert ("4711-0815" in entry.read_text("utf-8")) == (how != "one line")
    config(f"{REDACTED}{TO_EVENTS}")
    if trigger == "deliver":
        assert command("deliver", "--all", "ob")[0] == 0
    else:
        assert command("send", "b", "--outbox", "ob")[0] == 0
    assert [data["x"] for data in stored_events() if "x" in data] == ["pin ***"]


def test_invalid_item_of_redact_is_reported_and_the_others_are_applied(command, config, monkeypatch):
    monkeypatch.setenv("DEPLOY_PINCODE", "4711-0815")
    path = config(f'redact = ["env:DEPLOY_PINCODE", ""]\n{TO_EVENTS}')
    err = command("send", "a", "x=pin 4711-0815")[2]
    assert err[0] == f"e3-event send: {path}: redact: expected a text or a list of texts, none of them empty"
    assert [data["x"] for data in stored_events()] == ["pin ***"]


def test_missing_secret_of_redact_is_reported(command, config, here):
    path = config(f'redact = ["env:TYPO", "file:gone", "a secret text"]\n{TO_EVENTS}')
    lines = [
        f"{path}: redact: env:TYPO is not set or empty; expected it to hold the secret",
        f"{path}: redact: file:{here}/gone cannot be read: No such file or directory",
    ]
    assert command("send", "a")[2][:2] == [f"e3-event send: {line}" for line in lines]
    status, _, err = command("run", "a", "--strict", "--", "true")
    assert (status, err) == (1, [f"e3-event run: {line}" for line in lines])
    assert len(stored_events()) == 2
    status, out, err = command("check")
    assert (status, err) == (1, [*(f"e3-event check: {line}" for line in lines), "e3-event check: 2 problems"])
    assert f"  redact       on, 3 more; missing: env:TYPO, file:{here}/gone" in "\n".join(out)
