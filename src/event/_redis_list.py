"""A list of Redis as a queue: what is taken from it stays in Redis until it is acknowledged.

What kombu takes, with BRPOP, is for a moment nowhere but on the wire, and lost where the taker is killed then. So it is
done here as Redis describes it for LMOVE, with a list for each taker:

=====================  =============================================================================================
key                    holds
=====================  =============================================================================================
QUEUE                  what waits: kombu's own list
QUEUE.taken.TAKER      what a taker has and has not acknowledged
QUEUE.alive.TAKER      expires when the taker has not been heard of for `LEASE` seconds
QUEUE.takers           the set of all takers
=====================  =============================================================================================

Any taker gives back what one that has gone had taken. Each step is a script, which Redis runs as a whole: a transaction
would go on where one of its commands has failed, and what one had removed, another would not have put elsewhere.

A taker is one connection. The next one of the same relay has another name: a command that was still on its way when a
connection broke has its effect on a name that is gone, where it is found.
"""

from __future__ import annotations

import os
import time

from event import _log
from event._taken import marked, of_envelope
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from event._taken import Taken

LEASE = 60.0  # seconds
_PAUSE = 0.1  # seconds between two looks into an empty list
_LOOKED_AT = 100  # takers, in one look for those that have gone

# A Redis that is full would refuse them, and could not be emptied. Before Redis 7 it does.
_ALSO_WHEN_FULL = "#!lua flags=allow-oom"

_SIGN = """
local takers, alive = unpack(KEYS)
redis.call('SADD', takers, ARGV[1])
redis.call('SET', alive, '', 'EX', ARGV[2])
"""

# Whoever takes is found when it is gone: it signs first.
_TAKE = """
local queue, takers, alive, taken = unpack(KEYS)
if redis.call('LLEN', queue) == 0 then return false end
redis.call('SADD', takers, ARGV[1])
redis.call('SET', alive, '', 'EX', ARGV[2])
return redis.call('LMOVE', queue, taken, 'RIGHT', 'LEFT')
"""

# The newest first, and each one to the end that is taken from next: the oldest is the next one in the end.
_RETURN = """
local queue, alive, taken = unpack(KEYS)
if ARGV[1] ~= 'ours' and redis.call('EXISTS', alive) == 1 then return 0 end
if redis.call('LINDEX', taken, 0) ~= ARGV[2] then return 0 end
redis.call('RPUSH', queue, ARGV[3])
redis.call('LPOP', taken)
return 1
"""

_FORGET = """
local takers, alive, taken = unpack(KEYS)
if ARGV[1] ~= 'ours' and redis.call('EXISTS', alive) == 1 then return 0 end
if redis.call('LLEN', taken) == 0 then redis.call('SREM', takers, ARGV[2]) end
return 1
"""


class RedisList:
    """A list that messages are taken from, by one taker. It raises what the client raises.

    :param redis: the client, a `redis.Redis`
    :param queue: the list's name
    :param relay: the name of the relay, which no other one has; that of a taker begins with it
    :param most: how many items may be taken and not acknowledged
    """

    forgets = False

    def __init__(self, redis: Any, queue: str, relay: str, most: int) -> None:
        self._redis = redis
        self._queue = queue.encode()
        self._takers = self._queue + b".takers"
        self._relay = f"{relay}.".encode()
        self._me = self._relay + os.urandom(4).hex().encode()
        beginning = _ALSO_WHEN_FULL if _major(redis) >= 7 else ""
        self._sign, self._take, self._return, self._forget = (
            redis.register_script(beginning + script) for script in (_SIGN, _TAKE, _RETURN, _FORGET)
        )
        self._room = most
        self._heard_of = -LEASE
        self.keep_alive()

    def take(self, wait: float) -> Taken | None:
        """Return the message in the next item, None where none comes in so many seconds."""
        end = time.monotonic() + wait
        keys = [self._queue, self._takers, *self._of(self._me)]
        while True:
            self.keep_alive()
            if self._room and (raw := self._take(keys=keys, args=[self._me, int(LEASE)])) is not None:
                self._room -= 1
                return of_envelope(raw)
            left = end - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(left, _PAUSE))

    def acknowledge(self, handle: bytes) -> None:
        """Forget an item that is taken."""
        _, taken = self._of(self._me)
        self._redis.lrem(taken, 1, handle)
        self._room += 1

    def pause(self) -> list[Taken]:
        """Return nothing: nothing comes that is not taken."""
        return []

    def resume(self) -> None:
        """Do nothing."""

    def give_back(self) -> None:
        """Give back what is not acknowledged, and take leave."""
        self._bring_back(self._me, marking=False)
        alive, _ = self._of(self._me)
        self._redis.delete(alive)

    def keep_alive(self) -> None:
        """Say that we are there, and look for those that are not: every now and then, however often it is called."""
        now = time.monotonic()
        if now - self._heard_of >= LEASE / 4:
            alive, _ = self._of(self._me)
            self._sign(keys=[self._takers, alive], args=[self._me, int(LEASE)])
            self._look_for_the_gone()
            self._heard_of = now

    def _look_for_the_gone(self) -> None:
        from redis.exceptions import ResponseError

        for taker in self._redis.srandmember(self._takers, _LOOKED_AT):
            try:
                if taker != self._me:
                    self._bring_back(taker, marking=True)
            except ResponseError as error:  # a key of that name is none of ours
                _log.get_logger().debug("queue %r: taker %r: %s", self._queue, taker, one_line(error))

    def _bring_back(self, taker: bytes, *, marking: bool) -> None:
        """Bring what a taker has taken to where it is taken from next, unless the taker is alive."""
        alive, taken = self._of(taker)
        who = "ours" if taker.startswith(self._relay) else "another's"
        while (raw := self._redis.lindex(taken, 0)) is not None:
            item = marked(raw) if marking else raw
            if not self._return(keys=[self._queue, alive, taken], args=[who, raw, item]):
                return  # it is alive, or another one was first, and goes on
        self._forget(keys=[self._takers, alive, taken], args=[who, taker])

    def _of(self, taker: bytes) -> tuple[bytes, bytes]:
        """Return a taker's two keys, alive and taken."""
        return b"%b.alive.%b" % (self._queue, taker), b"%b.taken.%b" % (self._queue, taker)


def _major(redis: Any) -> int:
    """Return the server's major version; 0 where it does not tell."""
    from redis.exceptions import ResponseError

    try:
        return int(redis.info("server")["redis_version"].partition(".")[0])
    except (ResponseError, LookupError, ValueError):
        return 0  # it is not ours to ask, say
