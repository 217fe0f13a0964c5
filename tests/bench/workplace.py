"""Where the benchmark runs: an environment for each library, nothing else installed in it, and a clean surrounding."""

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
# e3-core imports pkg_resources; later ones have it print a warning, or do not have it.
PEERS = {"e3": ["e3-core", "setuptools<80.9"], "signals": ["blinker", "pluggy"]}
ENVIRONMENT_OF = {
    "event": "ours",
    "e3.event": "e3",
    "blinker": "signals",
    "pluggy": "signals",
    "hashlib": "ours",
    "handlers": "handlers",
}
# What the handlers need, the servers of the tests that they talk to, and the peers that do it by hand.
HANDLERS = [f"{CHECKOUT}[all]", "aiosmtpd", "moto[server]", "pytest", "trustme"]
HANDLERS += ["kombu[redis]", "opentelemetry-exporter-otlp-proto-http", "urllib3"]
_ATTACHMENT_SIZE = 100_000  # bytes
_LEFT_OUT = ("E3_", "PYTHON", "COVERAGE_", "COV_CORE_")


class Workplace:
    """Holds the interpreters, the job scripts and the scratch directory.

    :ivar pythons: environment -> its interpreter
    :ivar scratch: what is measured writes here; in memory where the system has a place for that, since a disk's
        moods are larger than what is to be seen
    :ivar kept: an ExitStack: each server runs until it is closed, for all rows; None: each row has a server of its own
    :ivar urls: kind of a kept server -> its URL
    :ivar disk: what is to be measured with those moods writes here
    """

    def __init__(self, pythons, directory, scratch, kept=None):
        self.pythons = pythons
        self.kept = kept
        self.urls = {}
        self.scratch = scratch
        self.disk = directory
        self.jobs = directory / "jobs"
        self.attachment = scratch / "attachment"
        self.attachment.write_bytes(os.urandom(_ATTACHMENT_SIZE))
        self._environ = {k: v for k, v in os.environ.items() if not k.startswith(_LEFT_OUT)}
        self._write_jobs()

    def _write_jobs(self):
        shutil.copytree(JOBS, self.jobs, ignore=shutil.ignore_patterns("bench_plugin.py", "__pycache__"))
        ours = (JOBS / "with_event.py").read_text(encoding="utf-8")
        theirs = ours.replace("import event\n", "import e3.event as event\n")
        (self.jobs / "with_e3.py").write_text(theirs, encoding="utf-8")
        by_hand = "".join((JOBS / name).read_text(encoding="utf-8") for name in ("look_up.py", "by_hand.py"))
        (self.jobs / "by_hand_with_plugin.py").write_text(by_hand, encoding="utf-8")

    def has(self, library):
        """Tell whether a library can be measured here."""
        return ENVIRONMENT_OF[library] in self.pythons

    def python(self, library, *arguments):
        """Return the command that runs the interpreter of a library's environment."""
        return [self.pythons[ENVIRONMENT_OF[library]], *map(str, arguments)]

    def program(self, *arguments):
        """Return the command that runs the program ``e3-event``, as an installer makes it."""
        return [shutil.which("e3-event", path=os.path.dirname(self.pythons["ours"])), *arguments]

    def run(self, command):
        """Run a child process; return what it prints."""
        return subprocess.run(command, env=self._environ, stdout=subprocess.PIPE, check=True, text=True).stdout

    def start(self, command, *, stdin=subprocess.DEVNULL, stdout=None, stderr=None, **environ):
        """Start a child process, with further environment variables; return it."""
        environ = {**self._environ, **environ}
        return subprocess.Popen(command, env=environ, stdin=stdin, stdout=stdout, stderr=stderr)

    def seconds(self, command, **environ):
        """Run a child process, with further environment variables; return how long it lives."""
        start = time.perf_counter()
        subprocess.run(
            command, env={**self._environ, **environ}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
        )
        return time.perf_counter() - start

    def seconds_to_first_line(self, command):
        """Run a child process until it has written a line; return how long that takes."""
        start = time.perf_counter()
        with subprocess.Popen(command, env=self._environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            process.stdout.readline()
            seconds = time.perf_counter() - start
            process.kill()
        return seconds

    @contextmanager
    def server(self, kind):
        """Run a server of the tests, in a process of its own; give its URL. None for none.

        :param kind: a function of jobs/serve.py
        """
        if kind is None:
            yield ""
        elif self.kept is None:
            with self._new_server(kind) as url:
                yield url
        else:
            if kind not in self.urls:
                self.urls[kind] = self.kept.enter_context(self._new_server(kind))
            yield self.urls[kind]

    @contextmanager
    def _new_server(self, kind):
        with self.fresh_directory() as directory:
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
                    process.communicate()  # the end of its stdin ends it

    @contextmanager
    def fresh_directory(self, *, on_disk=False, room=0):
        """Give a new directory; it is removed afterwards.

        :param on_disk: give it where files usually are
        :param room: how many bytes it must take, at least
        """
        on_disk = on_disk or shutil.disk_usage(self.scratch).free < room
        with tempfile.TemporaryDirectory(dir=self.disk if on_disk else self.scratch) as directory:
            yield directory


@contextmanager
def prepared(home=None):
    """Give a workplace with our checkout and the peers installed.

    :param home: where environments stay from one run to the next; None removes them at the end
    """
    with _directories() as (directory, scratch):
        environments = Path(home or directory) / "environments"
        pythons = {
            "ours": _install(environments / "ours", [str(CHECKOUT)], anew=True),
            "handlers": _install(environments / "handlers", HANDLERS, anew=True),
        }
        for name, requirements in PEERS.items():
            pythons[name] = _install(environments / name, requirements)
        for name in ("ours", "e3"):
            packages = _packages(pythons[name])
            _leave_plugin(packages)
            subprocess.run([pythons[name], "-m", "compileall", "-q", str(packages)], check=True)
        yield Workplace(pythons, directory, scratch)


@contextmanager
def bare():
    """Give a workplace without peers, on the interpreter that runs this, which must have event installed."""
    with _directories() as (directory, scratch), ExitStack() as servers:
        workplace = Workplace({"ours": sys.executable, "handlers": sys.executable}, directory, scratch, servers)
        _leave_plugin(workplace.jobs)  # a script's directory is on its path
        yield workplace


@contextmanager
def _directories():
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="event-bench-") as directory,
        tempfile.TemporaryDirectory(prefix="event-bench-", dir=memory) as scratch,
    ):
        yield Path(directory), Path(scratch)


def _install(path, requirements, *, anew=False):
    """Return the interpreter of an environment that holds what is required and what that needs, without pip."""
    python = path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = path / "requirements.json"
    wanted = json.dumps([requirements, sys.version])
    if anew or not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"installing {' '.join(requirements)}", file=sys.stderr)
        venv.create(path, clear=True, symlinks=os.name != "nt")
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", *requirements], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return str(python)


def _packages(python):
    """Return the directory in which an environment's packages are."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def _leave_plugin(packages):
    """Leave what an installer would leave of a distribution with bench_plugin.py."""
    shutil.copy(JOBS / "bench_plugin.py", packages)
    info = packages / "bench_plugin-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-plugin\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[e3.event.handler]\nbench = bench_plugin:Handler\n", encoding="utf-8")
