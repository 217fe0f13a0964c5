"""Commands in a working directory that no longer exists."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from helpers.commands import stored_event

pytestmark = pytest.mark.skipif(os.name == "nt", reason="platform: Windows does not remove a working directory")


@pytest.fixture
def process(here, monkeypatch):
    """Return a function that runs the command line in a removed directory."""
    monkeypatch.setenv("E3_EVENT_OUTBOX", str(here / "ob"))

    def run(*args, **env):
        gone = str(here / "gone")
        os.mkdir(gone)
        words = [sys.executable, "-m", "event", *args]
        line = f"cd {shlex.quote(gone)} && rmdir {shlex.quote(gone)} && exec {shlex.join(words)}"
        environment = {**os.environ, **env}
        return subprocess.run(
            ["sh", "-c", line], env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    return run


@pytest.fixture
def to_events(here):
    return "--handler", f"file={here}/events"


RELATIVE = "cannot be kept in the outbox ob and is sent without it: its path is relative, and the working directory no"


@pytest.mark.parametrize("how", ["option", "variable"])
def test_command_runs_in_a_removed_directory_with_a_relative_outbox(process, to_events, how):
    option, variable = (["--outbox", "ob"], {}) if how == "option" else ([], {"E3_EVENT_OUTBOX": "ob"})
    done = process("run", "n", *to_events, *option, "--", "sh", "-c", "exit 7", **variable)
    assert done.returncode == 7
    assert RELATIVE in done.stderr
    assert stored_event()["exit_code"] == 7


@pytest.mark.parametrize("how", ["option", "variable"])
def test_command_runs_in_a_removed_directory_with_a_relative_configuration_file(process, command, here, how):
    option, variable = (["--config", "x.toml"], {}) if how == "option" else ([], {"E3_EVENT_CONFIG": "x.toml"})
    done = process("run", "n", *option, "--", "touch", f"{here}/ran", **variable)
    assert (done.returncode, os.path.exists("ran")) == (0, True)
    assert done.stderr == "e3-event run: x.toml: cannot be read: No such file or directory; kept\n"
    # The relative path must not find another file, which belongs to this directory.
    (here / "x.toml").write_text('[handlers.file]\ndirectory = "events"\n')
    (here / "x.toml").chmod(0o644)
    assert "0 of 1 delivered; 1 waiting" in command("deliver", "--all")[2][-1]
    assert not os.path.exists("events")


def test_event_is_sent_in_a_removed_directory_without_a_relative_attachment(process, to_events):
    done = process("send", "n", "--attach", "build.log", *to_events)
    assert done.returncode == 0
    assert "cannot attach 'build.log' to " in done.stderr
    assert stored_event()["not_attached"] == ["build.log"]


def test_check_reports_a_relative_outbox_in_a_removed_directory(process):
    done = process("check", "--outbox", "ob")
    assert done.returncode == 1
    assert "  ob  broken: its path is relative, and the working directory no longer exists" in done.stdout
