"""Handlers that crash, hang or damage their process, against `deliver` and `relay`: no other handler waits."""

from __future__ import annotations

import os
import signal

import pytest

from cli.helpers import handler, stored
from cli.relays import Queue, eventually, started
from cli.test_bad_plugins import DELIVERING, EATS_MEMORY, FAILING
from event import Event
from event._outbox import NewEntry, Outbox

if os.name == "nt":
    pytest.skip("platform: the commands and the signals are those of a POSIX system", allow_module_level=True)

# The other tests run the same code, with coverage.
pytestmark = [pytest.mark.server, pytest.mark.usefixtures("unmeasured_children")]

COUNT = 6
# What another test shows, of the kinds that end, hang, hold the interpreter's lock, and break the protocol.
KINDS = (
    "a segmentation fault",
    "_exit(0)",
    "killed",
    "stuck in C",
    "hangs",
    "hangs at import",
    "garbage to each descriptor",
)
BAD = {name: FAILING[name][0] for name in KINDS} | DELIVERING
PLUGINS = pytest.mark.parametrize("source", BAD.values(), ids=BAD)


def fill():
    """Put events that are due, each for a healthy handler and the bad one; return the outbox."""
    box = Outbox("outbox")
    handlers = {"file": os.path.abspath("events"), "hostile": "secret"}
    for claim in box.put_many([NewEntry(Event("n", uid=f"u-{number}"), handlers) for number in range(COUNT)]):
        claim.postpone(1)
    return box


def is_claimed(box):
    return any(True for _ in box.entries("claimed"))


@PLUGINS
def test_a_pass_delivers_all_to_the_healthy_handler_and_ends(process, plugin, source):
    plugin("hostile", source)
    box = fill()
    done = process("deliver", "outbox", "--timeout", "1")
    assert len(stored()) == COUNT
    assert not is_claimed(box)
    left = [entry for _, entry in box.entries("waiting")]
    assert done.returncode == 0  # what is left is kept
    assert all(set(entry.pending) == {"hostile"} for entry in left)
    assert bool(left) == (source not in DELIVERING.values())
    assert f"e3-event deliver: {COUNT - len(left)} of {COUNT} delivered" in done.stderr
    assert "secret" not in done.stderr


@PLUGINS
def test_a_watch_delivers_all_to_the_healthy_handler_and_goes_on(here, plugin, source):
    plugin("hostile", source)
    with started("deliver", "--watch", "outbox", "--timeout", "1") as watch:
        box = fill()
        eventually(lambda: len(stored()) == COUNT, "the healthy handler has all")
        box.put(Event("later", uid="later"), {"file": os.path.abspath("events")}).postpone(1)
        eventually(lambda: len(stored()) == COUNT + 1, "it gets what comes later")
        assert watch.end(signal.SIGTERM) == 0
    assert not is_claimed(box)


@PLUGINS
@pytest.mark.parametrize("options", [("--outbox", "outbox"), ()], ids=["outbox", "no outbox"])
def test_a_relay_delivers_all_to_the_healthy_handler_and_goes_on(here, plugin, rabbit, source, options):
    plugin("hostile", source)
    handlers = ("--handler", "file=events", "--handler", "hostile=secret")
    queue = Queue(rabbit.server.url)
    with started("relay", queue.url, "--queue", queue.name, *handlers, "--timeout", "1", *options) as relay:
        queue.send(*(f"n{number}" for number in range(COUNT)))
        eventually(lambda: len({event["uid"] for event in stored()}) == COUNT, "the healthy handler has all")
        queue.send("later")
        eventually(lambda: len({event["uid"] for event in stored()}) == COUNT + 1, "it gets what comes later")
        assert relay.end(signal.SIGTERM) == 0
    assert "secret" not in relay.text


def test_memory_that_a_handler_eats_is_taken_back(process, plugin):
    plugin("hostile", handler(EATS_MEMORY))
    fill()
    process("deliver", "outbox", "--timeout", "3")
    assert len(stored()) == COUNT
