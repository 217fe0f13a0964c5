"""From a broker's queue to handlers: nothing is lost, and no message stops the others."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import kombu
import pytest

from brokers import settle, until
from event import Event, PermanentError, _intake, _message, _note, _redis_list, _relay, _s3
from event._acceptor import Giver, Keeper
from event._broker import Broker, BrokerError, TooLargeError
from event._message import Parcel, Reference
from event._outbox import Outbox
from event._relay import REASON, Relay


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(_relay, "_FIRST_DELAY", 0.02)
    monkeypatch.setattr(_relay, "_POLL", 0.05)
    monkeypatch.setattr(_relay, "_LONGEST_REST", 0.2)


class Running:
    """A relay that runs in a thread; `told` is what it tells."""

    def __init__(self, queue, acceptor, name="", places=None):
        self.told = []
        self.relay = Relay(
            queue.broker, name or queue.name, acceptor, places=places, patience=30.0, tell=self.told.append
        )
        self.flag = threading.Event()
        self.error = None
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self.relay.run(self.flag)
        except BaseException as error:
            self.error = error

    def stop(self):
        self.flag.set()
        self.thread.join(60)
        assert not self.thread.is_alive()
        if self.error:
            raise self.error


@contextmanager
def running(queue, acceptor, **options):
    made = Running(queue, acceptor, **options)
    made.thread.start()
    try:
        yield made
    finally:
        made.stop()


class Handler:
    """Does what it is told to, and keeps the events that it gets, with their attachments."""

    def __init__(self, act=lambda e: True):
        self.act = act
        self.got = []

    def send_event(self, e):
        attachments = {name: Path(path).read_bytes() for name, (path, _) in e.get_attachments().items()}
        self.got.append((e.uid, attachments) if attachments else e.uid)
        return self.act(e)


class Reports:
    def __init__(self):
        self.lines = []

    def __call__(self, parcel, delivery):
        self.lines.append((parcel.id, delivery.handler, delivery.ok))


def giver(**handlers):
    return Giver(handlers, 30.0, Reports())


def failing(times):
    """Return what fails so often, and then takes."""
    left = [*range(times)]

    def act(e):
        return not left or left.pop() < 0

    return act


def refuses(e):
    raise PermanentError("nobody of that name")


def body(uid, created=0.0, **files):
    """Return a message of an event, with attachments."""
    made = Event("build", uid=uid)
    made.close()
    held = {str(number): content for number, content in enumerate(files.values())}
    attachments = {
        name: (str(number), hashlib.sha1(content).hexdigest() if isinstance(content, bytes) else "0" * 40)
        for number, (name, content) in enumerate(files.items())
    }
    return _message.encode(Parcel(f"id-{uid}".replace(" ", "-"), created or time.time(), made, attachments, held))


def note(**content):
    return {_note.NAME: json.dumps(content)}


def aside(queue):
    """Return the body, the reason and the note of the next message that was put aside."""
    content, headers = until(lambda: queue.get(f"{queue.name}.aside"))
    return content, headers[REASON], json.loads(headers[_note.NAME])


NEW = {"attempts": 0, "deaths": 0, "due": 0.0, "since": 0.0, "owing": None, "refused": {}}


def is_empty(queue):
    """Tell whether nothing waits; once the relay has ended, that nothing was held either."""
    return queue.size() == 0 and queue.size(f"{queue.name}.aside") == 0


# With an outbox.


def test_an_event_is_in_the_outbox_before_the_broker_forgets_it(queue, tmp_path):
    box = Outbox(tmp_path / "outbox")
    woken = threading.Event()
    queue.put(body("1", log=b"compiled\n", core=bytes(1_000_000)))
    with running(queue, Keeper(box, {"smtp": "config"}, woken.set)) as one:
        assert woken.wait(30)
        until(lambda: one.relay.taken == 1)
    (claim,) = box.due()
    assert (claim.entry.id, claim.entry.handlers, claim.entry.event.uid) == ("id-1", {"smtp": "config"}, "1")
    assert claim.damage() is None
    sizes = {name: os.path.getsize(path) for name, (path, _) in claim.event().get_attachments().items()}
    assert sizes == {"log": 9, "core": 1_000_000}
    assert is_empty(queue)
    assert os.listdir(tmp_path / "outbox" / "tmp") == []
    assert one.told == []


KEEPING = """
import sys, threading
from event import _relay
from event._acceptor import Keeper
from event._broker import Broker
from event._outbox import Outbox
from event import _redis_list

_redis_list.LEASE = 1.0
_relay._FIRST_DELAY = 0.02
url, queue, outbox = sys.argv[1:]
keeper = Keeper(Outbox(outbox), {"smtp": ""}, lambda: print("kept", flush=True))
_relay.Relay(Broker(url), queue, keeper, places=None, patience=30.0, tell=print).run(threading.Event())
"""


def test_relays_that_are_killed_at_any_moment_lose_nothing(queue, tmp_path):
    uids = {str(number) for number in range(120)}
    queue.put(*(body(uid, log=b"compiled\n") for uid in sorted(uids)))
    box = Outbox(tmp_path / "outbox")

    def kept():
        return {entry.event.uid for _, _, entry in box.entries("new", "claimed")}

    kills = 0
    while len(kept()) < len(uids):
        command = [sys.executable, "-c", KEEPING, queue.server.url, queue.name, box.path]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as relay:
            try:
                for _ in range(25 + 13 * kills):
                    if not relay.stdout.readline() or len(kept()) == len(uids):
                        break
            finally:
                relay.kill()
        kills += 1
    assert kills >= 2
    assert kept() == uids
    assert queue.get(f"{queue.name}.aside") is None


# Without an outbox.


def test_an_event_is_acknowledged_when_all_handlers_have_it(queue):
    a, b = Handler(), Handler()
    to = giver(a=a, b=b)
    queue.put(body("1", log=b"compiled\n"))
    with running(queue, to) as one:
        until(lambda: one.relay.taken == 1)
    assert a.got == b.got == [("1", {"log": b"compiled\n"})]
    assert sorted(to._report.lines) == [("id-1", "a", True), ("id-1", "b", True)]
    assert is_empty(queue)
    assert (one.relay.aside, one.told) == (0, [])


def test_those_that_have_it_do_not_get_it_again_while_others_are_tried(queue):
    a, b = Handler(), Handler(failing(3))
    queue.put(body("1"))
    with running(queue, giver(a=a, b=b)) as one:
        until(lambda: one.relay.taken == 1)
    assert (a.got, b.got) == (["1"], ["1"] * 4)
    assert is_empty(queue)
    assert (one.relay.aside, one.told) == (0, [])


def test_what_is_refused_for_good_goes_aside_when_the_others_have_it_and_is_tried_from_there(queue):
    content = body("1", log=b"compiled\n")
    a, b, c = Handler(), Handler(failing(2)), Handler(refuses)
    queue.put(content)
    with running(queue, giver(a=a, b=b, c=c)) as one:
        until(lambda: one.relay.aside == 1)
    assert (len(a.got), len(b.got), len(c.got)) == (1, 3, 1)
    line = f"a message is put into {queue.name}.aside: refused for good: c: nobody of that name"
    assert (one.told, one.relay.taken) == ([line], 1)
    assert queue.size() == 0
    c.act = lambda e: True
    with running(queue, giver(a=a, b=b, c=c), name=f"{queue.name}.aside") as one:
        until(lambda: one.relay.taken == 1)
    assert (len(a.got), len(b.got), len(c.got)) == (1, 3, 2)
    assert is_empty(queue)


def test_a_message_that_is_put_aside_is_what_it_was_with_the_reason_beside_it(queue):
    content = body("1")
    queue.put(content, headers=note(owing=["a"], attempts=5, since=1e9))
    with running(queue, giver(a=Handler(refuses), b=Handler())):
        assert aside(queue) == (content, "refused for good: a: nobody of that name", {**NEW, "owing": ["a"]})


def test_those_that_refused_it_are_to_get_it_too_where_it_is_given_up_for_others(queue, monkeypatch):
    monkeypatch.setattr(_relay._entry, "LIFETIME", 0.0)
    queue.put(body("1", created=1.0))
    with running(queue, giver(a=Handler(), b=Handler(lambda e: False), c=Handler(refuses))):
        _, reason, noted = aside(queue)
    assert reason == "given up after 1 attempts: b: the handler returned False"
    assert noted == {**NEW, "owing": ["b", "c"]}


def test_an_event_is_given_up_after_five_days_by_the_relays_clock(queue, monkeypatch):
    now = time.time()
    monkeypatch.setattr(_relay.time, "time", lambda: now)
    handler = Handler(lambda e: False)
    queue.put(body("old", created=1.0), body("new", created=now + 1e9))
    queue.put(body("due"), headers=note(since=now - 5 * 86400 - 1, attempts=7000))
    queue.put(body("dated by a clock that was set back"), headers=note(since=now + 1e9))
    with running(queue, giver(a=handler)) as one:
        content, reason, _ = aside(queue)
        until(lambda: len(handler.got) > 12)
    assert content == _message.encode(_message.decode(content))
    assert _message.decode(content).event.uid == "due"
    assert reason == "given up after 7001 attempts: a: the handler returned False"
    assert one.relay.aside == 1
    left = [queue.get() for _ in range(3)]
    assert {json.loads(headers[_note.NAME])["since"] for _, headers in left} == {now}


@pytest.mark.parametrize(
    ("handlers", "owing", "left", "reason"),
    [
        pytest.param({"a": Handler()}, ["x", "y"], ["x", "y"], "it is owed to x, y, which", id="strangers alone"),
        pytest.param({"a": Handler()}, ["a", "x"], ["x"], "it is owed to x, which", id="one of ours, and a stranger"),
        pytest.param({"a": Handler(refuses)}, ["a", "x"], ["x", "a"], "it is owed to x, which", id="who refuses too"),
    ],
)
def test_what_is_owed_to_handlers_that_a_relay_does_not_have_is_not_forgotten(queue, handlers, owing, left, reason):
    queue.put(body("1"), headers=note(owing=owing))
    with running(queue, giver(**handlers)):
        _, told, noted = aside(queue)
    assert told.startswith(reason)
    assert noted == {**NEW, "owing": left}


def test_what_had_gone_to_strangers_is_theirs_too_while_one_of_ours_fails(listed):
    handler = Handler(failing(2))
    listed.put(body("1"), headers=note(owing=["a", "x"]))
    with running(listed, giver(a=handler)):
        _, _, noted = aside(listed)
    assert noted["owing"] == ["x"]
    assert len(handler.got) == 3


def test_a_message_that_comes_twice_is_given_once(queue):
    handler = Handler()
    queue.put(body("1"), body("2"), body("1"), body("2"))
    with running(queue, giver(a=handler)) as one:
        until(lambda: one.relay.taken == 4)
    assert handler.got == ["1", "2"]
    assert is_empty(queue)


def test_a_relay_remembers_so_many(listed, monkeypatch):
    monkeypatch.setattr(_relay, "_REMEMBERED", 1)
    handler = Handler()
    listed.put(body("1"), body("2"), body("2"), body("1"))
    with running(listed, giver(a=handler)) as one:
        until(lambda: one.relay.taken == 4)
    assert handler.got == ["1", "2", "1"]


# What stops nobody.


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"\xff no JSON", "it is no message of an event: ", id="no JSON"),
        pytest.param(b"", "it is no message of an event: ", id="nothing"),
        pytest.param(b"[" * 100_000, "it is no message of an event: nested too deeply", id="deep"),
        pytest.param(b'{"version": 99}', "it is no message of an event: its version is 99", id="a newer release's"),
    ],
)
def test_what_is_no_message_goes_aside_and_the_others_go_on(queue, content, reason):
    handler = Handler()
    queue.put(content, headers={"h": "x"})
    queue.put(body("1"))
    with running(queue, giver(a=handler)) as one:
        put, told, noted = aside(queue)
        until(lambda: one.relay.taken == 2)
    assert (put, noted) == (content, NEW)
    assert told.startswith(reason)
    assert handler.got == ["1"]


def test_several_attachments_that_are_one_file_are_not_written_a_million_times(listed):
    content = json.loads(body("1", log=b"x"))
    content["event"]["attachments"] = dict.fromkeys("ab", content["event"]["attachments"]["log"])
    listed.put(json.dumps(content).encode(), body("2"))
    handler = Handler()
    with running(listed, giver(a=handler)):
        assert aside(listed)[1] == "several attachments are one file"
        until(lambda: handler.got)
    assert handler.got == ["2"]


class Odd:
    """Something that takes events, or fails in its own way, by uid."""

    def __init__(self, **errors):
        self.errors = errors
        self.got = []

    @contextmanager
    def scratch(self):
        yield "/nowhere"

    def accept(self, parcel, event, noted):
        error = self.errors.get(event.uid)
        if error:
            raise error
        self.got.append(event.uid)
        noted.owing = []
        return ""


def test_what_breaks_what_takes_it_goes_aside_and_the_others_go_on(queue):
    to = Odd(bad=ValueError("of a kind that nobody has thought of \ud800" + "\u00e9" * 5000))
    queue.put(body("bad"), headers=note(owing=["a"]))
    queue.put(body("1"))
    with running(queue, to) as one:
        _, reason, noted = aside(queue)
        until(lambda: one.relay.taken == 2)
    assert reason.startswith("ValueError: of a kind that nobody has thought of \\ud800\u00e9\u00e9")
    assert len(reason) < 1010
    assert noted["owing"] == ["a"]
    assert to.got == ["1"]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OSError(errno.ENOSPC, "No space left on device", "/tmp/e3-1"), id="disk"),
        pytest.param(MemoryError(), id="memory"),
    ],
)
def test_one_that_the_disk_has_no_room_for_is_tried_again_and_the_others_go_on(queue, error):
    to = Odd(big=error)
    queue.put(body("big"), body("1"), body("2"))
    with running(queue, to) as one:
        until(lambda: one.relay.taken == 2)
        assert to.got == ["1", "2"]
        del to.errors["big"]
        until(lambda: one.relay.taken == 3)
    assert to.got == ["1", "2", "big"]
    assert is_empty(queue)
    assert one.told == [
        f"an event cannot be kept, and nothing is taken for a while: {error.args[1] if error.args else 'MemoryError'}"
    ]


def test_one_that_never_finds_room_is_given_up(listed, monkeypatch):
    monkeypatch.setattr(_relay._entry, "LIFETIME", 0.3)
    to = Odd(big=OSError(errno.ENOSPC, "No space left on device", "/tmp/e3-1"))
    listed.put(body("big"), body("1"))
    with running(listed, to) as one:
        _, reason, noted = aside(listed)
    assert reason.startswith("given up after ")
    assert reason.endswith(" attempts: No space left on device")
    assert noted == NEW
    assert to.got == ["1"]
    assert one.relay.taken == 2


def test_a_full_disk_has_all_wait_and_loses_nothing(queue, monkeypatch):
    uids = [str(number) for number in range(15)]
    rests = []
    wait = threading.Event.wait
    monkeypatch.setattr(_relay, "_LONGEST_REST", 0.1)
    monkeypatch.setattr(threading.Event, "wait", lambda self, s=None: (rests.append(s), wait(self, s))[1])
    to = Odd(**dict.fromkeys(uids, OSError(errno.ENOSPC, "No space left on device")))
    queue.put(*(body(uid) for uid in uids))
    with running(queue, to) as one:
        until(lambda: one.relay._rested > 15)
        assert to.got == []
        to.errors.clear()
        until(lambda: one.relay.taken == 15)
    assert sorted(to.got) == sorted(uids)
    assert len([seconds for seconds in rests if seconds and seconds <= 0.05]) > 15
    assert one.relay._rested == 0
    assert is_empty(queue)
    assert one.told == ["an event cannot be kept, and nothing is taken for a while: No space left on device"]


def test_an_event_that_is_delivered_is_done_though_telling_so_has_failed(listed):
    handler = Handler()
    to = Giver({"a": handler}, 30.0, lambda parcel, delivery: (_ for _ in ()).throw(OSError("nobody listens")))
    listed.put(body("1"), body("2"))
    with running(listed, to) as one:
        until(lambda: one.relay.taken == 2)
    assert handler.got == ["1", "2"]
    assert is_empty(listed)


def test_what_waits_for_one_handler_holds_up_no_event_behind_it(queue):
    now = time.time()
    handler = Handler()
    queue.put(*(body(f"later {n}") for n in range(30)), headers=note(due=now + 3600, owing=["a"], attempts=9))
    queue.put(body("now"))
    with running(queue, giver(a=handler)) as one:
        until(lambda: handler.got)
        assert handler.got == ["now"]
        time.sleep(0.3)  # they go round
    assert one.relay.taken == 1
    left = [queue.get() for _ in range(30)]
    assert {_message.decode(content).event.uid for content, _ in left} == {f"later {n}" for n in range(30)}
    for _, headers in left:
        noted = json.loads(headers[_note.NAME])
        assert (noted["owing"], noted["attempts"]) == (["a"], 9)
        assert noted["due"] == pytest.approx(now + 3600) or headers.get("redelivered")
    assert queue.get() is None


def test_what_is_due_far_in_the_future_waits_a_minute_at_most(listed, monkeypatch):
    monkeypatch.setattr(_relay, "_LONGEST_DELAY", 0.3)
    handler = Handler()
    listed.put(body("1"), headers=note(due=9e10))
    begin = time.monotonic()
    with running(listed, giver(a=handler)) as one:
        until(lambda: one.relay.taken == 1)
    assert 0.3 <= time.monotonic() - begin < 20


# What brings down its relay.

GIVING = """
import os, sys, threading
from event import _redis_list, _relay
from event._acceptor import Giver
from event._broker import Broker

_redis_list.LEASE = 1.0
_relay._DEATHS = 2
_relay._FIRST_DELAY = 0.1
url, queue, path = sys.argv[1:]


class Handler:
    def send_event(self, e):
        if e.uid == "killer":
            os._exit(7)
        with open(path, "a") as file:
            file.write(e.uid + "\\n")
        return True


giver = Giver({"a": Handler()}, 30.0, lambda parcel, delivery: None)
_relay.Relay(Broker(url), queue, giver, places=None, patience=30.0, tell=print).run(threading.Event())
"""


def test_what_brings_down_its_relay_again_and_again_goes_aside_and_the_others_are_given(queue, tmp_path):
    queue.put(body("1"), body("killer"), body("2"), body("3"))
    path = tmp_path / "got"
    deaths = 0

    def got():
        return sorted(path.read_text().split()) if path.exists() else []

    def is_aside():
        return queue.size(f"{queue.name}.aside") == 1

    while True:
        with subprocess.Popen([sys.executable, "-c", GIVING, queue.server.url, queue.name, str(path)]) as relay:
            try:
                until(lambda: relay.poll() is not None or (got() == ["1", "2", "3"] and is_aside()))
                if relay.poll() is None:
                    break
            finally:
                relay.kill()
        assert relay.returncode == 7
        deaths += 1
        assert deaths < 10
    content, reason, noted = aside(queue)
    assert _message.decode(content).event.uid == "killer"
    assert (reason, noted) == ("3 relays have ended while they had it", NEW)
    assert deaths == 3
    assert got() == ["1", "2", "3"]


def test_a_message_that_comes_again_goes_behind_the_others_and_is_tried_from_there(listed):
    handler = Handler()
    listed.put(body("1"), headers={"redelivered": True, **note(owing=["a"], deaths=7, attempts=3)})
    listed.put(body("2"))
    with running(listed, giver(a=handler, b=Handler())) as one:
        until(lambda: one.relay.taken == 2)
    assert handler.got == ["2", "1"]
    assert one.relay.aside == 0


def test_one_more_than_eight_is_too_many(listed):
    listed.put(body("1"), headers={"redelivered": True, **note(owing=["a"], deaths=8, refused={"c": "no"})})
    with running(listed, giver(a=Handler())):
        _, reason, noted = aside(listed)
    assert (reason, noted) == ("9 relays have ended while they had it", {**NEW, "owing": ["a", "c"]})


def test_deaths_are_forgotten_once_it_was_tried(listed):
    listed.put(body("1"), headers=note(deaths=8))
    with running(listed, giver(a=Handler(lambda e: False))) as one:
        until(lambda: one.relay._acceptor._report.lines)
    _, headers = listed.get()
    assert json.loads(headers[_note.NAME])["deaths"] == 0
    assert json.loads(headers[_note.NAME])["attempts"] >= 1


# Attachments that are in S3.


class Store:
    """A store that holds one object, or fails."""

    def __init__(self, *errors):
        self.errors = [*errors]
        self.asked = []

    def download(self, url, path, size, digest):
        self.asked.append((url, size, digest))
        if self.errors:
            raise self.errors.pop(0)
        Path(path).write_bytes(b"from S3")


def test_an_attachment_is_fetched_from_s3_as_often_as_it_takes(queue):
    store = Store(_s3.StoreError("503"), _s3.StoreError("no connection"))
    handler = Handler()
    queue.put(body("1", log=b"x", core=Reference("s3://bucket/events/1/core", 7)), headers=note(owing=["a"]))
    with running(queue, giver(a=handler, b=Handler()), places=("s3://bucket/events/", store)) as one:
        until(lambda: one.relay.taken == 1)
    assert handler.got == [("1", {"log": b"x", "core": b"from S3"})]
    assert store.asked == [("s3://bucket/events/1/core", 7, "0" * 40)] * 3
    assert is_empty(queue)
    assert one.told == []


@pytest.mark.parametrize(
    ("place", "error", "url", "reason"),
    [
        pytest.param("", None, "s3://bucket/events/1", "an attachment is at s3://bucket/events/1, and this", id="none"),
        pytest.param("s3://bucket/a", None, "s3://b/a/1", "an attachment is at s3://b/a/1", id="another bucket"),
        pytest.param("s3://bucket/a", None, "s3://bucket/ab/1", "an attachment is at s3://bucket/ab/1", id="place"),
        pytest.param("s3://b/a", None, "s3://b/\ud800", "an attachment is at s3://b/\\ud800", id="a lone surrogate"),
        pytest.param(
            "s3://bucket",
            _s3.NotThereError("no such key"),
            "s3://bucket/1",
            "an attachment is not there: NotThereError: no such key",
            id="gone",
        ),
        pytest.param("s3://b", _s3.ContentError("it is not"), "s3://b/1", "it is not", id="another content"),
    ],
)
def test_one_that_is_not_to_be_had_has_its_message_go_aside(queue, place, error, url, reason):
    handler = Handler()
    queue.put(body("1", core=Reference(url, 7)), headers=note(owing=["a"]))
    queue.put(body("2"))
    places = (place, Store(*filter(None, [error]))) if place else None
    with running(queue, giver(a=handler, b=Handler()), places=places) as one:
        _, told, noted = aside(queue)
        until(lambda: one.relay.taken == 2)
    assert told.startswith(reason)
    assert noted == {**NEW, "owing": ["a"]}
    assert handler.got == ["2"]


# Publishing fails.


def test_what_cannot_be_put_aside_is_kept_and_the_others_go_on(listed):
    handler = Handler()
    listed.client.set(f"{listed.name}.aside", "another's")
    listed.put(b"bad", body("1"), body("2"))
    with running(listed, giver(a=handler)) as one:
        until(lambda: one.relay.taken == 2)
        assert handler.got == ["1", "2"]
        (taken,) = listed.keys("taken")
        assert listed.client.llen(taken) == 1
        until(lambda: one.relay._hand[0].unpublished > 1 if one.relay._hand else False)
        listed.client.delete(f"{listed.name}.aside")
        assert aside(listed)[0] == b"bad"
    assert len(one.told) == 2
    assert one.told[0].startswith(f"a message cannot be put into {listed.name}.aside, and is kept until it can: ")
    assert "WRONGTYPE" in one.told[0]
    assert is_empty(listed)


def test_many_that_cannot_be_put_aside_leave_room_for_others(queue, monkeypatch):
    handler = Handler()
    publish = _relay.Publisher.publish

    def publishing(self, name, *arguments, **options):
        if name.endswith(".aside"):
            raise BrokerError("full")
        publish(self, name, *arguments, **options)

    monkeypatch.setattr(_relay.Publisher, "publish", publishing)
    bad = 2 * _intake.HELD
    queue.put(*[b"bad"] * bad, body("1"))
    with running(queue, giver(a=handler)) as one:
        until(lambda: handler.got == ["1"])
        assert one.relay.aside == 0
    until(lambda: queue.size() == bad)


def test_what_cannot_be_put_aside_is_kept_also_while_another_is_tried_alone(listed, monkeypatch):
    handler = Handler()
    listed.client.set(f"{listed.name}.aside", "another's")
    listed.put(b"bad")
    monkeypatch.setattr(_relay, "_FIRST_DELAY", 3600.0)
    monkeypatch.setattr(_relay, "_LONGEST_DELAY", 3600.0)
    with running(listed, giver(a=handler)) as one:
        until(lambda: one.told)
        listed.put(body("1"), headers=note(deaths=2))
        until(lambda: handler.got)
        until(lambda: one.relay.taken == 1)
        assert [(held.taken.body, held.unpublished) for held in one.relay._hand] == [(b"bad", 2)]
    assert handler.got == ["1"]
    listed.client.delete(f"{listed.name}.aside")
    assert listed.get()[0] == b"bad"


def test_what_cannot_be_put_aside_is_not_lost_where_the_relay_ends(listed):
    listed.client.set(f"{listed.name}.aside", "another's")
    listed.put(b"bad")
    with running(listed, giver(a=Handler())) as one:
        until(lambda: one.told)
    listed.client.delete(f"{listed.name}.aside")
    assert listed.get()[0] == b"bad"


@pytest.mark.parametrize("error", [BrokerError("blocked"), TooLargeError("PRECONDITION_FAILED: size")])
def test_what_cannot_go_to_the_end_of_the_queue_is_not_given_to_those_again_that_have_it(queue, monkeypatch, error):
    a, b = Handler(), Handler(failing(1))
    queue.put(body("1"))
    with running(queue, giver(a=a, b=b)) as one:
        publish = one.relay._publisher.publish
        fails = [error] * 3

        def publishing(*arguments, **options):
            if fails:
                raise fails.pop()
            publish(*arguments, **options)

        monkeypatch.setattr(one.relay._publisher, "publish", publishing)
        until(lambda: one.relay.taken == 1)
    assert (a.got, b.got, fails) == (["1"], ["1", "1"], [])
    assert is_empty(queue)


# The broker, and the end.


def test_a_broker_is_waited_for_found_again_and_may_die_while_an_event_is_given(queue, monkeypatch):
    monkeypatch.setattr(_intake, "_HEARTBEAT", 1.0)
    monkeypatch.setattr(_intake, "_PULSE", 0.1)
    monkeypatch.setattr(_redis_list, "LEASE", 1.0)
    going, go = threading.Event(), threading.Event()
    handler = Handler(lambda e: (going.set(), go.wait(60)))
    queue.put()  # the queue is made
    settle(queue.server)
    queue.put(body("1"))
    queue.server.kill()
    with running(queue, giver(a=handler)) as one:
        until(lambda: one.told)
        queue.server.start()
        assert going.wait(30)
        queue.server.kill()
        until(lambda: "relay pulse" not in [thread.name for thread in threading.enumerate()])  # it is noticed
        queue.server.start()
        go.set()
        until(lambda: one.relay.taken)
        queue.put(body("2"))
        until(lambda: "2" in handler.got)
    assert handler.got == ["1", "2"]
    assert queue.get(f"{queue.name}.aside") is None
    told = [text for text in one.told if "BusyLoadingError" not in text]  # Redis, while it reads its data
    shown = queue.broker.shown
    assert told[0].startswith(f"{shown} cannot be reached: ")
    assert told[1] == f"{shown} is there again"
    assert told[2].startswith(f"{shown} is lost: ")
    assert told[-1] == f"{shown} is there again"
    assert queue.server.password not in str(told)


def test_what_was_in_hand_when_the_broker_was_lost_comes_again_once(listed):
    handler = Handler()
    listed.put(body("1"), headers=note(due=time.time() + 3600))
    with running(listed, giver(a=handler)) as one:
        until(lambda: one.relay._hand)
        listed.server.kill()
        until(lambda: one.told)
        listed.server.start()
        until(lambda: one.relay.taken == 1)
        assert one.relay._hand == []
    assert handler.got == ["1"]
    assert is_empty(listed)


def test_a_broker_that_forgets_what_is_taken_is_told_of(request):
    handler = Handler()
    queue = Memory(request.node.name)
    with kombu.Connection("memory://") as connection:
        connection.Producer().publish(body("1"), routing_key=queue.name)
    with running(queue, giver(a=handler)) as one:
        until(lambda: one.relay.taken == 1)
    assert handler.got == ["1"]
    assert one.told == ["memory:// forgets what is taken: a relay that is killed loses it"]


class Memory:
    """A queue in memory."""

    def __init__(self, name):
        self.name = name
        self.broker = Broker("memory://")


def test_a_relay_that_is_stopped_ends_what_it_does_and_leaves_the_rest(queue):
    going, go = threading.Event(), threading.Event()
    handler = Handler(lambda e: (going.set(), go.wait(60)))
    queue.put(body("1"), body("2"))
    queue.put(body("3"), headers=note(due=time.time() + 3600))
    one = Running(queue, giver(a=handler))
    one.thread.start()
    assert going.wait(30)
    one.flag.set()
    go.set()
    one.stop()
    assert handler.got == ["1"]
    assert one.relay.taken == 1
    assert [_message.decode(queue.get()[0]).event.uid for _ in range(2)] == ["2", "3"]
    assert queue.get() is None


def test_a_relay_that_is_stopped_while_its_broker_is_away_ends(listed):
    listed.server.kill()
    try:
        with running(listed, giver(a=Handler())) as one:
            until(lambda: one.told)
            begin = time.monotonic()
        assert time.monotonic() - begin < 10
    finally:
        listed.server.start()


def test_a_relay_that_is_stopped_while_the_disk_is_full_ends(listed, monkeypatch):
    monkeypatch.setattr(_relay, "_LONGEST_REST", 3600.0)
    monkeypatch.setattr(_relay, "_FIRST_DELAY", 3600.0)
    monkeypatch.setattr(_relay, "_LONGEST_DELAY", 3600.0)
    listed.put(body("1"))
    with running(listed, Odd(**{"1": OSError(errno.ENOSPC, "full")})) as one:
        until(lambda: one.told)
        begin = time.monotonic()
    assert time.monotonic() - begin < 10
    assert listed.size() == 1


def test_what_goes_wrong_is_told_again_after_an_hour(listed, monkeypatch):
    told = []
    relay = Relay(listed.broker, listed.name, giver(), places=None, patience=1.0, tell=told.append)
    now = time.monotonic()
    monkeypatch.setattr(_relay.time, "monotonic", lambda: now)
    relay._say("down")
    relay._say("full")
    relay._say("down")
    assert told == ["down", "full"]
    now += 3601
    relay._say("down")
    assert told == ["down", "full", "down"]


def test_the_delay_doubles_up_to_a_minute_and_varies(monkeypatch):
    monkeypatch.setattr(_relay, "_FIRST_DELAY", 1.0)
    for failures, longest in [(0, 1), (1, 2), (5, 32), (6, 60), (10**9, 60)]:
        delays = [_relay._delay(failures) for _ in range(50)]
        assert all(0.75 * longest <= delay <= 1.25 * longest for delay in delays)
        assert len(set(delays)) > 1
