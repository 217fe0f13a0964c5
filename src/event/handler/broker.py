"""The broker handler: publish each event to a broker's queue, from which relays receive it."""

from __future__ import annotations

import os
import time

from event import (
    Event,
    EventError,
    EventHandler,
    PermanentError,
    _broker,
    _files,
    _handler_config,
    _log,
    _secrets,
    _trace_context,
    sending_id,
)
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, BinaryIO, ClassVar

    from event._broker import EventMessage, InlineFile, PublisherPool, S3Reference
    from event._net.s3 import Store

_BROKER_OPTIONS = ("limit", "s3", "profile", "sse", "timeout")
_EXPECTED = (
    "expected broker=URL,QUEUE and then limit=..., s3=..., profile=..., sse=..., timeout=... as needed; "
    "all but the URL may be left out"
)
_PUBLISH_TIMEOUT = 30.0  # seconds
_SSE = "AES256"

# Bytes of all attachments in one message. base64 adds a third; RabbitMQ 4 accepts 16 MiB, SQS 1 MiB (256 KiB
# until 2025).
_LIMIT = 4 << 20
_LIMITS = {"sqs": 150 << 10}


class BrokerHandler(EventHandler):
    """Publishes each event to a queue of RabbitMQ, Redis, Valkey or Amazon SQS.

    The message is persistent. The event is delivered when the broker has confirmed the message. ``e3-event relay``
    receives it on another machine and passes the event to the handlers there.

    The message contains the attachments, up to a total size of ``limit``. An attachment that does not fit is uploaded
    to ``s3``. Without ``s3``, the event is published without that attachment, and a warning is logged.

    :param url: the broker: ``amqps://USER:PASSWORD@HOST/VHOST``, ``rediss://…``, ``valkeys://…`` or ``sqs://REGION``;
        several nodes, separated by ``;``, are tried in turn. If the URL contains a password, use a secret reference,
        ``env:NAME`` or ``file:PATH``. It is resolved when an event is sent
    :param queue: the queue's name; if the queue does not exist, a durable one is created
    :param limit: the maximum size of the attachments in one message, in bytes; None for a limit that the broker accepts
    :param s3: the S3 location of larger attachments, ``s3://bucket/prefix``
    :param profile: the AWS profile for ``s3``
    :param sse: the server-side encryption for ``s3``
    :param timeout: the total timeout of publishing in seconds, including all attempts but not the uploads to S3
    :raises EventError: the client library for the URL is not installed, or an argument is invalid
    """

    # For `e3-event check`: the required modules, and the attributes that may contain secret references.
    requires: ClassVar[Mapping[str, str]] = dict.fromkeys(("pika", "redis"), "e3-event[broker]")
    references: ClassVar[tuple[str, ...]] = ("url",)

    # The pool of connections and its URL. A class attribute, so that copies and unpickled handlers start without a
    # pool.
    _pool: tuple[str, PublisherPool] | None = None

    def __init__(  # noqa: PLR0913  # what can be configured
        self,
        url: str,
        queue: str = "e3-event",
        *,
        limit: int | None = None,
        s3: str = "",
        profile: str | None = None,
        sse: str | None = _SSE,
        timeout: float = _PUBLISH_TIMEOUT,
    ) -> None:
        self.url = url
        self.queue: str = _checked_queue(queue)
        self.limit: int | None = None if limit is None else _limit_option(limit)
        self.s3 = s3
        self.profile: str = profile or ""
        self.sse: str = sse or ""
        self.timeout: float = _handler_config.positive_seconds(timeout, "broker: the timeout")
        self._store = self._checked_store()
        self._load_client()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copy and pickle, without the connections."""
        return {name: value for name, value in self.__dict__.items() if name != "_pool"}

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``url,queue[,key=value...]``.

        :raises EventError: a value after the queue is not ``key=value``, or a key is unknown
        """
        url, *fields = _handler_config.split_fields(_config_str)
        config: dict[str, Any] = {"url": url}
        if fields and fields[0]:
            config["queue"] = fields[0]
        return config | _handler_config.decode_options("broker", fields[1:], _BROKER_OPTIONS, 3, _EXPECTED)

    def encode_config(self) -> str:
        """Return ``url,queue``, then each value that differs from its default as ``key=value``."""
        return self._encoded(self.url)

    def config_for_outbox(self) -> str:
        """Return the configuration with absolute paths, for a process in another directory."""
        return self._encoded(_secrets.absolute_reference(self.url))

    def send_event(self, event: Event) -> bool:
        """Publish the event and wait until the broker confirms it.

        :return: whether the broker has confirmed it; if not, the reason is logged as a warning
        :raises PermanentError: the broker does not accept a message of this size, or relays do not accept the event
        :raises EventError: the data contains itself; nothing was published
        """
        sending = sending_id(event)
        try:
            pool = self._connect(_secrets.resolve_secret(self.url, "broker: the URL"))
        except EventError as error:  # the secret is missing, or a new one is not a URL
            _log.not_delivered(event, one_line(error))
            return False
        shown = self.url if _secrets.is_reference(self.url) else pool.url.shown
        try:
            body = _broker.encode_message(self._message(event, sending, pool.url.family))
            pool.publish(self.queue, _broker.OutgoingMessage(body, sending), self.timeout)
        except PermanentError as error:
            raise PermanentError(f"broker: {shown}: {one_line(error)}") from error
        except OSError as error:  # of the broker, or of S3
            _log.not_delivered(event, f"broker: {shown}: {error}")
            return False
        return True

    def send_events(self, events: Sequence[Event]) -> Sequence[bool | BaseException]:
        """Publish several events over one connection.

        If the broker does not confirm an event, the others are published nevertheless.

        :return: for each event, the return value or the exception of `send_event`
        """
        results: list[bool | BaseException] = []
        for event in events:
            try:
                results.append(self.send_event(event))
            except Exception as error:
                results.append(error)
        return results

    def _load_client(self) -> None:
        """Check the URL and import its client library.

        :raises EventError: it is not a broker's URL, or the client library is not installed
        """
        try:
            secret = _secrets.resolve_secret(self.url, "broker: the URL")
        except EventError:
            return  # the secret may exist when an event is sent
        url = _broker.BrokerURL(secret)
        _broker.load_client(url)
        if url.has_secret:
            _secrets.warn_if_clear(self.url, "broker: the URL's password")

    def _connect(self, url: str) -> PublisherPool:
        """Return the pool of connections, which all threads share. A changed URL or password gets a new pool."""
        if self._pool is None or self._pool[0] != url:
            parsed = _broker.BrokerURL(url)
            _broker.load_client(parsed)
            self._pool = (url, _broker.PublisherPool(parsed))
        return self._pool[1]

    def _message(self, event: Event, sending: str, family: str) -> EventMessage:
        """Return the message. An attachment that is missing or too large is left out, and a warning is logged."""
        room = _LIMITS.get(family, _LIMIT) if self.limit is None else self.limit
        attachments = event.get_attachments().copy()  # another thread may attach meanwhile
        if attachments:
            self._require_accepted(event, sending, attachments)
        safe = _files.safe_names(attachments)
        sent: dict[str, tuple[str, str]] = {}
        files: dict[str, InlineFile | S3Reference] = {}
        for number, (name, (path, _)) in enumerate(attachments.items()):
            try:
                file, digest = self._file(path, room, f"{sending}/{safe[name]}")
            except _LeftOutError as error:
                _log.warning("broker: attachment %r of %r is not sent: %s", name, event, error)
                continue
            room -= file.size if isinstance(file, _broker.InlineFile) else 0
            files[str(number)] = file
            sent[name] = (str(number), digest)
        return _broker.EventMessage(sending, time.time(), event, sent, files, _trace_context.span_for(event))

    def _require_accepted(self, event: Event, sending: str, attachments: dict[str, tuple[str, str]]) -> None:
        """Check the limits of relays before an attachment is read or uploaded.

        :raises PermanentError: the event exceeds one
        """
        paths = [path for path, _ in attachments.values()]
        sizes = map(_size, paths if self._store else ())  # without S3, `limit` is far below the limit for all files
        files = {str(number): _broker.S3Reference(size, "") for number, size in enumerate(sizes)}
        _broker.encode_message(_broker.EventMessage(sending, time.time(), event, attachments, files))

    def _file(self, path: str, room: int, key: str) -> tuple[InlineFile | S3Reference, str]:
        """Return a file's content, or its location in S3, and its SHA-1.

        Data that is appended meanwhile, as to an open log, is not included.

        :param room: the number of bytes that the message still has room for
        :param key: the object's name under ``s3``
        :raises _LeftOutError: the file cannot be read, or it does not fit and there is no ``s3``
        :raises OSError: S3 did not accept it
        """
        try:
            file = open(_files.open_regular(path), "rb")  # noqa: SIM115  # closed below, and by nothing that may fail
        except (OSError, ValueError) as error:
            raise _LeftOutError(one_line(error)) from error
        with file:
            size = os.fstat(file.fileno()).st_size
            if size <= room:
                data, digest = _read_attachment(file, size), _files.new_sha1()
                digest.update(data)
                return _broker.InlineFile.of(data), digest.hexdigest()
            if self._store is None:
                raise _LeftOutError(
                    f"it has {size} bytes, and the message has room for {room}; set s3=s3://... to upload it"
                )
            url = f"{self.s3.rstrip('/')}/{key}"
            size, digest = self._store.upload_open(file, size, url, "application/octet-stream")
            return _broker.S3Reference(size, url), digest

    def _checked_store(self) -> Store | None:
        if not self.s3:
            return None
        from event._net import s3

        s3.location(self.s3)
        return s3.Store(self.profile or None, self.sse)

    def _encoded(self, url: str) -> str:
        usual = {"limit": None, "s3": "", "profile": "", "sse": _SSE, "timeout": _PUBLISH_TIMEOUT}
        options = [f"{key}={value}" for key in _BROKER_OPTIONS if (value := getattr(self, key)) != usual[key]]
        return _handler_config.join_fields([url, self.queue, *options])


class _LeftOutError(Exception):
    """An attachment is left out; the event is published without it."""


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except (OSError, ValueError):
        return 0  # it is left out, with a warning


def _read_attachment(file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise _LeftOutError(one_line(error)) from error


def _checked_queue(queue: str) -> str:
    if not _broker.is_queue_name(queue):
        # Not the name: it may be the rest of a password that contains a comma.
        raise EventError("broker: the queue name must be at most 240 bytes of printable characters")
    return queue


def _limit_option(value: float | str) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < float("inf"):
        raise EventError(f"broker: limit is {value!r}; expected a number, 0 or more")
    return int(number)
