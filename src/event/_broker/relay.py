"""The relay: pass messages from a queue to a sink, in batches.

A relay receives up to `RECEIVE_BATCH` messages, gives them to its sink, and acknowledges the finished ones with one
request. If a message must be retried, the relay requeues it with a `RelayState` in a header. If no further attempt can
succeed, the message goes to the dead-letter queue, with the reason in a header. A relay of the dead-letter queue tries
it again.

A message never delays the others. Messages that are not due yet are held; if there are many, the relay requeues them.

If a relay crashes, the broker redelivers all messages that it held, and counts that. A message with
`verdict.SUSPECT_CRASHES` crashes is a suspect. When it is due, a relay requeues it "on trial" and counts one crash in
advance. The next relay that receives it delivers it alone. A further crash counts only for the messages on trial, not
for the others that the relay held. The more crashes a suspect has, the fewer others are on trial at the same time: see
`verdict.trial_limit`. After `verdict.MAX_CRASHES` crashes, the message is dead-lettered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from event._backoff import backoff
from event._broker import verdict
from event._broker.queue import BrokerError, NotAcceptedError, TooLargeError, connect_consumer
from event._broker.sink import Disposition, Incoming, SinkResult
from event._broker.state import RelayState
from event._text import on_one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from event._broker.queue import Consumer, ReceivedMessage
    from event._broker.sink import Sink
    from event._broker.url import BrokerURL

RECEIVE_BATCH = 100  # messages
REASON_HEADER = "e3-event-reason"
_MAX_REASON_LENGTH = 1000  # characters in the header
MESSAGE_LIFETIME = 5 * 86400.0  # seconds from the first attempt to the last one
_RECEIVE_TIMEOUT = 0.5  # seconds
_FIRST_DELAY, _MAX_DELAY = 1.0, 60.0  # seconds between two attempts
_MAX_PAUSE = 15.0  # seconds without receiving messages, after the sink could not store any
_PROBE_BATCH = 5  # messages to receive after a pause
_MAX_HELD = 50  # messages that are not due yet
_MAX_HELD_SECONDS = 600.0  # RabbitMQ closes the channel if a message is unacknowledged for 30 minutes
_REQUEUE_PAUSE = 0.05  # seconds to pause after requeuing a message that is not due: the same one may come back at once
_PREFETCH = RECEIVE_BATCH + 2 * _MAX_HELD
_MAX_REMEMBERED = 10_000  # ids of delivered messages
_REPEAT_REPORT = 3600.0  # seconds until the same problem is reported again


@dataclass(slots=True, eq=False)
class _Pending:
    """An unacknowledged message.

    :ivar received: when it was received, by `time.monotonic`
    :ivar due: until when to hold it, by `time.monotonic`
    :ivar result: what to do with it; None until the sink has processed it
    :ivar failures: how often requeuing or dead-lettering it has failed
    """

    message: ReceivedMessage
    state: RelayState
    received: float
    due: float = 0.0
    result: SinkResult | None = None
    failures: int = 0


@dataclass(slots=True)
class _Reporter:
    """Report each problem at most once an hour."""

    report: Callable[[str], None]
    reported: dict[str, float] = field(default_factory=dict)

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        self.reported = {text: at for text, at in self.reported.items() if now - at < _REPEAT_REPORT}
        if text not in self.reported:
            self.reported[text] = now
            self.report(text)


class Relay:
    """Pass the messages of a queue to a sink.

    :param sink: processes the messages
    :param report: called with one line for each problem; the same problem is reported at most once an hour
    :ivar relayed: how many messages all handlers have delivered, or the outbox has stored
    :ivar dead_lettered: how many messages were dead-lettered
    """

    def __init__(self, url: BrokerURL, queue: str, sink: Sink, report: Callable[[str], None]) -> None:
        self.relayed = self.dead_lettered = 0
        self._url = url
        self._queue = queue
        self._sink = sink
        self._report = report
        self._report_once = _Reporter(report)
        self._held: list[_Pending] = []
        self._failed_connections = 0  # in a row
        self._pauses = 0  # in a row
        self._pause_until = 0.0
        self._delivered: dict[str, None] = {}  # ids of delivered messages, oldest first

    def run(self, stop: threading.Event) -> None:
        """Relay until the flag is set. If the broker is unreachable, keep trying."""
        while not stop.is_set():
            problem = "cannot be reached"
            try:
                consumer = connect_consumer(self._url, self._queue, self._failed_connections, prefetch=_PREFETCH)
                problem = "is lost"
                try:
                    self._serve(consumer, stop)
                finally:
                    consumer.close()
            except BrokerError as error:
                self._report_once(f"{self._url.shown} {problem}: {error}")
                stop.wait(_delay(self._failed_connections))
                self._failed_connections += 1
            finally:
                self._held.clear()  # the broker redelivers these messages

    def _serve(self, consumer: Consumer, stop: threading.Event) -> None:
        while not stop.is_set():
            if self._pause_until > time.monotonic():
                stop.wait(min(self._pause_until - time.monotonic(), _RECEIVE_TIMEOUT))
                consumer.keep_alive()
                continue
            due = self._take_due()
            limit = _PROBE_BATCH if self._pauses else max(RECEIVE_BATCH - len(due), 1)
            received = consumer.receive(limit, self._wait(consumer, due))
            self._report_reconnection()
            self._process(consumer, due + self._select_due(consumer, received))

    def _wait(self, consumer: Consumer, due: list[_Pending]) -> float:
        if due:
            return 0.0
        next_due = min((held.due for held in self._held), default=float("inf"))
        return min(max(next_due - time.monotonic(), 0.0), consumer.poll_interval)

    def _report_reconnection(self) -> None:
        if self._failed_connections:
            self._report(f"{self._url.shown} is reachable again")
            self._report_once.reported.clear()
            self._failed_connections = 0

    def _take_due(self) -> list[_Pending]:
        now = time.monotonic()
        due = [held for held in self._held if held.due <= now]
        if due:
            self._held = [held for held in self._held if held.due > now]
        return due

    def _select_due(self, consumer: Consumer, received: Sequence[ReceivedMessage]) -> list[_Pending]:
        """Return the messages that are due; hold or requeue the others."""
        now = time.monotonic()
        due = []
        for message in received:
            pending = _Pending(message, RelayState.from_headers(message.headers), now)
            state = pending.state
            if verdict.is_back_from_crash(message, state):
                self._requeue_after_crash(consumer, pending)
            elif state.due and (wait := state.due - time.time()) > 0:
                # The due time was set by another relay, whose clock may be wrong.
                self._hold(consumer, pending, min(wait, _MAX_DELAY))
            else:
                due.append(pending)
        return due

    def _requeue_after_crash(self, consumer: Consumer, pending: _Pending) -> None:
        state = pending.state
        if not state.on_trial:  # otherwise the crash was counted in advance
            state.crash_count += pending.message.redelivered
        state.on_trial = False
        state.due = time.time() + _delay(state.crash_count - 1)
        self._requeue(consumer, pending)

    def _hold(self, consumer: Consumer, pending: _Pending, wait: float) -> None:
        """Hold a message until it is due. If too many messages are held, requeue the one that is due last."""
        pending.due = time.monotonic() + wait
        self._held.append(pending)
        if len(self._held) <= _MAX_HELD:
            return
        last = max(self._held, key=lambda held: held.due)
        self._held.remove(last)
        if last.failures:  # a message that can't be dead-lettered must not block the others
            last.result = None
            last.state.due = time.time() + _MAX_DELAY
        self._requeue(consumer, last)
        self._pause_until = time.monotonic() + _REQUEUE_PAUSE  # if no message is due, the same ones come back at once

    def _requeue(self, consumer: Consumer, pending: _Pending) -> None:
        """Move a message to the end of the queue. If that fails, hold it, even if many messages are held."""
        try:
            consumer.requeue(pending.message, pending.state.as_headers(), pending.state.due - time.time())
        except (NotAcceptedError, TooLargeError) as error:
            pending.due = time.monotonic() + self._note_failure(pending, self._queue, error)
            self._held.append(pending)

    def _process(self, consumer: Consumer, batch: list[_Pending]) -> None:
        """Deliver a batch; process suspects one by one."""
        batch = self._without_duplicates(consumer, batch)
        suspects = [p for p in batch if p.result is None and p.state.crash_count >= verdict.SUSPECT_CRASHES]
        safe = [p for p in batch if p.result is None and p.state.crash_count < verdict.SUSPECT_CRASHES]
        if safe:
            self._deliver(consumer, safe)
        self._settle(consumer, [pending for pending in batch if pending not in suspects])
        on_trial = 0
        for pending in suspects:
            on_trial += self._process_suspect(consumer, pending, on_trial)

    def _without_duplicates(self, consumer: Consumer, batch: list[_Pending]) -> list[_Pending]:
        """Mark messages that were already delivered as finished. Hold the second of two messages with the same id."""
        first: dict[str, _Pending] = {}
        unique = []
        for pending in batch:
            message_id = pending.message.id
            if pending.result is None and message_id in self._delivered:
                pending.result = SinkResult(Disposition.ACK)  # the acknowledgement did not reach the broker
            if message_id and first.setdefault(message_id, pending) is not pending:
                self._hold(consumer, pending, 0.0)
            else:
                unique.append(pending)
        return unique

    def _process_suspect(self, consumer: Consumer, pending: _Pending, on_trial: int) -> bool:
        """Deliver a suspect that is on trial; otherwise requeue it.

        :param on_trial: how many suspects of the batch were requeued on trial
        :return: whether this one was too
        """
        state = pending.state
        starts_trial = False
        if state.on_trial:
            self._deliver(consumer, [pending])
            self._settle(consumer, [pending])
        elif state.crash_count >= verdict.MAX_CRASHES:
            pending.result = SinkResult(Disposition.DEAD_LETTER, verdict.crashes(state))
            self._settle(consumer, [pending])
        else:
            starts_trial = on_trial < verdict.trial_limit(state.crash_count)
            state.on_trial = starts_trial
            state.crash_count += starts_trial
            state.due = 0.0 if starts_trial else time.time() + _delay(0)
            self._requeue(consumer, pending)
        return starts_trial

    def _deliver(self, consumer: Consumer, batch: list[_Pending]) -> None:
        """Give messages to the sink and set their results."""
        now = time.time()
        incoming = [Incoming(pending.message.body, pending.state.pending_handlers) for pending in batch]
        results = self._sink.deliver(incoming, partial(_keep_alive, consumer))
        for pending, result in zip(batch, results, strict=True):
            pending.result = self._decide(pending, result, now)
        if all(result.disposition is Disposition.KEEP for result in results):
            self._pause(results[0].reason)
        else:
            self._pauses = 0

    def _decide(self, pending: _Pending, result: SinkResult, now: float) -> SinkResult:
        """Update the message's state after a delivery; return what to do with the message."""
        state = pending.state
        state.first_seen = min(state.first_seen or now, now)  # by this relay's clock: the sender's may be wrong
        is_old = now - state.first_seen > MESSAGE_LIFETIME
        if result.disposition is Disposition.KEEP:
            state.attempts += 1
            return verdict.expired(state, result.reason) if is_old else result
        if result.crashed:
            return verdict.after_crash(state, result.reason)
        state.attempts += 1
        state.crash_count, state.on_trial = 0, False
        state.refused |= result.refused
        if result.disposition is Disposition.DEAD_LETTER:
            return result
        state.pending_handlers = result.pending
        if result.disposition is Disposition.REQUEUE:
            return verdict.expired(state, result.reason) if is_old else result
        return SinkResult(Disposition.DEAD_LETTER, left) if (left := verdict.remaining_failures(state)) else result

    def _pause(self, reason: str) -> None:
        """Receive no messages for a while, because the sink could not store any message of a batch."""
        self._report_once(f"events cannot be stored; receiving is paused: {reason}")
        self._pause_until = time.monotonic() + min(_delay(self._pauses), _MAX_PAUSE)
        self._pauses += 1

    def _settle(self, consumer: Consumer, batch: list[_Pending]) -> None:
        """Acknowledge, requeue, dead-letter or hold each message, as its result requires."""
        finished = [pending for pending in batch if pending.result and pending.result.disposition is Disposition.ACK]
        if finished:
            for pending in finished:
                self._remember(pending.message.id)  # in case the acknowledgement does not reach the broker
            consumer.acknowledge([pending.message for pending in finished])
            self.relayed += len(finished)
        for pending in batch:
            result: Any = pending.result
            if result.disposition is Disposition.KEEP:
                self._hold_or_requeue(consumer, pending)
            elif result.disposition is not Disposition.ACK:
                self._move(consumer, pending, result)

    def _hold_or_requeue(self, consumer: Consumer, pending: _Pending) -> None:
        pending.result = None
        wait = _delay(pending.state.attempts - 1)
        if time.monotonic() - pending.received > _MAX_HELD_SECONDS:
            pending.state.due = time.time() + wait
            self._requeue(consumer, pending)
        else:
            self._hold(consumer, pending, wait)

    def _move(self, consumer: Consumer, pending: _Pending, result: SinkResult) -> None:
        """Requeue or dead-letter a message. If that fails, hold the message and try again without delivering it."""
        state = pending.state
        if not pending.failures:
            state.due = time.time() + _delay((state.crash_count or state.attempts) - 1)
        if result.disposition is Disposition.REQUEUE:
            self._requeue(consumer, pending)
            return
        try:
            self._dead_letter(consumer, pending, result.reason)
        except (NotAcceptedError, TooLargeError) as error:
            self._hold(consumer, pending, self._note_failure(pending, f"{self._queue}.dead", error))

    def _dead_letter(self, consumer: Consumer, pending: _Pending, reason: str) -> None:
        reason = on_one_line(reason)[:_MAX_REASON_LENGTH]
        headers = pending.state.restarted().as_headers()
        consumer.dead_letter(pending.message, {**headers, REASON_HEADER: reason})
        self._report(f"a message is dead-lettered to {self._queue}.dead: {reason}")
        self.dead_lettered += 1

    def _note_failure(self, pending: _Pending, queue: str, error: Exception) -> float:
        """Report that a message can't be moved to a queue; return the seconds until the next attempt."""
        self._report_once(f"a message cannot be put into {queue}, and is kept for now: {error}")
        pending.failures += 1
        return _delay(pending.failures - 1)

    def _remember(self, message_id: str) -> None:
        if message_id:
            self._delivered[message_id] = None
            if len(self._delivered) > _MAX_REMEMBERED:
                del self._delivered[next(iter(self._delivered))]


def _keep_alive(consumer: Consumer) -> None:
    try:
        consumer.keep_alive()
    except BrokerError:
        pass  # the next call of the consumer raises the error again, after the batch's results are known


def _delay(failures: int) -> float:
    """Return the back-off in seconds after a number of failures."""
    return backoff(failures, _FIRST_DELAY, _MAX_DELAY)
