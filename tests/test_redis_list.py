"""A list of Redis as a queue: nothing is lost, whoever dies between which steps."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time

import pytest
import redis

from brokers import until
from event import _redis_list
from event._redis_list import RedisList


@pytest.fixture
def queue(listed):
    return listed


@pytest.fixture
def taker(queue):
    """Make takers; each relay's name is its own unless the test gives one."""
    clients = []

    def make(relay="relay", most=20):
        clients.append(redis.Redis(port=queue.server.port, password=queue.server.password))
        return RedisList(clients[-1], queue.name, relay, most)

    yield make
    for client in clients:
        client.close()


def at_once(monkeypatch, lease=60.0):
    """Have each call of keep_alive do what else it does every now and then."""
    monkeypatch.setattr(_redis_list, "LEASE", lease)
    monkeypatch.setattr(RedisList, "_heard_of", property(lambda _: -1e9, lambda *_: None), raising=False)


def expire(queue, taken):
    """Have the lease of the taker that has a list end, as if it had not been heard of."""
    queue.client.delete(taken.replace(b".taken.", b".alive."))


def test_messages_are_taken_oldest_first_and_forgotten_when_acknowledged(queue, taker):
    queue.put(b"1", b"2", headers={"h": "x"})
    one = taker()
    first, second = one.take(0), one.take(0)
    assert [(taken.body, taken.headers, taken.again) for taken in (first, second)] == [
        (b"1", {"h": "x"}, False),
        (b"2", {"h": "x"}, False),
    ]
    assert one.take(0) is None
    one.acknowledge(second.handle)
    (taken,) = queue.keys("taken")
    assert queue.client.lrange(taken, 0, -1) == [first.handle]
    one.acknowledge(first.handle)
    assert not queue.client.exists(taken)


def test_a_message_that_comes_while_one_waits_is_taken_then(queue, taker):
    one = taker()
    begin = time.monotonic()
    assert one.take(0.2) is None
    assert 0.2 <= time.monotonic() - begin < 5
    threading.Timer(0.2, queue.put, [b"late"]).start()
    assert one.take(30).body == b"late"


def test_two_takers_have_each_message_once(queue, taker):
    bodies = [str(number).encode() for number in range(100)]
    got = [[], []]
    takers = [taker("a"), taker("b")]

    def take(one, into):
        while taken := one.take(0.5):
            into.append(taken.body)
            one.acknowledge(taken.handle)

    threads = [threading.Thread(target=take, args=pair) for pair in zip(takers, got, strict=True)]
    for thread in threads:
        thread.start()
    queue.put(*bodies)
    for thread in threads:
        thread.join()
    assert sorted(got[0] + got[1]) == sorted(bodies)
    assert queue.keys("taken") == []


def test_of_two_items_that_are_alike_one_is_forgotten(queue, taker):
    queue.client.lpush(queue.name, *[queue.item(b"twin", delivery_tag="1")] * 2)
    one = taker()
    first, second = one.take(0), one.take(0)
    assert first.handle == second.handle
    one.acknowledge(first.handle)
    (taken,) = queue.keys("taken")
    assert queue.client.llen(taken) == 1
    one.acknowledge(second.handle)
    assert queue.keys("taken") == []


def test_no_more_is_taken_than_may_be(queue, taker):
    queue.put(b"1", b"2", b"3")
    one = taker(most=2)
    first = one.take(0)
    assert one.take(0).body == b"2"
    assert one.take(0.05) is None
    one.acknowledge(first.handle)
    assert one.take(0).body == b"3"


def test_who_takes_leave_gives_back_what_it_has_in_the_order_that_it_had(queue, taker):
    queue.put(*(str(number).encode() for number in range(5)))
    one = taker()
    for _ in range(3):
        one.take(0)
    one.give_back()
    assert queue.keys("") == []
    other = taker("other")
    assert [(taken.body, taken.again) for taken in iter(lambda: other.take(0), None)] == [
        (str(number).encode(), False) for number in range(5)
    ]


KILLED = """
import os, signal, sys
import redis
from event._redis_list import RedisList

one = RedisList(redis.Redis(port=int(sys.argv[1]), password=sys.argv[2]), sys.argv[3], "dead", 20)
one.take(0), one.take(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_one_had_comes_again_marked_in_the_order_that_it_had(queue, taker, monkeypatch):
    queue.put(*(str(number).encode() for number in range(3)))
    arguments = [str(queue.server.port), queue.server.password, queue.name]
    assert subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False).returncode < 0
    assert queue.size() == 1
    other = taker("other")
    assert [other.take(0).body, other.take(0)] == [b"2", None], "it may be alive"
    expire(queue, queue.keys("taken.dead")[0])
    at_once(monkeypatch)
    first, second = other.take(0), other.take(0)
    assert [(taken.body, taken.again) for taken in (first, second)] == [(b"0", True), (b"1", True)]
    assert len(queue.client.smembers(f"{queue.name}.takers")) == 1


def test_a_lease_ends_by_itself_and_lasts_while_one_is_heard_of(queue, taker, monkeypatch):
    at_once(monkeypatch, lease=1.0)
    queue.put(b"1", b"2")
    lives, dies, other = taker("lives"), taker("dies"), taker("other")
    assert (lives.take(0).body, dies.take(0).body) == (b"1", b"2")

    def comes():
        lives.keep_alive()
        return other.take(0)

    taken = until(comes)
    assert (taken.body, taken.again) == (b"2", True)
    assert other.take(0.0) is None


def test_the_lease_is_renewed_long_before_it_ends(queue, taker, monkeypatch):
    monkeypatch.setattr(_redis_list, "LEASE", 1.0)
    one = taker()
    (alive,) = queue.keys("alive")
    end = time.monotonic() + 2
    while time.monotonic() < end:
        one.keep_alive()
        assert queue.client.exists(alive)
        time.sleep(0.05)


def test_a_later_connection_of_the_same_relay_finds_at_once_what_the_one_before_had(queue, taker):
    queue.put(b"1", b"2")
    before = taker("relay")
    before.take(0)
    taken = taker("relay").take(0)
    assert (taken.body, taken.again) == (b"1", True)


def test_a_command_that_arrives_after_the_next_connection_was_made_has_its_effect_undone(queue, taker, monkeypatch):
    before, after = taker("relay"), taker("relay")
    queue.put(b"1")
    assert before.take(0).body == b"1"  # as the network has kept the command of a connection that we took for lost
    assert after.take(0) is None
    at_once(monkeypatch)
    assert after.take(0).body == b"1"


def test_a_relay_whose_name_begins_like_anothers_is_another(queue, taker, monkeypatch):
    queue.put(b"1")
    taker("relay1").take(0)
    at_once(monkeypatch)
    assert taker("relay").take(0) is None


def test_one_that_was_held_still_and_taken_for_gone_is_found_again_when_it_dies_later(queue, taker, monkeypatch):
    sleeper = taker("sleeper")
    (alive,) = queue.keys("alive")
    queue.client.delete(alive)
    at_once(monkeypatch)
    other = taker("other")
    assert len(queue.client.smembers(f"{queue.name}.takers")) == 1, "the other one has forgotten it"
    monkeypatch.undo()
    queue.put(b"1")
    assert sleeper.take(0).body == b"1"  # it wakes within its own quarter of a lease, and dies
    expire(queue, queue.keys("taken")[0])
    at_once(monkeypatch)
    assert other.take(0).body == b"1"


def test_who_takes_is_alive(queue, taker, monkeypatch):
    queue.put(b"1")
    one = taker()
    (alive,) = queue.keys("alive")
    queue.client.delete(alive)
    assert one.take(0).body == b"1"
    assert 0 < queue.client.ttl(alive) <= 60
    assert taker("other").take(0) is None


def between(monkeypatch, act):
    """Have something happen between a look at what a gone one had, and the step that gives it back."""

    def marked(raw):
        act()
        return raw

    monkeypatch.setattr(_redis_list, "marked", marked)


def test_one_that_comes_back_while_it_is_taken_for_gone_keeps_what_it_has(queue, taker, monkeypatch):
    queue.put(b"1")
    sleeper = taker("sleeper")
    sleeper.take(0)
    (taken,) = queue.keys("taken")
    (alive,) = queue.keys("alive")
    expire(queue, taken)
    between(monkeypatch, lambda: queue.client.set(alive, ""))
    assert taker("other").take(0) is None
    assert queue.client.llen(taken) == 1


def test_of_two_that_find_the_same_one_gone_one_gives_it_back(queue, taker, monkeypatch):
    queue.put(b"1", b"2")
    dead = taker("dead")
    dead.take(0), dead.take(0)
    expire(queue, queue.keys("taken")[0])
    between(monkeypatch, lambda: (monkeypatch.undo(), taker("first")))
    second = taker("second")
    assert [second.take(0).body, second.take(0).body, second.take(0)] == [b"1", b"2", None]
    assert queue.keys("taken.dead") == []


def test_one_that_is_there_and_has_nothing_is_not_forgotten(queue, taker):
    taker("idle"), taker("other")
    assert len(queue.client.smembers(f"{queue.name}.takers")) == 2


@pytest.mark.parametrize("other", [pytest.param("other", id="another relay"), pytest.param("sleeper", id="the same")])
def test_one_that_takes_again_while_it_is_forgotten_is_not(queue, taker, monkeypatch, other):
    queue.put(b"1")
    sleeper = taker("sleeper")
    (member,) = queue.client.smembers(f"{queue.name}.takers")
    queue.client.delete(*queue.keys("alive"))
    forget = redis.commands.core.Script.__call__

    def late(script, **how):
        if script.script.endswith(_redis_list._FORGET):
            monkeypatch.undo()
            assert sleeper.take(0).body == b"1"
        return forget(script, **how)

    monkeypatch.setattr(redis.commands.core.Script, "__call__", late)
    taker(other)
    assert member in queue.client.smembers(f"{queue.name}.takers")


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\x00*[", id="bytes"),
        pytest.param(b"x" * 100_000, id="long"),
        pytest.param(b"relay", id="a relay's name"),
    ],
)
def test_a_member_that_is_no_taker_is_forgotten(queue, taker, member):
    queue.client.sadd(f"{queue.name}.takers", member)
    taker("other")
    assert member not in queue.client.smembers(f"{queue.name}.takers")


def test_thousands_of_them_hold_nobody(queue, taker):
    for begin in range(0, 30_000, 10_000):
        queue.client.sadd(f"{queue.name}.takers", *range(begin, begin + 10_000))
    begin = time.monotonic()
    queue.put(b"1")
    assert taker().take(0).body == b"1"
    assert time.monotonic() - begin < 5


def test_a_key_of_another_type_in_a_takers_place_is_left_alone_and_holds_nobody(queue, taker, caplog):
    caplog.set_level(logging.DEBUG, "event")
    queue.client.sadd(f"{queue.name}.takers", "odd")
    queue.client.set(f"{queue.name}.taken.odd", "text")
    queue.put(b"1")
    one = taker()
    assert one.take(0).body == b"1"
    assert queue.client.get(f"{queue.name}.taken.odd") == b"text"
    assert "WRONGTYPE" in caplog.text


def test_nothing_is_taken_where_the_set_of_takers_is_none(queue, taker):
    one = taker()
    queue.client.set(f"{queue.name}.takers", "text")
    queue.put(b"1")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        one.take(0)
    assert queue.size() == 1
    assert queue.keys("taken") == []


def test_what_was_taken_stays_there_while_the_queue_is_none(queue, taker):
    queue.put(b"1")
    one = taker()
    one.take(0)
    queue.client.set(queue.name, "text")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        one.give_back()
    (taken,) = queue.keys("taken")
    assert queue.client.llen(taken) == 1
    queue.client.delete(queue.name)
    one.give_back()
    assert queue.size() == 1


def test_what_is_no_message_is_given_back_as_it_is(queue, taker):
    queue.client.lpush(queue.name, b"\xff no JSON")
    taker("relay").take(0)
    taken = taker("relay").take(0)
    assert (taken.body, taken.again) == (b"\xff no JSON", False)


def test_a_large_item_is_taken_and_given_back_whole(queue, taker):
    body = bytes(range(256)) * 10_000
    queue.put(body)
    taker("relay").take(0)
    taken = taker("relay").take(0)
    assert (taken.body == body, taken.again) == (True, True)


def test_a_redis_that_is_full_is_emptied(queue, taker, monkeypatch):
    at_once(monkeypatch)
    queue.put(b"1", b"2")
    limit = queue.client.config_get("maxmemory")["maxmemory"]
    queue.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            queue.client.lpush(f"{queue.name}.other", "x")
        one = taker()
        taken = [one.take(0), one.take(0)]
        assert [message.body for message in taken] == [b"1", b"2"]
        one.acknowledge(taken[0].handle)
        one.give_back()
    finally:
        queue.client.config_set("maxmemory", limit)
    assert [message.body for message in (taker().take(0),)] == [b"2"]


@pytest.mark.parametrize("told", [{}, {"redis_version": "x"}, redis.exceptions.ResponseError("NOPERM")])
def test_a_server_that_does_not_tell_its_version_gets_scripts_that_all_know(told):
    class Client:
        def info(self, section):
            if isinstance(told, Exception):
                raise told
            return told

    assert _redis_list._major(Client()) == 0


def test_a_server_before_redis_7_gets_scripts_that_it_knows(queue, taker, monkeypatch):
    monkeypatch.setattr(_redis_list, "_major", lambda client: 6)
    queue.put(b"1")
    one = taker()
    assert one.take(0).body == b"1"
    assert not one._take.script.startswith("#!")
