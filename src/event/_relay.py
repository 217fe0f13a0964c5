"""From a broker's queue to handlers: what a message holds is safe elsewhere before the broker forgets it.

A relay takes a message, and with an outbox it

    puts the event there, synced to the disk, and acknowledges; whoever delivers from the outbox does the rest.

Without one it

    gives the event to the handlers, and acknowledges when all of them have it. Where some have not, the message goes
    to the end of the queue, with a note of who still owes it what and from when on; then the first one is acknowledged.

A message that no attempt helps goes to the queue ``QUEUE.aside``, as it came, with the reason beside it: what is no
message of ours, what a handler has refused for good, what has brought down its relay again and again. It waits there
for a person, and a relay of that queue tries it again.

A relay that is killed between two of these steps has the message come again, under the same id.
"""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import contextmanager
from heapq import heappop, heappush

from event import _dispatch, _entry, _files, _intake, _log, _message
from event._broker import BrokerError, Publisher
from event._clocked import Clock
from event._disk import remove
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from contextlib import AbstractContextManager
    from threading import Event as Flag
    from typing import Any, Protocol

    from event._broker import Broker
    from event._event import Event
    from event._intake import Intake, Taken
    from event._message import Parcel, Reference
    from event._outbox import Outbox
    from event._outcome import Delivery
    from event._s3 import Store

    class Acceptor(Protocol):
        """Where the events of a relay go. An `OSError` is the disk's."""

        def scratch(self) -> AbstractContextManager[str]: ...  # a directory for an event's attachments

        def accept(self, parcel: Parcel, event: Event, note: Note) -> Fate: ...  # what becomes of the message


ASIDE_SUFFIX = ".aside"
REASON = "e3-event-reason"  # the header of a message that is put aside
NOTE = "e3-event-relay"  # the header of a message that a relay has put back
_POLL = 0.5  # seconds between two looks at whether to stop
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0  # seconds between two attempts
_DEATHS = 8  # relays that have died with a message; then it is to blame
_REMEMBERED = 10_000  # ids of messages that are done with
_PUBLISHING = 30.0  # seconds


class Fate:
    """What becomes of a message.

    :ivar what: `DONE`, it is acknowledged; `AGAIN`, it goes to the end of the queue; `ASIDE`; or `HOLD`, it stays with
        us, and all others too
    :ivar reason: why it is not done
    :ivar owing: the handlers that are still to get the event; None for all
    """

    __slots__ = ("owing", "reason", "what")

    def __init__(self, what: str, reason: str = "", owing: list[str] | None = None) -> None:
        self.what = what
        self.reason = reason
        self.owing = owing


DONE, AGAIN, ASIDE, HOLD = "done", "again", "aside", "hold"


class Note:
    """What relays have noted beside a message: a header, as JSON. What is none of ours counts as no note.

    :ivar attempts: how often the event was given to handlers
    :ivar owing: the handlers that are still to get it; None for all
    :ivar refused: why handlers have refused it for good, by name
    :ivar due: when it is to be tried again, in seconds since 1970 UTC
    :ivar deaths: how many relays have ended with it since it was last tried
    """

    __slots__ = ("attempts", "deaths", "due", "owing", "refused")

    def __init__(self, headers: Mapping[str, Any]) -> None:
        try:
            content = json.loads(headers.get(NOTE, "{}"))
            self.attempts = int(content.get("attempts", 0))
            self.deaths = int(content.get("deaths", 0))
            self.due = float(content.get("due", 0))
            self.owing: list[str] | None = None if content.get("owing") is None else [*map(str, content["owing"])]
            self.refused = {str(name): str(reason) for name, reason in content.get("refused", {}).items()}
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            self.attempts = self.deaths = 0
            self.due = 0.0
            self.owing = None
            self.refused = {}

    def header(self) -> dict[str, str]:
        """Return the header that holds it."""
        return {NOTE: json.dumps({name: getattr(self, name) for name in self.__slots__})}


class Relay:
    """Takes messages from a queue until it is told to stop.

    :param broker: the queue's
    :param acceptor: where the events go
    :param places: from where attachments may be fetched: the URL beneath which they are, and the store
    :param patience: seconds that accepting an event may take
    :param tell: called with a line about each thing that goes wrong, once
    :ivar taken: how many messages are done with
    :ivar aside: how many were put aside
    """

    def __init__(  # noqa: PLR0913  # what a relay is between
        self,
        broker: Broker,
        queue: str,
        acceptor: Acceptor,
        *,
        places: tuple[str, Store] | None,
        patience: float,
        tell: Callable[[str], None],
    ) -> None:
        self.taken = self.aside = 0
        self._broker = broker
        self._queue = queue
        self._acceptor = acceptor
        self._places = places
        self._patience = patience
        self._tell = tell
        self._publisher = Publisher(broker)
        self._taker = f"{os.getpid()}-{os.urandom(8).hex()}"
        self._trouble = ""
        self._done: dict[str, None] = {}
        self._hand: list[tuple[float, int, Taken, Note]] = []  # a heap, by when each is due
        self._number = 0
        self._held_until = 0.0
        self._holds = 0

    def run(self, stop: Flag) -> None:
        """Relay until the flag is set. A broker that is away is waited for."""
        failures = 0
        while not stop.is_set():
            try:
                intake = _intake.connect(
                    self._broker, self._queue, self._taker, patience=self._patience, attempt=failures
                )
            except BrokerError as error:
                self._note_trouble(f"{self._broker.shown} cannot be reached: {error}")
                stop.wait(_delay(failures))
                failures += 1
                continue
            self._note_trouble("")
            failures = 0
            try:
                self._serve(intake, stop)
            except BrokerError as error:
                self._note_trouble(f"{self._broker.shown} is lost: {error}")
                stop.wait(_delay(0))
            finally:
                self._hand.clear()  # what was in it comes again
                intake.close()
        self._publisher.close()

    def _serve(self, intake: Intake, stop: Flag) -> None:
        while not stop.is_set():
            wait = self._hand[0][0] - time.monotonic() if self._hand else _POLL
            if wait <= 0:
                intake.keep_alive()
                _, _, due, note = heappop(self._hand)
                self._settle(intake, due, note)
            elif taken := intake.take(min(wait, _POLL)):
                note = Note(taken.headers)
                self._keep(taken, note, max(note.due - time.time(), 0.0))

    def _keep(self, taken: Taken, note: Note, wait: float) -> None:
        """Keep a message in hand for some seconds; the clock of the relay that has dated it may be another."""
        due = max(time.monotonic() + min(wait, _LONGEST_DELAY), self._held_until)
        self._number += 1
        heappush(self._hand, (due, self._number, taken, note))

    def _settle(self, intake: Intake, taken: Taken, note: Note) -> None:
        """Do with a message what is to be done, and acknowledge it."""
        fate = self._suspect(note) if taken.again else self._attempt(taken, note)
        if fate.what == HOLD:
            self._hold(taken, note, fate.reason)
            return
        self._holds = 0
        if fate.what == AGAIN:
            self._put_back(taken, note, fate)
        elif fate.what == ASIDE:
            self._put_aside(taken, note, fate)
        intake.acknowledge(taken)
        self.taken += 1

    def _suspect(self, note: Note) -> Fate:
        """Have a message that has ended with its relay come again behind the others: it may have been to blame."""
        note.deaths += 1
        if note.deaths > _DEATHS:
            return Fate(ASIDE, f"{note.deaths} relays have ended while they had it", note.owing)
        note.due = time.time() + _delay(0) * note.deaths  # in another order each time
        return Fate(AGAIN, owing=note.owing)

    def _attempt(self, taken: Taken, note: Note) -> Fate:
        try:
            parcel = _message.decode(taken.body)
        except ValueError as error:
            return Fate(ASIDE, f"it is no message of an event: {error}")
        if parcel.id in self._done:
            return Fate(DONE)  # the broker did not hear that it was
        try:
            with self._acceptor.scratch() as directory:
                event = self._unpack(parcel, directory)
                fate = event if isinstance(event, Fate) else self._acceptor.accept(parcel, event, note)
        except OSError as error:  # of the disk
            return Fate(HOLD, one_line(error))
        except Exception as error:  # of what is in it: it must not stop the others
            return Fate(ASIDE, f"it cannot be taken: {one_line(error)}")
        note.deaths = 0
        if fate.what == DONE:
            self._remember(parcel.id)
        elif fate.what == AGAIN:
            note.attempts += 1
            note.due = time.time() + _delay(note.attempts - 1)
            if time.time() - parcel.created > _entry.LIFETIME:
                return Fate(ASIDE, f"given up after {note.attempts} attempts: {fate.reason}", fate.owing)
        return fate

    def _unpack(self, parcel: Parcel, directory: str) -> Event | Fate:
        """Write a message's attachments into a directory; return the event that has them, or what else becomes of it.

        :raises OSError: the disk is full, say
        """
        attachments: dict[str, tuple[str, str]] = {}
        for name, (file, digest) in parcel.attachments.items():
            path = os.path.join(directory, str(len(attachments)))
            content = parcel.files[file]
            if isinstance(content, bytes):
                _files.write_new(path, content)
            elif fate := self._fetch(content, path, digest):
                return fate
            attachments[name] = (path, digest)
        return parcel.event._as_sent(parcel.id, attachments)

    def _fetch(self, file: Reference, path: str, digest: str) -> Fate | None:
        """Fetch what is in S3; return what becomes of the message where that cannot be."""
        # Whoever may publish must not have us read whatever we may read.
        place, store = self._places or ("", None)
        if store is None or not file.url.startswith(f"{place.rstrip('/')}/"):
            return Fate(ASIDE, f"an attachment is at {file.url}, and this relay takes none from there (--s3)")
        try:
            store.download(file.url, path, file.size, digest)
        except (FileNotFoundError, ValueError) as error:
            return Fate(ASIDE, f"an attachment cannot be had: {one_line(error)}")
        except OSError as error:
            return Fate(AGAIN, f"an attachment cannot be had now: {one_line(error)}")
        return None

    def _remember(self, message_id: str) -> None:
        self._done[message_id] = None
        if len(self._done) > _REMEMBERED:
            del self._done[next(iter(self._done))]

    def _hold(self, taken: Taken, note: Note, reason: str) -> None:
        """Keep a message, unacknowledged, and all others too: what is wrong is wrong for all."""
        self._note_trouble(f"nothing is taken for a while: {reason}")
        self._held_until = time.monotonic() + _delay(self._holds)
        self._holds += 1
        self._keep(taken, note, 0.0)

    def _put_back(self, taken: Taken, note: Note, fate: Fate) -> None:
        note.owing = fate.owing
        self._publish(self._queue, taken, note.header())

    def _put_aside(self, taken: Taken, note: Note, fate: Fate) -> None:
        note.owing, note.deaths, note.due, note.refused = fate.owing, 0, 0.0, {}
        reason = " ".join(fate.reason.split())[:1000]
        self._tell(f"a message is put into {self._queue}{ASIDE_SUFFIX}: {reason}")
        self._publish(f"{self._queue}{ASIDE_SUFFIX}", taken, {**note.header(), REASON: reason})
        self.aside += 1

    def _publish(self, queue: str, taken: Taken, headers: Mapping[str, str]) -> None:
        clock = Clock(_PUBLISHING, _PUBLISHING)
        self._publisher.publish(queue, taken.body, clock, content_type=_message.CONTENT_TYPE, headers=headers)

    def _note_trouble(self, text: str) -> None:
        if text and text != self._trouble:
            self._tell(text)
        elif self._trouble and not text:
            self._tell(f"{self._broker.shown} is there again")
        self._trouble = text


class Keeper:
    """Puts events into an outbox, for whoever delivers from it.

    :param configurations: the configuration of each handler, by name
    :param wake: called when an event was put
    """

    def __init__(self, outbox: Outbox, configurations: dict[str, str], wake: Callable[[], None]) -> None:
        self._outbox = outbox
        self._configurations = configurations
        self._wake = wake

    @contextmanager
    def scratch(self) -> Generator[str]:
        """Give a directory in the outbox."""
        directory = self._outbox.make_scratch()
        try:
            yield directory
        finally:
            remove(directory)

    def accept(self, parcel: Parcel, event: Event, note: Note) -> Fate:
        """Keep an event.

        :raises OSError: it could not be kept
        """
        owing = {
            name: config for name, config in self._configurations.items() if note.owing is None or name in note.owing
        }
        if not owing:
            return Fate(ASIDE, f"it is owed to {_named(note.owing)}, which this relay does not have", note.owing)
        claim = self._outbox.put(event, owing, sending=parcel.id)
        try:
            claim.postpone(time.time())
        except OSError as error:
            _log.warning("outbox entry %s stays claimed until this process ends: %s", parcel.id, one_line(error))
        self._wake()
        return Fate(DONE)


class Giver:
    """Gives events to handlers.

    :param timeout: for all handlers of one event together, in seconds
    :param report: called with each delivery
    """

    def __init__(
        self,
        handlers: Mapping[str, _dispatch.Handler],
        timeout: float,
        report: Callable[[Parcel, Delivery], None],
    ) -> None:
        self._handlers = handlers
        self._timeout = timeout
        self._report = report

    def scratch(self) -> AbstractContextManager[str]:
        """Give a temporary directory."""
        from tempfile import TemporaryDirectory

        return TemporaryDirectory(prefix="e3-event-relay-")

    def accept(self, parcel: Parcel, event: Event, note: Note) -> Fate:
        """Give an event to the handlers that have not got it yet."""
        owing = {name: it for name, it in self._handlers.items() if note.owing is None or name in note.owing}
        if not owing:
            return Fate(ASIDE, f"it is owed to {_named(note.owing)}, which this relay does not have", note.owing)
        left = []
        for delivery in _dispatch.send(owing, event, self._timeout):
            self._report(parcel, delivery)
            if delivery.permanent:
                note.refused[delivery.handler] = delivery.reason
            elif not delivery.ok:
                left.append(delivery)
        if left:
            return Fate(AGAIN, left[-1].reason, [delivery.handler for delivery in left])
        if note.refused:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in note.refused.items())
            return Fate(ASIDE, f"refused for good: {reasons}", [*note.refused])
        return Fate(DONE)


def _named(owing: list[str] | None) -> str:
    return ", ".join(owing or []) or "no handler"


def _delay(failures: int) -> float:
    """Return the seconds to wait after some failures; they vary, so that not all relays come again together."""
    longest = min(_FIRST_DELAY * float(1 << min(failures, 16)), _LONGEST_DELAY)
    return longest * random.uniform(0.75, 1.25)  # noqa: S311  # no secret
