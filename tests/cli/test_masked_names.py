"""Names of files on stderr hold no secret."""

from __future__ import annotations

import sys

import pytest

from helpers.commands import TO_FILES

SECRET = "hush-hush-hush"


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(["send", "n", f"key=@/{SECRET}"], id="send file"),
        pytest.param(["send", "--from-file", f"/{SECRET}"], id="send dump"),
        pytest.param(["run", "n", f"key=@/{SECRET}", "--", "true"], id="run file"),
        pytest.param(["run", "n", "--log", f"/{SECRET}/log", "--", "true"], id="log"),
        pytest.param(["run", "n", "--junit", f"/{SECRET}", "--", "true"], id="junit"),
        pytest.param(["run", "n", "--", f"/{SECRET}"], id="command"),
        pytest.param(["send", "n", "--attach", f"/{SECRET}"], id="attachment"),
    ],
)
@pytest.mark.parametrize("where", ["environment", "file"])
def test_secret_in_the_name_of_a_file_is_masked_on_stderr(process, config, args, where):
    name = "MY_TOKEN" if where == "environment" else "MY_PIN"
    config(f'redact = ["env:{name}"]\n')
    end = args.index("--") if "--" in args else len(args)
    done = process(*args[:end], *TO_FILES, *args[end:], env={name: SECRET})
    assert "***" in done.stderr
    assert SECRET not in done.stderr


def test_line_is_not_shown_if_its_secrets_cannot_be_masked(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "event._redact", None)
    status, _, err = command("run", "n", "--", f"/{SECRET}")
    assert (status, SECRET in "".join(err)) == (127, False)
    assert err[0].startswith("e3-event run: a line is not shown, because secrets in it cannot be masked: ")
