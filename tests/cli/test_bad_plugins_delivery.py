"""Handlers that crash, hang or damage their process do not affect other handlers of `deliver` and `relay`."""

from __future__ import annotations

import os
import signal

import pytest

from cli.processes import started
from cli.relays import publish
from cli.test_bad_plugins import BAD, EATS_MEMORY, FAILING, KINDS, bad_plugins  # noqa: F401  # a fixture
from event import Event
from event._outbox import NewEntry, Outbox
from helpers.brokers import RabbitQueue
from helpers.commands import handler_source, in_parallel, stored_events
from helpers.waiting import wait_until

if os.name == "nt":
    pytest.skip("platform: the commands and the signals are those of a POSIX system", allow_module_level=True)

# Other tests measure the same code.
pytestmark = [pytest.mark.server, pytest.mark.usefixtures("unmeasured_children")]

COUNT = 6  # events for each bad handler


@pytest.fixture
def names(here, bad_plugins, kinds):  # noqa: F811  # the fixture
    """Install bad plugins, and make a directory with the name of each handler; return their kinds by that name."""
    installed = bad_plugins(kinds)
    for name in installed:
        (here / name).mkdir()
    return installed


def fill(place, *bad):
    """Put events that are due for a healthy handler and bad ones; return the outbox."""
    box = Outbox(place / "outbox")
    handlers = {"file": str(place / "events"), **dict.fromkeys(bad, "secret")}
    for claim in box.put_many([NewEntry(Event("n", uid=f"u-{number}"), handlers) for number in range(COUNT)]):
        claim.postpone(1)
    return box


def is_claimed(box):
    return any(True for _ in box.entries("claimed"))


@KINDS
def test_deliver_sends_all_to_the_healthy_handler_and_exits(here, process, names):
    def run(name):
        box = fill(here / name, name)
        return box, process("deliver", "outbox", "--timeout", "5", cwd=here / name)

    for name, (box, done) in in_parallel(run, names).items():
        kind = names[name]
        assert len(stored_events(here / name / "events")) == COUNT, kind
        assert not is_claimed(box), kind
        left = [entry for _, entry in box.entries("waiting")]
        assert (kind, done.returncode) == (kind, 0)  # the other events are still in the outbox
        assert all(set(entry.pending) == {name} for entry in left), kind
        if kind != "closes each descriptor":  # then the delivery may not be recorded
            assert bool(left) == (kind in FAILING), kind
        assert f"e3-event deliver: {COUNT - len(left)} of {COUNT} delivered" in done.stderr, kind
        assert "secret" not in done.stderr, kind


def delivered(place):
    return {event["uid"] for event in stored_events(place / "events")}


ALL = {f"u-{number}" for number in range(COUNT)}


@pytest.mark.parametrize("kinds", [BAD], ids=["all"])
def test_watch_delivers_all_to_the_healthy_handler_next_to_all_bad_ones(here, names):
    with started("deliver", "--watch", "outbox", "--timeout", "1") as watch:
        box = fill(here, *names)
        wait_until(lambda: delivered(here) == ALL, "the healthy handler has all events")
        box.put(Event("n", uid="u-later"), {"file": str(here / "events")}).postpone(1)
        wait_until(lambda: delivered(here) == {*ALL, "u-later"}, "the healthy handler has the later event")
        assert watch.end(signal.SIGTERM) == 0
    assert not is_claimed(box)


@KINDS
@pytest.mark.parametrize("options", [("--outbox", "outbox"), ()], ids=["outbox", "no outbox"])
def test_relay_delivers_all_to_the_healthy_handler_and_continues(here, names, rabbit, options):
    def run(name):
        place, kind = here / name, names[name]
        queue = RabbitQueue(rabbit.server)
        handlers = ("--handler", "file=events", "--handler", f"{name}=secret")
        args = ("--queue", queue.name, *handlers, "--timeout", "1", *options)
        with started("relay", rabbit.server.url, *args, cwd=place) as relay:
            publish(queue, *(str(number) for number in range(COUNT)))
            wait_until(lambda: delivered(place) == ALL, f"{kind}: the healthy handler has all events")
            publish(queue, "later")
            wait_until(lambda: delivered(place) == {*ALL, "u-later"}, f"{kind}: the later event is delivered")
            assert relay.end(signal.SIGTERM) == 0, kind
        assert "secret" not in relay.text, kind

    in_parallel(run, names)


def test_memory_used_by_a_handler_is_freed(here, process, plugin):
    plugin("hostile", handler_source(EATS_MEMORY))
    fill(here, "hostile")
    process("deliver", "outbox", "--timeout", "3")
    assert len(stored_events()) == COUNT
