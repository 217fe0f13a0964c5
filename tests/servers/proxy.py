"""An HTTP proxy on 127.0.0.1: the program proxy.py."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from servers.process import TIMEOUT

USER = "ci:s3cret"


@contextmanager
def proxy_server():
    """Run a proxy that requires the user and password `USER`; yield its port."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "port"
        options = ["--hostname", "127.0.0.1", "--port", "0", "--port-file", str(file), "--basic-auth", USER]
        command = [sys.executable, "-m", "proxy", *options, "--num-workers", "1", "--num-acceptors", "1"]
        process = subprocess.Popen(
            [*command, "--data-dir", directory], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield _port(file, process)
        finally:
            process.terminate()
            process.wait(TIMEOUT)


def _port(file, process):
    """Wait until the proxy has written its port to a file; return the port."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end and process.poll() is None:
        text = file.read_text() if file.exists() else ""
        if text.endswith("\n") or text.isdecimal():
            return int(text)
        time.sleep(0.05)
    raise AssertionError("proxy.py has not started")
