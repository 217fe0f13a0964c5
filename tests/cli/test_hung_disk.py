"""An outbox on a disk that does not answer, for `deliver`; for `send` and `run`, see test_bad_plugins."""

from __future__ import annotations

import os

import pytest

if os.name == "nt":
    pytest.skip("platform: the test patches what POSIX systems use", allow_module_level=True)

# Runs in each process before anything else: what touches the outbox never returns.
HANGS = """
import builtins, os, time
def hanging(call):
    def hang(path, *args, **kwargs):
        if isinstance(path, str) and "hung-outbox" in path:
            time.sleep(600)
        return call(path, *args, **kwargs)
    return hang
for name in ("open", "mkdir", "stat", "lstat", "scandir", "listdir", "rename", "unlink"):
    setattr(os, name, hanging(getattr(os, name)))
"""


@pytest.fixture
def hangs(tmp_path, monkeypatch):
    site = tmp_path / "hangs"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HANGS, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(site))


@pytest.mark.server
def test_deliver_ends_if_the_disk_hangs(process, hangs):
    done = process("deliver", "hung-outbox", "--timeout", "1")
    assert done.returncode == 1
    assert "the outbox does not answer" in done.stderr
