"""Run the command line, in a new process or in this one, and install plugins for both."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from event._cli import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Change to an empty directory; return its path."""
    path = tmp_path / "here"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def process(here):
    """Return a function that runs ``python -m event`` until it exits. Its output is UTF-8 in every locale."""

    def run(*args, **kwargs):
        env = {**os.environ, "PYTHONUTF8": "1", **kwargs.pop("env", {})}
        command = [sys.executable, "-m", "event", *args]
        kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
        return subprocess.run(command, env=env, check=False, encoding="utf-8", timeout=120, **kwargs)

    return run


@pytest.fixture
def command(here, capsys):
    """Return a function that runs the command line here. It returns the status and the lines of stdout and stderr."""

    def run(*args):
        status = main([*args])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Return a function that installs a distribution with one module, which registers a handler."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    modules = []

    def install(name, source, *, dist=None, value="Handler", group="e3.event.handler"):
        dist = dist or f"acme_{name}"
        (site / f"{dist}_module.py").write_text(source, "utf-8")
        info = site / f"{dist}-2.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 2.1\n", "utf-8")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {dist}_module:{value}\n", "utf-8")
        modules.append(f"{dist}_module")
        importlib.invalidate_caches()
        return info

    yield install
    for module in modules:
        sys.modules.pop(module, None)
