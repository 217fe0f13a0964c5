"""A program packed by PyInstaller finds the built-in handlers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from event import _pyinstaller

PROGRAM = """
import event
event.add_handler("file", "events")
assert event.send_event(event.Event("packed"))
"""


def test_pyinstaller_finds_the_hooks():
    (directory,) = _pyinstaller.hook_directories()
    assert "hook-event.py" in os.listdir(directory)


@pytest.mark.server
@pytest.mark.long  # PyInstaller takes twenty seconds
def test_a_packed_program_sends_an_event(tmp_path):
    pytest.importorskip("PyInstaller")
    (tmp_path / "program.py").write_text(PROGRAM)
    pack = [sys.executable, "-m", "PyInstaller", "--log-level=ERROR", "--onedir", "program.py"]
    subprocess.run(pack, cwd=tmp_path, check=True)
    program = tmp_path / "dist" / "program" / "program"
    subprocess.run([program], cwd=tmp_path, check=True, env={"PATH": os.environ["PATH"]})
    assert len([*(tmp_path / "events").glob("packed-*.json")]) == 1
