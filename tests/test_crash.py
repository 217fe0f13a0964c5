"""After a kill or on a full disk, no file is partial, and an event is written only after its attachments."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: POSIX only")
CONTENT = b"0123456789abcdef" * (1 << 16)
DIGEST = hashlib.sha1(CONTENT).hexdigest()

MAKE = """
import os, sys, event
from event.handler.file import FileHandler

directory, attachment = sys.argv[1:3]

def make():
    e = event.Event("build", text="x" * 300_000)
    e.attach_file(attachment, "log")
    e.attach_file(attachment, "b/../log")
    return e

def dump():
    make().dump(directory)

def send():
    assert FileHandler(directory).send_event(make())

act = {"dump": dump, "send": send}[sys.argv[3]]
"""

FOREVER = f"""{MAKE}
act()
print("ready", flush=True)
while True:
    act()
"""

# Forks one child for each system call. The child kills itself before that call, or in the middle of a write.
EACH_STEP = f"""{MAKE}
import signal

NAMES = ("open", "write", "sendfile", "close", "utime", "chmod", "replace", "mkdir")

def die_at(step):
    count = 0
    def wrap(name, call):
        def wrapped(*args, **kwargs):
            nonlocal count
            count += 1
            if count == step:
                if name == "write":
                    call(args[0], args[1][:len(args[1]) // 2])
                if name == "sendfile":
                    call(*args[:3], 1000)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return wrapped
    for name in NAMES:
        if hasattr(os, name):
            setattr(os, name, wrap(name, getattr(os, name)))

act()
step = 0
while True:
    step += 1
    pid = os.fork()
    if pid == 0:
        die_at(step)
        act()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if status == 0:
        break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
print(step)
"""


@pytest.fixture
def attachment(tmp_path):
    path = tmp_path / "attachment"
    path.write_bytes(CONTENT)
    return path


def final_files(directory):
    return [path for path in directory.iterdir() if not path.name.startswith(".") and path.suffix == ".json"]


def check_dumps(directory):
    """Check that every file with a final name is a complete dump."""
    import event

    assert final_files(directory)
    for path in final_files(directory):
        loaded = event.Event.load(path)
        assert loaded.text == "x" * 300_000
        assert {digest for _, digest in loaded.get_attachments().values()} == {DIGEST}


def check_sends(directory):
    """Check that every file with a final name is complete, and that each JSON file has both attachments."""
    copies = [path for path in directory.glob("*/*") if not path.name.startswith(".")]
    assert all(path.read_bytes() == CONTENT for path in copies)
    assert final_files(directory)
    for path in final_files(directory):
        data = json.loads(path.read_bytes())
        assert data["text"] == "x" * 300_000
        own = directory / f"build-{data['uid']}"
        assert len([copy for copy in copies if copy.parent == own]) == 2


KINDS = pytest.mark.parametrize(
    ("act", "check"), [pytest.param("dump", check_dumps, id="dump"), pytest.param("send", check_sends, id="file send")]
)


@KINDS
@pytest.mark.parametrize("rounds", [8, pytest.param(200, marks=pytest.mark.long)])
def test_a_kill_at_a_random_moment_leaves_no_partial_file(tmp_path, attachment, act, check, rounds):
    for number in range(rounds):
        directory = tmp_path / f"round-{number}"
        command = [sys.executable, "-c", FOREVER, directory, attachment, act]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout.read(5) == b"ready"
                time.sleep(random.uniform(0, 0.02))  # kill it at a random moment
            finally:
                process.kill()
        check(directory)


@POSIX
@KINDS
def test_a_kill_at_every_step_leaves_no_partial_file(tmp_path, attachment, act, check):
    directory = tmp_path / "d"
    command = [sys.executable, "-c", EACH_STEP, directory, attachment, act]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(run.stdout) > 4
    check(directory)
    assert [*directory.rglob(".*.tmp")], "no kill left a temporary file"


FULL = f"""{MAKE}
import resource, signal
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    act()
except OSError as error:
    print(type(error).__name__)
"""


@POSIX
@KINDS
def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path, attachment, act, check):
    directory = tmp_path / "d"
    command = [sys.executable, "-c", FULL, directory, attachment, act]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert run.stdout == "OSError\n"
    assert [path for path in directory.rglob("*") if not path.is_dir()] == []


FULL_LATER = """
import os, resource, sys, event
from event.handler.file import FileHandler
directory, attachment = sys.argv[1:]
e = event.Event("build", uid="u")
e.attach_file(attachment, "log")
handler = FileHandler(directory)
handler.send_event(e)
with open(attachment, "ab") as file:
    file.write(b"more")
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    handler.send_event(e)
except OSError as error:
    print(type(error).__name__)
"""


@POSIX
def test_existing_files_stay_complete_if_the_disk_fills_up(tmp_path, attachment):
    directory = tmp_path / "d"
    command = [sys.executable, "-c", FULL_LATER, directory, attachment]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert run.stdout == "OSError\n"
    assert len(final_files(directory)) == 1
    assert (directory / "build-u" / "log").read_bytes() == CONTENT
    assert os.listdir(directory / "build-u") == ["log"]


@POSIX
def test_no_json_file_is_left_if_the_disk_has_no_room_for_it(tmp_path):
    small = tmp_path / "small"
    small.write_bytes(b"small")
    directory = tmp_path / "d"
    run = subprocess.run(
        [sys.executable, "-c", FULL, directory, small, "send"], check=True, capture_output=True, text=True
    )
    assert run.stdout == "OSError\n"
    assert {path.read_bytes() for path in directory.rglob("*") if path.is_file()} == {b"small"}
    assert final_files(directory) == []


MANY = """
import sys, event
directory, attachment, dumped = sys.argv[1:]
event.add_handler("file", directory)
shared = event.Event.load(dumped)
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    e = event.Event("many", number=number)
    e.attach_file(attachment, f"log-{number}")
    assert event.send_event(e)
    assert event.send_event(shared)
"""


@pytest.mark.server
def test_eight_processes_send_into_one_directory_at_once(tmp_path, attachment):
    import event

    shared = event.Event("shared", uid="one")
    shared.attach_file(attachment)
    directory = tmp_path / "not" / "there yet"
    command = [sys.executable, "-c", MANY, directory, attachment, shared.dump(tmp_path)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(8)]
    try:
        for process in started:
            assert process.stdout.read(5) == b"ready"
        for process in started:
            process.stdin.write(b"go\n")
            process.stdin.flush()
        assert [process.wait() for process in started] == [0] * 8
    finally:
        for process in started:
            process.kill()
            process.communicate()
    sent = [json.loads(path.read_bytes()) for path in final_files(directory)]
    assert sum(data["name"] == "shared" for data in sent) == 160
    many = [data for data in sent if data["name"] == "many"]
    assert len({data["uid"] for data in many}) == 160
    for data in many:
        (copy,) = (directory / f"many-{data['uid']}").iterdir()
        assert copy.name == f"log-{data['number']}"
        assert copy.read_bytes() == CONTENT
    assert [path.name for path in (directory / "shared-one").iterdir()] == ["log"]
    assert len([path for path in directory.iterdir() if path.is_dir()]) == 161


def test_processes_are_killed_with_sigkill():
    with subprocess.Popen([sys.executable, "-c", "print('x', flush=True); input()"], stdin=subprocess.PIPE) as process:
        process.kill()
    assert process.returncode == (1 if os.name == "nt" else -signal.SIGKILL)
