"""`deliver` with an outbox on a disk that does not respond. test_bad_plugins.py tests `send` and `run`."""

from __future__ import annotations

import os

import pytest

if os.name == "nt":
    pytest.skip("platform: the test patches what POSIX systems use", allow_module_level=True)

# Runs in each process at its start: each call for the outbox hangs.
HANGING_CALLS = """
import os, time
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
def hung_disk(tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HANGING_CALLS, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(site))


@pytest.mark.server
@pytest.mark.usefixtures("hung_disk")
def test_deliver_exits_if_the_disk_hangs(process):
    done = process("deliver", "hung-outbox", "--timeout", "1")
    assert done.returncode == 1
    assert "the outbox does not answer" in done.stderr
