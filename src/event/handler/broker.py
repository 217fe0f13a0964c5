"""The broker handler: each event becomes a message of a broker, for relays to take."""

from __future__ import annotations

import os
import time
from hashlib import sha1

from event import (
    Event,
    EventError,
    EventHandler,
    PermanentError,
    _config,
    _files,
    _log,
    _message,
    _secret,
    _trace,
    sending_id,
)
from event._handler import import_extra
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from event._message import Parcel, Reference
    from event._publisher import Publisher
    from event._s3 import Store

_OPTIONS = ("limit", "s3", "profile", "sse", "timeout")
_EXPECTED = (
    "expected broker=URL,QUEUE and then limit=..., s3=..., profile=..., sse=..., timeout=... as needed; "
    "all but the URL may be left out"
)
_TIMEOUT = 30.0  # seconds
_SSE = "AES256"

# Bytes of all attachments in one message. It grows by a third there, and RabbitMQ 4 takes 16 MiB; where kombu has it
# grow by another third, SQS takes 256 KiB.
_LIMIT = 4 << 20
_LIMITS = {"sqs": 100 << 10}


class BrokerHandler(EventHandler):
    """Publishes each event to a queue of RabbitMQ, Redis, SQS, or what else kombu speaks.

    The message is persistent, and the event delivered when the broker has confirmed it. ``e3-event relay`` takes it
    from there, on any number of machines, and gives it to handlers of its own.

    Attachments are in the message, as long as all of them together keep within the limit. One that does not fit goes
    to S3, where ``s3`` names a place there; without, the event goes out without it, and the log tells which.

    :param url: the broker, as kombu has it: ``amqps://USER:PASSWORD@HOST/VHOST``, ``rediss://…``, ``sqs://…``; several,
        apart by ``;``, are tried in turn. It holds a password: better is a reference to it, ``env:NAME`` or
        ``file:PATH``, resolved when an event is sent
    :param queue: the queue's name; the queue is made, durable, where it is missing
    :param limit: the bytes that the attachments of one message may have together; None for what the broker takes
    :param s3: where larger attachments go, ``s3://bucket/prefix``
    :param profile: the profile of the AWS configuration, for ``s3``
    :param sse: the server-side encryption, for ``s3``
    :param timeout: seconds that publishing may take, with all attempts; what goes to S3 has gone there before
    :raises EventError: kombu, or the client that it needs for the URL, is not installed, or an argument cannot be
    """

    # The extra, and what it brings, and what may be given by reference: `e3-event check` looks for both.
    _requires = ("broker", ("kombu",))
    _references = ("url",)

    # The URL that the publisher is for, and the publisher. A class attribute, so that a copy and an unpickled handler
    # start without one.
    _publisher: tuple[str, Publisher] | None = None

    def __init__(  # noqa: PLR0913  # what can be configured
        self,
        url: str,
        queue: str = _message.QUEUE,
        *,
        limit: int | None = None,
        s3: str = "",
        profile: str | None = None,
        sse: str | None = _SSE,
        timeout: float = _TIMEOUT,
    ) -> None:
        import_extra("kombu", "broker")
        self.url = url
        self.queue = _name(queue)
        self.limit = None if limit is None else int(_number("limit", limit, "0 or more", 0))
        self.s3 = s3
        self.profile = profile or ""
        self.sse = sse or ""
        self.timeout = _number("timeout", timeout, "above 0", 1e-9)
        self._store = self._checked_store()
        self._load_client()

    def __getstate__(self) -> dict[str, Any]:
        """Return what copy and pickle keep: all but the connections."""
        return {name: value for name, value in self.__dict__.items() if name != "_publisher"}

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``url,queue[,key=value...]``.

        :raises EventError: a value behind the queue is no ``key=value``, or its key is none of ours
        """
        url, *fields = _config.split_fields(_config_str)
        config: dict[str, Any] = {"url": url}
        if fields and fields[0]:
            config["queue"] = fields[0]
        for position, field in enumerate(fields[1:], 3):
            key, equals, value = field.partition("=")
            if not equals or key not in _OPTIONS:
                # Not the field: a secret in the wrong place would be shown.
                raise EventError(f"broker: value {position} of the configuration is not understood; {_EXPECTED}")
            config[key] = value
        return config

    def encode_config(self) -> str:
        """Return ``url,queue``, and behind it as ``key=value`` what differs from the default."""
        return self._encoded(self.url)

    def _config_elsewhere(self) -> str:
        """Return the configuration with absolute paths: an outbox may be delivered from another directory."""
        return self._encoded(_secret.absolute(self.url))

    def send_event(self, event: Event) -> bool:
        """Publish the event, and wait until the broker confirms it.

        :return: whether the broker has it; where it has not but may later, the log tells why at WARNING
        :raises PermanentError: the broker takes no message of that size
        :raises EventError: the data holds itself; nothing was published
        """
        from event._clocked import Clock

        sending = sending_id(event)
        try:
            publisher = self._connect(_secret.resolve(self.url, "broker: the URL"))
        except EventError as error:  # the secret is missing, or a new one is no URL
            _log.warning("broker: %r is not published: %s", event, one_line(error))
            return False
        shown = self.url if _secret.is_reference(self.url) else publisher.broker.shown
        try:
            body = _message.encode(self._parcel(event, sending, publisher.broker.scheme))
            clock = Clock(self.timeout, self.timeout)  # from now: an upload may take its time
            publisher.publish(self.queue, body, clock, content_type=_message.CONTENT_TYPE, message_id=sending)
        except PermanentError as error:
            raise PermanentError(f"broker: {shown} refuses {event!r} for good: {one_line(error)}") from error
        except OSError as error:  # of the broker, or of S3
            _log.warning("broker: %r is not published to %s: %s", event, shown, error)
            return False
        return True

    def _load_client(self) -> None:
        """Have the client that the URL needs loaded.

        :raises EventError: it is no URL, or its client is not installed
        """
        from event import _broker, _publisher  # noqa: F401  # loaded now, as the client is

        try:
            url = _secret.resolve(self.url, "broker: the URL")
        except EventError:
            return  # it may be there when an event is sent
        if _broker.Broker(url).has_secret:
            _secret.warn_if_clear(self.url, "broker: the URL's password")

    def _connect(self, url: str) -> Publisher:
        """Return the publisher, which all sends and threads share; another URL, as of a new password, gets another."""
        from event._broker import Broker
        from event._publisher import Publisher

        if self._publisher is None or self._publisher[0] != url:
            self._publisher = (url, Publisher(Broker(url)))
        return self._publisher[1]

    def _parcel(self, event: Event, sending: str, scheme: str) -> Parcel:
        """Return what the message holds. An attachment that is gone, or too large, is left out, as the log tells."""
        room = _LIMITS.get(scheme.lower(), _LIMIT) if self.limit is None else self.limit
        attachments = event.get_attachments().copy()  # another thread may attach meanwhile
        safe = _files.safe_names(attachments)
        sent: dict[str, tuple[str, str]] = {}
        files: dict[str, bytes | Reference] = {}
        for number, (name, (path, _)) in enumerate(attachments.items()):
            try:
                file, digest = self._file(path, room, f"{sending}/{safe[name]}")
            except _LeftOutError as error:
                _log.warning("broker: attachment %r of %r is not sent: %s", name, event, error)
                continue
            room -= len(file) if isinstance(file, bytes) else 0
            files[str(number)] = file
            sent[name] = (str(number), digest)
        return _message.Parcel(sending, time.time(), event, sent, files, _trace.around_event(event))

    def _file(self, path: str, room: int, key: str) -> tuple[bytes | Reference, str]:
        """Return a file's content, or where it has been put, and its SHA-1.

        What is appended meanwhile, as to a log that is still written, is in neither.

        :param room: the bytes that the message still has for it
        :param key: its name beneath ``s3``
        :raises _LeftOutError: it cannot be read, or does not fit and there is no S3
        :raises OSError: S3 did not take it
        """
        try:
            file = open(_files.open_regular(path), "rb")  # noqa: SIM115  # closed below, and by nothing that may fail
        except (OSError, ValueError) as error:
            raise _LeftOutError(one_line(error)) from error
        with file:
            size = os.fstat(file.fileno()).st_size
            if size <= room:
                data = _read(file, size)
                return data, sha1(data, usedforsecurity=False).hexdigest()
            if self._store is None:
                raise _LeftOutError(f"it has {size} bytes, and the message has room for {room}; s3=s3://... takes it")
            url = f"{self.s3.rstrip('/')}/{key}"
            size, digest = self._store.upload_open(file, size, url, "application/octet-stream")
            return _message.Reference(url, size), digest

    def _checked_store(self) -> Store | None:
        if not self.s3:
            return None
        from event import _s3

        _s3.location(self.s3)
        return _s3.Store(self.profile or None, self.sse)

    def _encoded(self, url: str) -> str:
        usual = {"limit": None, "s3": "", "profile": "", "sse": _SSE, "timeout": _TIMEOUT}
        options = [f"{key}={value}" for key in _OPTIONS if (value := getattr(self, key)) != usual[key]]
        return _config.join_fields([url, self.queue, *options])


class _LeftOutError(Exception):
    """An attachment goes into no message; the event goes out without it."""


def _read(file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise _LeftOutError(one_line(error)) from error


def _name(queue: str) -> str:
    if not _message.is_queue(queue):
        # Not the name: it is the rest of a password that has a comma.
        raise EventError(
            f"broker: the queue must have a name, of {_message.QUEUE_MAX} bytes at most, that can be printed"
        )
    return queue


def _number(what: str, value: float | str, expected: str, least: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not least <= number < float("inf"):
        raise EventError(f"broker: {what} is {value!r}; expected a number, {expected}")
    return number
