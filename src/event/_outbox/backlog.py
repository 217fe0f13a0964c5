"""Deliver what waits for handlers that have just taken an event: their destinations are up again.

That is what is due, and what has been tried once: its first retry need not wait, since the destination has answered.
An entry that was tried more often waits until it is due, since its failures may be its own.
"""

from __future__ import annotations

import time

from event import _dispatch, _handler_config, _trace_context
from event._outbox import layout
from event._outbox.entry import FIRST_DELAY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from event._outbox.claim import Claim
    from event._outbox.layout import Candidate
    from event._outbox.store import Outbox
    from event._outcome import Delivery

LONGEST = 2.0  # seconds that a sending may take for this
_AHEAD = 2 * FIRST_DELAY  # seconds until all that has been tried once is due
_SEARCH = 0.05  # seconds for looking at entries in a row that wait for other handlers only


class Backlog:
    """The entries that wait for some handlers.

    :param handlers: the handlers, by name
    :param configs: their configurations, as entries hold them
    :param pace: how long the slowest of the handlers takes for an event, in seconds
    :ivar delivered: how many entries each handler has taken; those that have taken none are missing
    """

    def __init__(
        self, outbox: Outbox, handlers: Mapping[str, _dispatch.Handler], configs: Mapping[str, str], pace: float
    ) -> None:
        self.delivered: dict[str, int] = {}
        self._outbox = outbox
        self._handlers = {name: handler for name, handler in handlers.items() if name in configs}
        self._configs = configs
        self._pace = pace

    def deliver(self, deadline: float) -> None:
        """Deliver entries, as long as each is likely to be done in time. A handler that fails gets no more.

        :param deadline: by `time.monotonic`
        :raises OSError: the outbox cannot be read
        """
        found = time.monotonic()
        for candidate in self._outbox.candidates(ahead=_AHEAD):
            now = time.monotonic()
            if not self._handlers or now + self._pace > deadline or now > found + _SEARCH:
                return
            if self._is_for_us(candidate):
                claim = self._outbox.claim(candidate)
                if claim:
                    self._give(claim, deadline)
                found = time.monotonic()

    def _is_for_us(self, candidate: Candidate) -> bool:
        try:
            entry = self._outbox.read(candidate)
        except (OSError, ValueError):
            return False  # another process has it, or it is damaged: `deliver` reports that
        may_be_tried = entry.attempts <= 1 or candidate.due is None or layout.is_due(candidate.due, time.time())
        return may_be_tried and bool(self._wanted(entry.pending))

    def _wanted(self, pending: Mapping[str, str]) -> list[str]:
        # What was kept while the configuration was wrong is delivered with the right one.
        return [
            name
            for name in self._handlers
            if name in pending and (pending[name] == self._configs[name] or _handler_config.is_mistake(pending[name]))
        ]

    def _give(self, claim: Claim, deadline: float) -> None:
        try:
            claim.begin()
            for name in self._wanted(claim.entry.pending):
                delivery = self._attempt(name, claim, deadline)
                claim.record(delivery)
                self._note(delivery)
        finally:
            claim.release()

    def _attempt(self, name: str, claim: Claim, deadline: float) -> Delivery:
        token = _trace_context.active_span.set(claim.entry.span)
        try:
            timeout = max(0.0, deadline - time.monotonic())
            (delivery,) = _dispatch.deliveries({name: self._handlers[name]}, claim.event(name), timeout)
        finally:
            _trace_context.active_span.reset(token)
        return delivery

    def _note(self, delivery: Delivery) -> None:
        self._pace = max(self._pace, delivery.seconds)
        if delivery.ok:
            self.delivered[delivery.handler] = self.delivered.get(delivery.handler, 0) + 1
        else:
            del self._handlers[delivery.handler]
