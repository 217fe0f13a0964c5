"""Completion scripts for shells."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from event._cli import completion
from event._cli._support.help_text import COMMANDS
from event._cli._support.parser import build_parser


def test_completion_has_every_command_and_option():
    words = completion.words_by_command(build_parser())
    assert set(COMMANDS) <= set(words[""])
    assert {"list", "show", "retry", "drop", "prune"} <= set(words["outbox"])
    assert {"--outbox", "--json"} <= set(words["outbox list"])
    assert {"--handler", "--attach"} <= set(words["send"])
    assert {"bash", "zsh", "fish"} <= set(words["completion"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_contains_the_commands(command, shell):
    status, out, err = command("completion", shell)
    assert (status, err) == (0, [])
    assert "prune" in "\n".join(out)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_accepts_the_script(command, shell):
    if not shutil.which(shell):
        pytest.skip(f"platform: {shell} is not installed")
    script = "\n".join(command("completion", shell)[1])
    done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name == "nt", reason="platform: bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["de"], ["deliver"], id="a command"),
        pytest.param(["outbox", "pr"], ["prune"], id="a subcommand"),
        pytest.param(["send", "n", "--outbox", "x", "--str"], ["--strict"], id="an option"),
        pytest.param(["run", "n", "--", "--str"], [], id="after --"),
    ],
)
def test_bash_completes(command, words, expected):
    script = "\n".join(command("completion", "bash")[1])
    line = " ".join(["e3-event", *words])
    code = f'{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}; _e3_event; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


@pytest.mark.skipif(not shutil.which("fish"), reason="platform: fish is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("de", ["deliver"], id="a command"),
        pytest.param("outbox pr", ["prune"], id="a subcommand"),
        pytest.param("send n --outbox x --str", ["--strict"], id="an option"),
    ],
)
def test_fish_completes(command, tmp_path, line, expected):
    script = tmp_path / "completion.fish"
    script.write_text("\n".join(command("completion", "fish")[1]), "utf-8")
    code = f"source {script}; complete -C 'e3-event {line}'"
    done = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True, check=True)
    assert [each.split("\t")[0] for each in done.stdout.splitlines()] == expected


def test_unknown_shell_is_a_wrong_command_line(command):
    assert command("completion", "tcsh")[0] == 2
