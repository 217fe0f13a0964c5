"""Where the benchmark runs: a separate environment for each library, and no inherited settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from contextlib import ExitStack, contextmanager
from pathlib import Path

JOBS = Path(__file__).parent / "jobs"
CHECKOUT = Path(__file__).parents[2]
# e3-core imports pkg_resources. Later versions of setuptools print a warning about it, or do not have it.
PEERS = {"e3": ["e3-core", "setuptools<80.9"], "signals": ["blinker", "pluggy"]}
ENVIRONMENT_OF = {
    "event": "event",
    "e3.event": "e3",
    "blinker": "signals",
    "pluggy": "signals",
    "hashlib": "event",
    "handlers": "handlers",
}
# What the handlers, the test servers and the peers need.
HANDLERS = [f"{CHECKOUT}[all]", "aiosmtpd", "moto[server]", "pytest", "trustme"]
HANDLERS += ["kombu[redis]", "opentelemetry-exporter-otlp-proto-http", "urllib3"]
_ATTACHMENT_SIZE = 100_000  # bytes
_OMITTED_VARIABLES = ("E3_", "PYTHON", "COVERAGE_", "COV_CORE_")


class Workplace:
    """The interpreters, the job scripts and the scratch directories.

    :ivar pythons: environment -> its interpreter
    :ivar scratch: directory for the files of most jobs; in memory if possible, since the timings of a disk vary by
        more than the differences to measure
    :ivar disk: directory for the files of the jobs that measure the disk
    :ivar shared_servers: an ExitStack that keeps each server running for all rows; None starts one for each row
    :ivar urls: kind of a shared server -> its URL
    """

    def __init__(self, pythons, directory, scratch, shared_servers=None):
        self.pythons = pythons
        self.shared_servers = shared_servers
        self.urls = {}
        self.scratch = scratch
        self.disk = directory
        self.jobs = directory / "jobs"
        self.attachment = scratch / "attachment"
        self.attachment.write_bytes(os.urandom(_ATTACHMENT_SIZE))
        self._environ = {k: v for k, v in os.environ.items() if not k.startswith(_OMITTED_VARIABLES)}
        self._write_jobs()

    def _write_jobs(self):
        shutil.copytree(JOBS, self.jobs, ignore=shutil.ignore_patterns("bench_plugin.py", "__pycache__"))
        ours = (JOBS / "with_event.py").read_text(encoding="utf-8")
        theirs = ours.replace("import event\n", "import e3.event as event\n")
        (self.jobs / "with_e3.py").write_text(theirs, encoding="utf-8")
        by_hand = "".join((JOBS / name).read_text(encoding="utf-8") for name in ("look_up.py", "by_hand.py"))
        (self.jobs / "by_hand_with_plugin.py").write_text(by_hand, encoding="utf-8")

    def has(self, library):
        """Return whether a library is installed in one of the environments."""
        return ENVIRONMENT_OF[library] in self.pythons

    def python(self, library, *arguments):
        """Return a command for the interpreter of a library's environment."""
        return [self.pythons[ENVIRONMENT_OF[library]], *map(str, arguments)]

    def program(self, *arguments):
        """Return a command for the program ``e3-event`` that pip installed."""
        return [shutil.which("e3-event", path=os.path.dirname(self.pythons["event"])), *arguments]

    def run(self, command):
        """Run a child process; return its stdout."""
        return subprocess.run(command, env=self._environ, stdout=subprocess.PIPE, check=True, text=True).stdout

    def start(self, command, *, stdin=subprocess.DEVNULL, stdout=None, stderr=None, **environ):
        """Start a child process with these additional environment variables; return it."""
        environ = {**self._environ, **environ}
        return subprocess.Popen(command, env=environ, stdin=stdin, stdout=stdout, stderr=stderr)

    def seconds(self, command, **environ):
        """Run a child process with these additional environment variables; return its duration in seconds."""
        start = time.perf_counter()
        subprocess.run(
            command, env={**self._environ, **environ}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
        )
        return time.perf_counter() - start

    def seconds_to_first_line(self, command):
        """Run a child process until it writes a line; return the seconds that this takes."""
        start = time.perf_counter()
        with subprocess.Popen(command, env=self._environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            process.stdout.readline()
            seconds = time.perf_counter() - start
            process.kill()
        return seconds

    @contextmanager
    def server(self, kind):
        """Run a test server in a process of its own; yield its URL.

        :param kind: name of a function of jobs/serve.py; None runs no server and yields ""
        """
        if kind is None:
            yield ""
        elif self.shared_servers is None:
            with self._new_server(kind) as url:
                yield url
        else:
            if kind not in self.urls:
                self.urls[kind] = self.shared_servers.enter_context(self._new_server(kind))
            yield self.urls[kind]

    @contextmanager
    def _new_server(self, kind):
        with self.fresh_directory(on_disk=True) as directory:  # a broker syncs its files, as the outbox does
            command = self.python("handlers", self.jobs / "serve.py", CHECKOUT / "tests", kind, directory)
            with subprocess.Popen(
                command, env=self._environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as process:
                try:
                    url = process.stdout.readline().strip()
                    if not url:
                        sys.exit(f"the server {kind} does not start")
                    yield url
                finally:
                    process.communicate()  # closes its stdin, which ends it

    @contextmanager
    def fresh_directory(self, *, on_disk=False, room=0):
        """Yield a new directory, which is removed afterwards.

        :param on_disk: create it on the disk, not in memory
        :param room: number of bytes that must fit into it
        """
        on_disk = on_disk or shutil.disk_usage(self.scratch).free < room
        with tempfile.TemporaryDirectory(dir=self.disk if on_disk else self.scratch) as directory:
            yield directory


@contextmanager
def with_peers(home=None):
    """Yield a workplace that has this checkout and the peers.

    :param home: directory that keeps the environments for the next run; None removes them at the end
    """
    with _directories() as (directory, scratch):
        environments = Path(home or directory) / "environments"
        pythons = {
            "event": _install(environments / "event", [str(CHECKOUT)], always=True),
            "handlers": _install(environments / "handlers", HANDLERS, always=True),
        }
        for name, requirements in PEERS.items():
            pythons[name] = _install(environments / name, requirements)
        for name in ("event", "e3"):
            packages = _packages(pythons[name])
            _install_plugin(packages)
            subprocess.run([pythons[name], "-m", "compileall", "-q", str(packages)], check=True)
        yield Workplace(pythons, directory, scratch)


@contextmanager
def without_peers():
    """Yield a workplace on this interpreter, which must have e3-event. It has no peers."""
    with _directories() as (directory, scratch), ExitStack() as servers:
        workplace = Workplace({"event": sys.executable, "handlers": sys.executable}, directory, scratch, servers)
        _install_plugin(workplace.jobs)  # Python adds a script's directory to its path
        yield workplace


@contextmanager
def _directories():
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="event-bench-") as directory,
        tempfile.TemporaryDirectory(prefix="event-bench-", dir=memory) as scratch,
    ):
        yield Path(directory), Path(scratch)


def _install(path, requirements, *, always=False):
    """Create an environment with these requirements, but without pip; return its interpreter."""
    python = path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = path / "requirements.json"
    wanted = json.dumps([requirements, sys.version])
    if always or not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"installing {' '.join(requirements)}", file=sys.stderr)
        venv.create(path, clear=True, symlinks=os.name != "nt")
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", *requirements], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return str(python)


def _packages(python):
    """Return the site-packages directory of an environment."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def _install_plugin(packages):
    """Write the files that pip would install for a distribution with bench_plugin.py."""
    shutil.copy(JOBS / "bench_plugin.py", packages)
    info = packages / "bench_plugin-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-plugin\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[e3.event.handler]\nbench = bench_plugin:Handler\n", encoding="utf-8")
