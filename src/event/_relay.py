"""From a broker's queue to handlers: what a message holds is safe elsewhere before the broker forgets it.

A relay takes a message, and with an outbox it

    puts the event there, synced to the disk, and acknowledges; whoever delivers from the outbox does the rest.

Without one it

    gives the event to the handlers, and acknowledges when all of them have it. Where some have not, the message goes
    to the end of the queue, with a note of who still owes it what and from when on; then the first one is acknowledged.

A message that no attempt helps goes to the queue ``QUEUE.aside``, as it came, with the reason beside it: what is no
message of ours, what a handler has refused for good, what has brought down its relay again and again. It waits there
for a person, and a relay of that queue tries it again.

No message stops the others. One that is not due yet is kept in hand, and goes to the end of the queue where many are;
so does one for which the disk has no room. Where the disk has none for others either, all wait, for seconds.

A relay that is killed between two of these steps has the message come again, under the same id.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import nullcontext
from heapq import heapify, heappop, heappush

from event import _intake, _message
from event._broker import BrokerError, TooLargeError
from event._clocked import Clock
from event._note import Note
from event._outbox import entry as _entry
from event._publisher import Publisher
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from threading import Event as Flag
    from typing import Protocol

    from event._broker import Broker
    from event._event import Event
    from event._intake import Intake
    from event._message import Parcel, Reference
    from event._s3 import Store
    from event._taken import Taken

    class Acceptor(Protocol):
        """Where the events of a relay go. An `OSError` is the disk's."""

        def scratch(self) -> AbstractContextManager[str]: ...  # a directory for an event's attachments

        # Has those that owe it take an event, and notes who has and who refuses it; returns why others have not.
        def accept(self, parcel: Parcel, event: Event, note: Note) -> str: ...


ASIDE_SUFFIX = ".aside"
REASON = "e3-event-reason"  # the header of a message that is put aside
_REASON_MOST = 1000  # characters
_POLL = 0.5  # seconds between two looks at whether to stop
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0  # seconds between two attempts
_LONGEST_REST = 15.0  # seconds in which nothing is taken
_IN_HAND = 5  # messages that are not due, at most
_PUT_OFF = 0.05  # seconds for each one that goes to the end of the queue instead
_SUSPICIOUS = 2  # a broker that was started anew tells of all messages that they have been taken before
_DEATHS = 8  # relays that have died with a message; then it is to blame
_REMEMBERED = 10_000  # ids of messages that are done with
_PUBLISHING = 30.0  # seconds
_REMINDER = 3600.0  # seconds until what goes wrong is told again

DONE, AGAIN, ASIDE = "done", "again", "aside"


class Fate:
    """What becomes of a message.

    :ivar what: `DONE`, it is acknowledged; `AGAIN`, it goes to the end of the queue; or `ASIDE`
    :ivar reason: why it is not done
    """

    __slots__ = ("reason", "what")

    def __init__(self, what: str, reason: str = "") -> None:
        self.what = what
        self.reason = reason


class Relay:
    """Takes messages from a queue until it is told to stop.

    :param broker: the queue's
    :param acceptor: where the events go
    :param places: from where attachments may be fetched: the URL beneath which they are, and the store
    :param patience: seconds that accepting an event may take
    :param tell: called with a line about each thing that goes wrong, once an hour
    :ivar taken: how many messages are done with
    :ivar aside: how many of them were put aside
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
        self._said: dict[str, float] = {}
        self._lost = 0  # times in a row
        self._done: dict[str, None] = {}
        self._hand: list[_Held] = []  # a heap
        self._rested = 0  # times in a row
        self._rest_until = 0.0

    def run(self, stop: Flag) -> None:
        """Relay until the flag is set. A broker that is away is waited for."""
        while not stop.is_set():
            problem = "cannot be reached"
            try:
                with _intake.connect(
                    self._broker, self._queue, self._taker, patience=self._patience, attempt=self._lost
                ) as intake:
                    problem = "is lost"
                    if intake.forgets:
                        self._say(f"{self._broker.shown} forgets what is taken: a relay that is killed loses it")
                    self._serve(intake, stop)
            except BrokerError as error:
                self._say(f"{self._broker.shown} {problem}: {error}")
                stop.wait(_delay(self._lost))
                self._lost += 1
            finally:
                self._hand.clear()  # what was in it comes again
        self._publisher.close()

    def _serve(self, intake: Intake, stop: Flag) -> None:
        while not stop.is_set():
            now = time.monotonic()
            if now < self._rest_until:
                stop.wait(min(self._rest_until - now, _POLL))
            elif self._hand and self._hand[0].due <= now:
                self._settle(intake, heappop(self._hand))
            else:
                wait = self._hand[0].due - now if self._hand else _POLL
                taken = intake.take(min(wait, _POLL))
                self._found()
                if taken:
                    self._receive(intake, _Held(taken))

    def _found(self) -> None:
        if self._lost:
            self._tell(f"{self._broker.shown} is there again")
            self._said.clear()
            self._lost = 0

    def _receive(self, intake: Intake, held: _Held) -> None:
        """Take a message in hand until it is due; the clock of the relay that has dated it may be another."""
        wait = 0.0 if held.taken.again else max(held.note.due - time.time(), 0.0)
        self._keep(held, min(wait, _LONGEST_DELAY))
        if len(self._hand) > _IN_HAND:  # behind them may be what is due
            last = max(self._hand)
            self._hand.remove(last)
            heapify(self._hand)
            if last.unpublished:  # what cannot be put aside would fill the hand, and leave no room for others
                last.fate = Fate(AGAIN)
                last.note.due = time.time() + _LONGEST_DELAY
            self._put_off(intake, last)
            self._rest_until = time.monotonic() + _PUT_OFF  # where all wait, they go round

    def _put_off(self, intake: Intake, held: _Held) -> None:
        """Have a message go to the end of the queue, with the note that it has."""
        if held.fate is None:
            held.fate = self._suspect(held.note) if held.taken.again else Fate(AGAIN)
        self._settle(intake, held)

    def _keep(self, held: _Held, wait: float) -> None:
        held.due = time.monotonic() + wait
        heappush(self._hand, held)

    def _settle(self, intake: Intake, held: _Held) -> None:
        """Do with a message what is to be done, and acknowledge it."""
        fate = held.fate = held.fate or self._fate(intake, held)
        queue = self._queue
        if fate.what == ASIDE:
            queue += ASIDE_SUFFIX
            held.note.begin_anew()
        try:
            if fate.what != DONE:
                self._publish(queue, held, {REASON: _told(fate.reason)} if fate.what == ASIDE else {})
        except (BrokerError, TooLargeError) as error:
            # Unacknowledged, and without another attempt: the handlers that have it must not get it again.
            self._say(f"a message cannot be put into {queue}, and is kept until it can: {error}")
            self._keep(held, _delay(held.unpublished))
            held.unpublished += 1
            return
        intake.acknowledge(held.taken)
        if fate.what == ASIDE:
            self._tell(f"a message is put into {queue}: {_told(fate.reason)}")
            self.aside += 1
        self.taken += fate.what != AGAIN

    def _publish(self, queue: str, held: _Held, headers: dict[str, str]) -> None:
        clock = Clock(_PUBLISHING, _PUBLISHING)
        headers = {**held.note.header(), **headers}
        self._publisher.publish(queue, held.taken.body, clock, content_type=_message.CONTENT_TYPE, headers=headers)

    def _fate(self, intake: Intake, held: _Held) -> Fate:
        if held.taken.again:
            return self._suspect(held.note)
        if held.note.deaths < _SUSPICIOUS:
            return self._attempt(held.taken, held.note)
        # It may end us too. What else is in hand then would be suspected without reason.
        others = [*self._hand, *map(_Held, intake.pause())]
        self._hand.clear()
        for other in others:
            self._put_off(intake, other)
        fate = self._attempt(held.taken, held.note)
        intake.resume()
        return fate

    def _suspect(self, note: Note) -> Fate:
        """Have a message that has ended with its relay come again behind the others: it may have been to blame."""
        note.deaths += 1
        if note.deaths > _DEATHS:
            return Fate(ASIDE, f"{note.deaths} relays have ended while they had it")
        note.due = time.time() + _delay(note.deaths - 1)
        return Fate(AGAIN)

    def _attempt(self, taken: Taken, note: Note) -> Fate:
        now = time.time()
        note.since = min(note.since or now, now)  # by our clock: the sender's may be years off
        note.attempts += 1
        note.deaths = 0
        try:
            parcel = _decoded(taken)
            if parcel.id in self._done:
                return Fate(DONE)  # the broker did not hear that it was
            reason = self._accept(parcel, note)
        except _NotNowError as error:
            reason = str(error)
        except (OSError, MemoryError) as error:  # of the disk
            reason = self._rest(error)
        except Exception as error:  # of what is in it: it must not stop the others
            return Fate(ASIDE, one_line(error))
        if reason and note.owing != []:
            return self._later(note, reason)
        if note.owing or note.refused:
            return Fate(ASIDE, _left(note))
        return Fate(DONE)

    def _accept(self, parcel: Parcel, note: Note) -> str:
        with self._acceptor.scratch() if parcel.attachments else nullcontext("") as directory:
            reason = self._acceptor.accept(parcel, self._unpack(parcel, directory), note)
        self._rested = 0
        if not (reason or note.owing or note.refused):
            self._remember(parcel.id)
        return reason

    def _later(self, note: Note, reason: str) -> Fate:
        if time.time() - note.since > _entry.LIFETIME:
            return Fate(ASIDE, f"given up after {note.attempts} attempts: {reason}")
        note.due = time.time() + _delay(note.attempts - 1)
        return Fate(AGAIN, reason)

    def _unpack(self, parcel: Parcel, directory: str) -> Event:
        """Write a message's attachments into a directory; return the event that has them.

        :raises EventError: an attachment is not to be had
        :raises OSError: the disk is full, say
        """
        if len({file for file, _ in parcel.attachments.values()}) < len(parcel.attachments):
            raise EventError("several attachments are one file")  # a small message would fill the disk
        attachments: dict[str, tuple[str, str]] = {}
        for name, (file, digest) in parcel.attachments.items():
            path = os.path.join(directory, str(len(attachments)))
            content = parcel.files[file]
            if isinstance(content, bytes):
                with open(path, "xb") as whole:  # not synced: what is accepted is a copy
                    whole.write(content)
            else:
                self._fetch(content, path, digest)
            attachments[name] = (path, digest)
        return parcel.event._as_sent(parcel.id, attachments)

    def _fetch(self, file: Reference, path: str, digest: str) -> None:
        """Fetch what is in S3."""
        # Whoever may publish must not have us read whatever we may read.
        place, store = self._places or ("", None)
        if store is None or not file.url.startswith(f"{place.rstrip('/')}/"):
            raise EventError(f"an attachment is at {file.url}, and this relay takes none from there (--s3)")
        from event import _s3

        try:
            store.download(file.url, path, file.size, digest)
        except _s3.NotThereError as error:
            raise EventError(f"an attachment is not there: {one_line(error)}") from error
        except _s3.StoreError as error:
            raise _NotNowError(f"an attachment cannot be had now: {one_line(error)}") from error

    def _remember(self, message_id: str) -> None:
        self._done[message_id] = None
        if len(self._done) > _REMEMBERED:
            del self._done[next(iter(self._done))]

    def _rest(self, error: OSError | MemoryError) -> str:
        """Take nothing for a while: what is wrong may be wrong for all. Return the reason."""
        # Without the name of the file, which is another one each time.
        reason = getattr(error, "strerror", None) or one_line(error)
        self._say(f"an event cannot be kept, and nothing is taken for a while: {reason}")
        self._rest_until = time.monotonic() + min(_delay(self._rested), _LONGEST_REST)
        self._rested += 1
        return reason

    def _say(self, text: str) -> None:
        """Tell what goes wrong, unless that was told within the last hour."""
        now = time.monotonic()
        self._said = {said: at for said, at in self._said.items() if now - at < _REMINDER}
        if text not in self._said:
            self._said[text] = now
            self._tell(text)


class _Held:
    """A message in hand.

    :ivar due: when it is to be settled
    :ivar fate: what is to become of it; None until it is known
    :ivar unpublished: how often it could not be put where it is to go
    """

    __slots__ = ("due", "fate", "note", "taken", "unpublished")

    def __init__(self, taken: Taken) -> None:
        self.taken = taken
        self.note = Note(taken.headers)
        self.due = 0.0
        self.fate: Fate | None = None
        self.unpublished = 0

    def __lt__(self, other: _Held) -> bool:
        return self.due < other.due


class _NotNowError(Exception):
    """What is needed for an event cannot be had now; later it may be."""


def _decoded(taken: Taken) -> Parcel:
    try:
        return _message.decode(taken.body)
    except ValueError as error:
        raise EventError(f"it is no message of an event: {error}") from error


def _left(note: Note) -> str:
    """Return why a message is not done, though none of our handlers is to get it again."""
    parts = []
    if note.owing:
        parts.append(f"it is owed to {', '.join(note.owing)}, which this relay does not have")
    if note.refused:
        parts.append(f"refused for good: {'; '.join(f'{name}: {why}' for name, why in note.refused.items())}")
    return "; ".join(parts)


def _told(reason: str) -> str:
    """Return a reason as it can be told, and be a header: on one line, not too long, without lone surrogates."""
    return " ".join(reason.split())[:_REASON_MOST].encode("utf-8", "backslashreplace").decode()


def _delay(failures: int) -> float:
    """Return the seconds to wait after some failures; they vary, so that not all relays come again together."""
    longest = min(_FIRST_DELAY * float(1 << min(failures, 16)), _LONGEST_DELAY)
    return longest * random.uniform(0.75, 1.25)  # noqa: S311  # no secret
