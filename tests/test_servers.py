"""The servers that tests start: they keep confirmed messages when killed, and leave no process behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from helpers.brokers import RabbitQueue, RedisQueue
from servers.process import find_program
from servers.rabbitmq import RabbitMQ, rabbitmq_server
from servers.redis import Redis, redis_server

pytestmark = pytest.mark.server

# RabbitMQ takes six seconds of CPU time to start. Its tests are long because they check only the test server.
RABBITMQ = {"id": "rabbitmq", "marks": pytest.mark.long}
KINDS = [pytest.param(rabbitmq_server, **RABBITMQ), pytest.param(redis_server, id="redis")]
SECONDS = 60  # timeout of each wait, enough for a busy machine
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="platform: Linux only")
QUEUE = "events"
HELLO = {RabbitMQ: b"AMQP\x00\x00\x09\x01", Redis: b"PING\r\n"}

STARTED_AND_KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
from servers.redis import redis_server
with redis_server(pathlib.Path(sys.argv[2])) as server:
    print("it runs", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module", params=KINDS)
def one(request, tmp_path_factory):
    """Start a server with QUEUE. Stop it once, so that the queue survives a kill: see servers.rabbitmq.RabbitMQ."""
    with request.param(tmp_path_factory.mktemp("server")) as server:
        queue = queue_at(server)
        if isinstance(queue, RabbitQueue):
            queue.declare()
        queue.close()
        server.stop()
        yield server


@pytest.fixture
def server(one):
    """Return the running server, which several tests share because RabbitMQ takes seconds to start."""
    if one.process is None:
        one.start()
    yield one
    if one.process is not None:
        one.resume()


def queue_at(server):
    queue = (RabbitQueue if isinstance(server, RabbitMQ) else RedisQueue)(server)
    queue.name = QUEUE
    return queue


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)


def has_shut_down_cleanly(server):
    """Return whether a stopped server has shut down cleanly."""
    if isinstance(server, RabbitMQ):
        return any(server.directory.glob("**/clean.dot"))  # RabbitMQ's mark of a clean shutdown
    return "bye bye" in server.log.read_text().splitlines()[-1]


def processes(directory):
    """Return the command lines of a server's processes, found by HOME or by the working directory."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/cmdline", "rb") as command:
                home = f"HOME={directory}".encode() in environ.read().split(b"\0")
                if home or os.readlink(f"/proc/{pid}/cwd") == str(directory):
                    found.append(command.read())
        except OSError:
            pass  # it has ended, or belongs to another user
    return found


def assert_nothing_runs(directory):
    """Wait until no process of the server runs: its helpers end a moment after it."""
    end = time.monotonic() + SECONDS
    while processes(directory) and time.monotonic() < end:
        time.sleep(0.01)
    assert processes(directory) == []


def test_confirmed_message_survives_a_kill_of_the_server(server):
    queue = queue_at(server)
    queue.put(b"compiled")
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        connect(server)
    assert not has_shut_down_cleanly(server)
    if sys.platform == "linux":
        assert_nothing_runs(server.directory)
    server.start()
    assert queue.get()[0] == b"compiled"
    queue.close()


def test_paused_server_accepts_a_connection_and_stays_silent(server):
    server.pause()
    with connect(server) as connection:
        connection.sendall(HELLO[type(server)])
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        server.resume()
        connection.settimeout(SECONDS)
        assert connection.recv(1)


def test_stopped_server_shuts_down_cleanly(server):
    server.stop()
    assert has_shut_down_cleanly(server)
    with pytest.raises(ConnectionRefusedError):
        connect(server)


@LINUX
def test_no_process_is_left_after_a_failed_with_block(tmp_path):
    def fail():
        with redis_server(tmp_path) as server:
            assert processes(tmp_path)
            server.pause()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert_nothing_runs(tmp_path)


@LINUX
def test_a_server_does_not_outlive_tests_that_are_killed(tmp_path):
    find_program("redis-server")
    tests = os.path.dirname(__file__)
    killed = subprocess.run(
        [sys.executable, "-c", STARTED_AND_KILLED, tests, tmp_path],
        stdout=subprocess.PIPE,
        timeout=SECONDS,
        check=False,
    )
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, b"it runs\n")
    assert_nothing_runs(tmp_path)


@pytest.mark.parametrize(
    ("run", "configuration"),
    [
        pytest.param(rabbitmq_server, "rabbitmq.conf", **RABBITMQ),
        pytest.param(redis_server, "redis.conf", id="redis"),
    ],
)
def test_server_that_does_not_start_is_an_error_with_the_reason(run, configuration, tmp_path):
    starting = run(tmp_path)
    with open(tmp_path / configuration, "a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(RuntimeError, match="no_such_setting"), starting:
        pytest.fail("it has started")


@LINUX
def test_port_of_a_stopped_server_is_reserved(tmp_path):
    server = Redis(tmp_path)
    with server.holder, socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", server.port))


def test_missing_program_skips_the_test_with_the_command_that_installs_it():
    with pytest.raises(pytest.skip.Exception, match="run: apt-get install no-such-server"):
        find_program("no-such-server")


def test_a_test_that_is_not_marked_cannot_start_a_server(tmp_path, monkeypatch):
    monkeypatch.setenv("E3_TESTS_NO_SERVER", "test_unmarked")
    with pytest.raises(AssertionError, match="test_unmarked starts a server and is not marked"), redis_server(tmp_path):
        pytest.fail("it has started")
