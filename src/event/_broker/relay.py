"""The relay's loop: from a queue to a sink, in batches.

A relay receives up to `RECEIVE_BATCH` messages, gives them to its sink, and acknowledges those that are done with one
exchange.
What a sink wants again goes to the end of the queue, with a `RelayState` in a header. What no further attempt can help
goes to ``QUEUE.dead``, with the reason in a header; a relay of that queue tries it again.

No message holds up the others. One that is not due yet is held, and goes to the end of the queue if many are.

The broker counts how often a message came back from a crash. From `verdict.SUSPECT` on it is a suspect: the relay that
receives it when it is due publishes it once more, on trial and with one crash more, and the one that receives it then
delivers it by itself. So only the message that is being tried is charged with a crash, and not those that its relay
held besides. After `verdict.MOST_CRASHES` it is dead-lettered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from event._backoff import backoff
from event._broker import verdict
from event._broker.queue import BrokerError, NotTakenError, TooLargeError, connect_consumer
from event._broker.sink import Disposition, Incoming, SinkResult
from event._broker.state import RelayState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from event._broker.queue import Consumer, ReceivedMessage
    from event._broker.sink import Sink
    from event._broker.url import BrokerURL

    class Flag(Protocol):
        """What a relay asks whether to stop, such as a `threading.Event`."""

        def is_set(self) -> bool:
            """Return whether it is to stop."""
            ...

        def wait(self, timeout: float | None = None) -> bool:
            """Wait until it is set; return whether it is."""
            ...


RECEIVE_BATCH = 100  # messages
REASON_HEADER = "e3-event-reason"
MESSAGE_LIFETIME = 5 * 86400.0  # seconds from the first attempt to the last one
_RECEIVE_TIMEOUT = 0.5  # seconds
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0  # seconds between two attempts
_MAX_PAUSE = 15.0  # seconds in which nothing is received
_PROBE = 5  # messages received after a pause
_MOST_HELD = 50  # messages
_LONGEST_HELD = 600.0  # seconds; RabbitMQ closes the channel of a consumer that holds one for half an hour
_GOING_ROUND = 0.05  # seconds of pause for each message that goes to the end of the queue undue
_PREFETCH = RECEIVE_BATCH + 2 * _MOST_HELD
_REMEMBERED = 10_000  # ids of delivered messages
_REMINDER = 3600.0  # seconds until the same problem is reported again


@dataclass(slots=True, eq=False)
class _Pending:
    """A message that is not acknowledged.

    :ivar due: when to go on with it, by `time.monotonic`
    :ivar result: what is to become of it; None before the sink had it
    :ivar failures: how often it could not be published to where it belongs
    """

    message: ReceivedMessage
    state: RelayState
    received: float
    due: float = 0.0
    result: SinkResult | None = None
    failures: int = 0


@dataclass(slots=True)
class RelayCounts:
    """What a relay has done so far.

    :ivar finished: how many messages it has acknowledged for good
    :ivar dead_lettered: how many of them are in the dead-letter queue
    """

    finished: int = 0
    dead_lettered: int = 0


@dataclass(slots=True)
class _Reporter:
    """Reports each problem once an hour."""

    report: Callable[[str], None]
    reported: dict[str, float] = field(default_factory=dict)

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        self.reported = {text: at for text, at in self.reported.items() if now - at < _REMINDER}
        if text not in self.reported:
            self.reported[text] = now
            self.report(text)


class Relay:
    """Receives from a queue until it is told to stop.

    :param sink: where the events go
    :param report: called with a line for each problem; the same problem is reported once an hour
    :ivar counts: what it has done so far
    """

    def __init__(self, url: BrokerURL, queue: str, sink: Sink, report: Callable[[str], None]) -> None:
        self.counts = RelayCounts()
        self._url = url
        self._queue = queue
        self._sink = sink
        self._report = report
        self._report_once = _Reporter(report)
        self._held: list[_Pending] = []
        self._lost = 0  # connections in a row
        self._pauses = 0  # in a row
        self._pause_until = 0.0
        self._delivered: dict[str, None] = {}  # ids, oldest first

    def run(self, stop: Flag) -> None:
        """Relay until the flag is set. If the broker is unreachable, keep trying."""
        while not stop.is_set():
            problem = "cannot be reached"
            try:
                consumer = connect_consumer(self._url, self._queue, self._lost, prefetch=_PREFETCH)
                problem = "is lost"
                try:
                    self._serve(consumer, stop)
                finally:
                    consumer.close()
            except BrokerError as error:
                self._report_once(f"{self._url.shown} {problem}: {error}")
                stop.wait(_delay(self._lost))
                self._lost += 1
            finally:
                self._held.clear()  # the broker delivers it again

    def _serve(self, consumer: Consumer, stop: Flag) -> None:
        while not stop.is_set():
            if self._pause_until > time.monotonic():
                stop.wait(min(self._pause_until - time.monotonic(), _RECEIVE_TIMEOUT))
                consumer.keep_alive()
                continue
            due = self._take_due()
            limit = _PROBE if self._pauses else max(RECEIVE_BATCH - len(due), 1)
            received = consumer.receive(limit, self._wait(consumer, due))
            self._note_connected()
            self._process(consumer, due + self._sort(consumer, received))

    def _wait(self, consumer: Consumer, due: list[_Pending]) -> float:
        if due:
            return 0.0
        next_due = min((held.due for held in self._held), default=float("inf"))
        return min(max(next_due - time.monotonic(), 0.0), consumer.poll_interval)

    def _note_connected(self) -> None:
        if self._lost:
            self._report(f"{self._url.shown} is reachable again")
            self._report_once.reported.clear()
            self._lost = 0

    def _take_due(self) -> list[_Pending]:
        now = time.monotonic()
        due = [held for held in self._held if held.due <= now]
        if due:
            self._held = [held for held in self._held if held.due > now]
        return due

    def _sort(self, consumer: Consumer, received: Sequence[ReceivedMessage]) -> list[_Pending]:
        """Return the messages that are due; hold or requeue the others."""
        now = time.monotonic()
        due = []
        for message in received:
            pending = _Pending(message, RelayState.from_headers(message.headers), now)
            state = pending.state
            if verdict.came_back(message, state):
                self._requeue_after_crash(consumer, pending)
            elif state.due and (wait := state.due - time.time()) > 0:
                # The clock of the relay that has set the date may differ.
                self._hold(consumer, pending, min(wait, _LONGEST_DELAY))
            else:
                due.append(pending)
        return due

    def _requeue_after_crash(self, consumer: Consumer, pending: _Pending) -> None:
        state = pending.state
        if not state.on_trial:  # else the crash is counted already
            state.crash_count += pending.message.redelivered
        state.on_trial = False
        state.due = time.time() + _delay(state.crash_count - 1)
        self._put_back(consumer, pending)

    def _hold(self, consumer: Consumer, pending: _Pending, wait: float) -> None:
        """Keep a message unacknowledged until it is due; if too many are held, put the last one back into the queue."""
        pending.due = time.monotonic() + wait
        self._held.append(pending)
        if len(self._held) <= _MOST_HELD:
            return
        last = max(self._held, key=lambda held: held.due)
        self._held.remove(last)
        if last.failures:  # what cannot be dead-lettered must leave room for others
            last.result = None
            last.state.due = time.time() + _LONGEST_DELAY
        self._put_back(consumer, last)
        self._pause_until = time.monotonic() + _GOING_ROUND  # if all wait, they go round

    def _put_back(self, consumer: Consumer, pending: _Pending) -> None:
        """Put a message, undue as it is, to the end of the queue."""
        try:
            consumer.requeue(pending.message, pending.state.as_headers(), pending.state.due - time.time())
        except (NotTakenError, TooLargeError) as error:
            self._retry_later(pending, self._queue, error)

    def _process(self, consumer: Consumer, batch: list[_Pending]) -> None:
        """Give a batch to the sink, and settle it; the suspects have a way of their own."""
        batch = self._without_duplicates(consumer, batch)
        suspects = [p for p in batch if p.result is None and p.state.crash_count >= verdict.SUSPECT]
        safe = [p for p in batch if p.result is None and p.state.crash_count < verdict.SUSPECT]
        if safe:
            self._deliver(consumer, safe)
        self._settle(consumer, [pending for pending in batch if pending not in suspects])
        for number, pending in enumerate(suspects):
            self._try(consumer, pending, is_first=number == 0)

    def _without_duplicates(self, consumer: Consumer, batch: list[_Pending]) -> list[_Pending]:
        """Mark what is delivered already; leave what is in a batch twice for the next one."""
        first: dict[str, _Pending] = {}
        unique = []
        for pending in batch:
            message_id = pending.message.id
            if pending.result is None and message_id in self._delivered:
                pending.result = SinkResult(Disposition.ACK)  # the broker was not told that it is done
            if message_id and first.setdefault(message_id, pending) is not pending:
                self._hold(consumer, pending, 0.0)
            else:
                unique.append(pending)
        return unique

    def _try(self, consumer: Consumer, pending: _Pending, *, is_first: bool) -> None:
        """Deliver a suspect if it is on trial, else put it on trial; the others of a batch wait for their turn."""
        state = pending.state
        if state.on_trial:
            self._deliver(consumer, [pending])
            self._settle(consumer, [pending])
        elif state.crash_count >= verdict.MOST_CRASHES:
            pending.result = SinkResult(Disposition.DEAD_LETTER, verdict.crashes(state))
            self._settle(consumer, [pending])
        else:
            if is_first:
                state.on_trial = True
                state.crash_count += 1
                state.due = 0.0
            else:
                state.due = time.time() + _delay(0)
            self._put_back(consumer, pending)

    def _deliver(self, consumer: Consumer, batch: list[_Pending]) -> None:
        """Give messages to the sink; note in each what is to become of it."""
        now = time.time()
        incoming = [Incoming(pending.message.body, pending.state.pending_handlers) for pending in batch]
        results = self._sink.deliver(incoming, partial(_keep_alive, consumer))
        for pending, result in zip(batch, results, strict=True):
            pending.result = self._judge(pending, result, now)
        if all(result.disposition is Disposition.KEEP for result in results):
            self._pause(results[0].reason)
        else:
            self._pauses = 0

    def _judge(self, pending: _Pending, result: SinkResult, now: float) -> SinkResult:
        """Take a sink's result into the state; return what is to become of the message."""
        state = pending.state
        state.first_seen = min(state.first_seen or now, now)  # by our clock: the sender's may be years off
        is_old = now - state.first_seen > MESSAGE_LIFETIME
        if result.disposition is Disposition.KEEP:
            state.attempts += 1
            return verdict.given_up(state, result.reason) if is_old else result
        if result.crashed:
            return verdict.after_crash(state, result.reason)
        state.attempts += 1
        state.crash_count, state.on_trial = 0, False
        state.refused |= result.refused
        if result.disposition is Disposition.DEAD_LETTER:
            return result
        state.pending_handlers = result.pending
        if result.disposition is Disposition.REQUEUE:
            return verdict.given_up(state, result.reason) if is_old else result
        return SinkResult(Disposition.DEAD_LETTER, left) if (left := verdict.left_over(state)) else result

    def _pause(self, reason: str) -> None:
        """Receive nothing for a while: what fails for all of a batch is likely to fail for the next one."""
        self._report_once(f"events cannot be stored, and nothing is received for a while: {reason}")
        self._pause_until = time.monotonic() + min(_delay(self._pauses), _MAX_PAUSE)
        self._pauses += 1

    def _settle(self, consumer: Consumer, batch: list[_Pending]) -> None:
        """Do with each message what is to become of it."""
        finished = [pending for pending in batch if pending.result and pending.result.disposition is Disposition.ACK]
        if finished:
            for pending in finished:
                self._remember(pending.message.id)  # the acknowledgement may not reach the broker
            consumer.acknowledge([pending.message for pending in finished])
            self.counts.finished += len(finished)
        for pending in batch:
            result: Any = pending.result
            if result.disposition is Disposition.KEEP:
                self._keep(consumer, pending)
            elif result.disposition is not Disposition.ACK:
                self._move(consumer, pending, result)

    def _keep(self, consumer: Consumer, pending: _Pending) -> None:
        pending.result = None
        wait = _delay(pending.state.attempts - 1)
        if time.monotonic() - pending.received > _LONGEST_HELD:
            pending.state.due = time.time() + wait
            self._put_back(consumer, pending)
        else:
            self._hold(consumer, pending, wait)

    def _move(self, consumer: Consumer, pending: _Pending, result: SinkResult) -> None:
        """Requeue or dead-letter a message; if it cannot be published, hold it, and do not deliver it again."""
        state = pending.state
        if not pending.failures:
            state.due = time.time() + _delay((state.crash_count or state.attempts) - 1)
        is_dead = result.disposition is Disposition.DEAD_LETTER
        queue = f"{self._queue}.dead" if is_dead else self._queue
        try:
            if is_dead:
                self._dead_letter(consumer, pending, result.reason)
            else:
                consumer.requeue(pending.message, state.as_headers(), state.due - time.time())
        except (NotTakenError, TooLargeError) as error:
            self._retry_later(pending, queue, error)
            self._hold(consumer, self._held.pop(), pending.due - time.monotonic())

    def _dead_letter(self, consumer: Consumer, pending: _Pending, reason: str) -> None:
        fresh = RelayState(**{name: getattr(pending.state, name) for name in RelayState.__slots__})
        fresh.begin_anew()
        reason = verdict.printable(reason)
        consumer.dead_letter(pending.message, {**fresh.as_headers(), REASON_HEADER: reason})
        self._report(f"a message is dead-lettered to {self._queue}.dead: {reason}")
        self.counts.finished += 1
        self.counts.dead_lettered += 1

    def _retry_later(self, pending: _Pending, queue: str, error: Exception) -> None:
        self._report_once(f"a message cannot be put into {queue}, and is kept until it can: {error}")
        pending.due = time.monotonic() + _delay(pending.failures)
        pending.failures += 1
        self._held.append(pending)

    def _remember(self, message_id: str) -> None:
        if message_id:
            self._delivered[message_id] = None
            if len(self._delivered) > _REMEMBERED:
                del self._delivered[next(iter(self._delivered))]


def _keep_alive(consumer: Consumer) -> None:
    try:
        consumer.keep_alive()
    except BrokerError:
        pass  # the next call to the consumer raises it; what was delivered until then is remembered


def _delay(failures: int) -> float:
    """Return the seconds to wait after some failures."""
    return backoff(failures, _FIRST_DELAY, _LONGEST_DELAY)
