"""Deliver waiting entries to handlers that have just delivered an event, since their destinations are available.

This includes entries that are due, and entries that were tried only once: their first retry need not wait for the
back-off. An entry that was tried more often waits until it is due, because the entry itself may be the problem.
"""

from __future__ import annotations

import time

from event import _dispatch, _trace_context
from event._outbox import layout
from event._outbox.entry import FIRST_DELAY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from event._outbox.claim import Claim
    from event._outbox.layout import Candidate
    from event._outbox.store import Outbox
    from event._outcome import Delivery

LONGEST = 2.0  # seconds that this may add to sending an event
_AHEAD = 2 * FIRST_DELAY  # seconds; every entry that was tried only once is due within this time
_SEARCH_LIMIT = 0.05  # seconds to search for the next matching entry, if there are many entries
_MIN_SEARCHED = 20  # entries to read in any case, so that a slow machine delivers a short backlog too


class Backlog:
    """The waiting entries of some handlers.

    :param handlers: the handlers, by name
    :param configs: the handlers' configurations, in the form in which entries store them
    :param pace: how long the slowest of the handlers takes for an event, in seconds
    :ivar delivered: how many entries each handler has delivered; handlers that have delivered none are missing
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
        """Deliver entries while there is enough time for another one. A handler that fails gets no more entries.

        :param deadline: by `time.monotonic`
        :raises OSError: the outbox can't be read
        """
        found, searched = time.monotonic(), 0
        for candidate in self._outbox.candidates(ahead=_AHEAD):
            now = time.monotonic()
            is_long = searched >= _MIN_SEARCHED and now > found + _SEARCH_LIMIT
            if not self._handlers or now + self._pace > deadline or is_long:
                return
            searched += 1
            if self._is_wanted(candidate):
                claim = self._outbox.claim(candidate)
                if claim:
                    self._deliver_entry(claim, deadline)
                found, searched = time.monotonic(), 0

    def _is_wanted(self, candidate: Candidate) -> bool:
        try:
            entry = self._outbox.read(candidate)
        except (OSError, ValueError):
            return False  # claimed by another process, or damaged; the command `deliver` reports damaged entries
        may_be_tried = entry.attempts <= 1 or candidate.due is None or layout.is_due(candidate.due, time.time())
        if entry.has_invalid_handlers:
            from event._outbox.fixed_config import replacements

            for line in replacements(entry):
                entry.apply(line)
                may_be_tried = True
        return may_be_tried and (not entry.pending or bool(self._wanted_handlers(entry.pending)))

    def _wanted_handlers(self, pending: Mapping[str, str]) -> list[str]:
        return [name for name in self._handlers if pending.get(name) == self._configs[name]]

    def _deliver_entry(self, claim: Claim, deadline: float) -> None:
        try:
            claim.begin()
            for name in self._wanted_handlers(claim.entry.pending):
                delivery = self._attempt(name, claim, deadline)
                claim.record(delivery)
                self._update(delivery)
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

    def _update(self, delivery: Delivery) -> None:
        self._pace = max(self._pace, delivery.seconds)
        if delivery.ok:
            self.delivered[delivery.handler] = self.delivered.get(delivery.handler, 0) + 1
        else:
            del self._handlers[delivery.handler]
