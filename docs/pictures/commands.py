"""Run the commands of a picture: with this virtual environment and the servers of the tests, without your settings."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests"
# Variables that would put your own handlers, trace, certificates or passwords into a picture.
FOREIGN = ("E3_EVENT_", "E3_ENABLE_", "OTEL_", "TRACEPARENT", "TRACESTATE", "SSL_CERT_", "NETRC")


def make_servers_importable() -> None:
    """Make ``servers.smtp`` and ``servers.otlp`` importable."""
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))


def environment(**variables: str) -> dict[str, str]:
    """Return the environment variables for a command."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN) and not name.lower().endswith("_proxy")
    }
    path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)))
    if modules := os.environ.get("PYTHONPATH"):
        # The command has its own working directory, so make relative paths absolute.
        kept["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, modules.split(os.pathsep)))
    return {**kept, "PATH": path, "PYTHONUTF8": "1", **variables}


def run(command: list[str], directory: Path, status: int, **variables: str) -> str:
    """Run a command; return its output, including stderr.

    :param status: the expected exit status
    :raises RuntimeError: the exit status differs
    """
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != status:
        raise RuntimeError(f"{command} ends with status {done.returncode}, not {status}:\n{done.stdout}")
    return done.stdout
