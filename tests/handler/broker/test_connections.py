"""Connections: reuse, threads, forks, copies, and the end of a process."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

import event
from event._broker import publisher as publisher_module
from event.handler.broker import BrokerHandler
from helpers.events import closed_event
from helpers.published import SOON, take_messages
from servers.tcp_proxy import Proxy
from servers.tls import Authority


def test_one_connection_serves_many_events(server, queue, as_reference):
    with Proxy(server) as proxy:
        handler = BrokerHandler(as_reference(proxy.url()), queue)
        assert handler.send_event(closed_event())
        made = proxy.count
        assert all(handler.send_event(closed_event()) for _ in range(5))
        assert proxy.count == made


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="platform: counts no references")
def test_published_event_and_handler_are_freed_without_the_garbage_collector(server, queue, as_reference):
    handler = BrokerHandler(as_reference(server.url), queue)
    published = closed_event()
    gc.collect()
    gc.disable()
    try:
        assert handler.send_event(published)
        left = [weakref.ref(published), weakref.ref(handler)]
        del published, handler
        assert [ref() for ref in left] == [None, None]
    finally:
        gc.enable()


def test_connection_that_was_idle_too_long_is_not_reused(server, queue, as_reference, monkeypatch):
    monkeypatch.setattr(publisher_module, "_MAX_IDLE_SECONDS", 0.0)
    with Proxy(server) as proxy:
        handler = BrokerHandler(as_reference(proxy.url()), queue)
        assert handler.send_event(closed_event())
        made = proxy.count
        assert handler.send_event(closed_event())
        assert proxy.count == 2 * made
    assert len(take_messages(server, queue)) == 2


def test_many_threads_share_a_handler(server, queue, handler):
    sent = [closed_event(number=number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(handler.send_event, sent))
    assert sorted(message.event.number for message in take_messages(server, queue)) == [*range(40)]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda handler: pickle.loads(pickle.dumps(handler))])
def test_copied_handler_sends_on_its_own_connection(redis, queue, as_reference, copied):
    with Proxy(redis) as proxy:
        handler = BrokerHandler(as_reference(proxy.url()), queue, limit=7, s3="s3://builds", timeout=9)
        assert handler.send_event(closed_event())
        copy_of_handler = copied(handler)
        assert copy_of_handler.send_event(closed_event())
        assert copy_of_handler.encode_config() == handler.encode_config()
        assert proxy.count == 2
    assert len(take_messages(redis, queue)) == 2


# Forks

FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: has no fork")


@FORK
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_forked_process_uses_its_own_connection(server, queue, as_reference, tls, tmp_path, monkeypatch):  # noqa: PLR0913
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    scheme = {"amqp": "amqps", "redis": "rediss"}[server.url.partition(":")[0]] if tls else ""
    with Proxy(server, authority.context("127.0.0.1") if tls else None) as proxy:
        handler = BrokerHandler(as_reference(proxy.url(scheme)), queue)
        assert handler.send_event(closed_event(number=1))
        made = proxy.count
        child = os.fork()
        if child == 0:
            os._exit(0 if handler.send_event(closed_event(number=2)) else 1)  # pragma: no cover  # in the child
        assert os.waitpid(child, 0)[1] == 0
        assert proxy.count == 2 * made
        assert handler.send_event(closed_event(number=3))
        assert proxy.count == 2 * made
    assert [message.event.number for message in take_messages(server, queue)] == [1, 2, 3]


FORKING = """
import os, sys
import event

event.load_handlers_from_env()
assert event.send_event(event.Event("first"))
child = os.fork()
if child == 0:
    if sys.argv[1] == "child-sends":
        assert event.send_event(event.Event("child"))
else:
    if sys.argv[1] == "parent-sends":
        assert event.send_event(event.Event("meanwhile"))
    assert os.waitpid(child, 0)[1] == 0
    assert event.send_event(event.Event("last"))
"""


@FORK
@pytest.mark.parametrize(
    ("order", "names"),
    [
        pytest.param("child-sends", ["first", "child", "last"], id="child-sends"),
        pytest.param("parent-sends", ["first", "meanwhile", "last"], id="parent-sends"),
        pytest.param("none-sends", ["first", "last"], id="none-sends"),
    ],
)
def test_forked_process_does_not_close_the_connection_of_its_parent(server, queue, order, names):
    assert script(server.url, queue, FORKING, order) == ""
    assert [message.event.name for message in take_messages(server, queue)] == names


def environment(url, queue):
    source = os.path.dirname(os.path.dirname(event.__file__))
    handlers = f"broker=env:BROKER,{queue}"
    return {**os.environ, "PYTHONPATH": source, "E3_EVENT_HANDLERS": handlers, "BROKER": url}


STRICT = [sys.executable, "-X", "dev", "-W", "error", "-W", "ignore:.*multi-threaded:DeprecationWarning", "-c"]


def script(url, queue, text, *arguments):
    """Run a script in which warnings are errors; return its output."""
    done = subprocess.run(
        [*STRICT, text, *arguments],
        env=environment(url, queue),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


# The end of a process

ONE_EVENT = """
import event

event.load_handlers_from_env()
with event.Event("compile") as e:
    pass
assert event.send_event(e)
print("sent", flush=True)
input()
"""


@contextmanager
def sender(url, queue):
    """Run a process that sends an event, and that exits at the end of the block."""
    with subprocess.Popen(
        [*STRICT, ONE_EVENT],
        env=environment(url, queue),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout.readline() == b"sent\n"
        yield process
        assert (process.communicate(b"\n")[0], process.returncode) == (b"", 0)


def test_process_closes_its_connection_at_exit(server, queue):
    before = server.log.stat().st_size
    with sender(server.url, queue):
        pass
    logged = server.log.read_bytes()[before:]
    assert b"unexpectedly" not in logged
    assert len(take_messages(server, queue)) == 1


def test_process_exits_soon_if_the_server_is_silent(server, queue):
    start = None
    try:
        with sender(server.url, queue):
            server.pause()
            start = time.monotonic()
        assert time.monotonic() - start < SOON  # including a second to close the connection
    finally:
        server.resume()
