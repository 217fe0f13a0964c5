"""Run the command line, in a new process or in this one, and install plugins for both."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys

import pytest

from cli.processes import started
from event._cli import main
from event._process import ci
from helpers.commands import TO_FILES

CI_MARKS = {variables["mark"].partition("=")[0] for variables in ci.SYSTEMS.values()}


@pytest.fixture(autouse=True)
def outside_of_ci(monkeypatch):
    for name in CI_MARKS:
        monkeypatch.delenv(name, raising=False)


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
def run(process):
    """Return a function that runs ``e3-event run n``, with the file handler unless the options name others."""

    def run(*args, default_handlers=TO_FILES, **kwargs):
        handlers = () if "--handler" in args[: args.index("--")] else default_handlers
        return process("run", "n", *handlers, *args, **kwargs)

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
def config(here, monkeypatch):
    """Return a function that writes a configuration file. No variable overrides its outbox."""
    monkeypatch.delenv("E3_EVENT_OUTBOX")

    def write(text, name="e3-event.toml"):
        path = here / name
        path.write_text(text, "utf-8")
        path.chmod(0o644)
        return str(path)

    return write


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


@pytest.fixture
def broker(monkeypatch, request):
    """Set ``BROKER`` to the URL of a broker; return a queue of it."""
    queue = request.getfixturevalue(getattr(request, "param", "stream"))
    monkeypatch.setenv("BROKER", queue.server.url)
    return queue


@pytest.fixture
def relaying(broker, here):
    """Return a function that starts a relay of the queue."""
    with contextlib.ExitStack() as stack:

        def start(*args, **kwargs):
            return stack.enter_context(started("relay", "env:BROKER", "--queue", broker.name, *args, **kwargs))

        yield start
