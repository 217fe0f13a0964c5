"""What a run finds around it: this environment's programs, the servers of the tests, and nothing of this machine's."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests"
# Variables that would put your own handlers, trace, certificates or passwords into a picture.
FOREIGN = ("E3_EVENT_", "E3_ENABLE_", "OTEL_", "TRACEPARENT", "TRACESTATE", "SSL_CERT_", "NETRC")


def servers_of_the_tests() -> None:
    """Let ``servers.smtp`` and ``servers.otlp`` be imported."""
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))


def environment(**variables: str) -> dict[str, str]:
    """Return the variables of a run."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN) and not name.lower().endswith("_proxy")
    }
    path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)))
    if modules := os.environ.get("PYTHONPATH"):
        # A run has a directory of its own, where a relative path would lead to another checkout, or to none.
        kept["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, modules.split(os.pathsep)))
    return {**kept, "PATH": path, "PYTHONUTF8": "1", **variables}


def run(command: list[str], directory: Path, status: int, **variables: str) -> str:
    """Run a command; return what it writes, stderr included.

    :param status: the exit status that makes the picture a true one
    :raises RuntimeError: it is another one
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
