"""Whom messages go to and come from: a broker's URL, its connections, and publishing that is confirmed.

kombu speaks the protocols. What it leaves open is decided here: certificates are verified, each wait has an end, a
queue that an administrator has made is taken as it is, and a message that reaches no queue is no success.
"""

from __future__ import annotations

import os
import time
import weakref
from urllib.parse import unquote, urlsplit

import kombu
from kombu.transport import get_transport_cls

from event import _log
from event.error import EventError, PermanentError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from event._clocked import Clock

QUEUE = "e3-event"
_kombu: Any = kombu  # which is half typed
STEP = 10.0  # seconds for one wait
_ATTEMPTS = 3
_PAUSE = 0.2  # seconds before the second attempt, then twice as long
_GOODBYE = 1.0  # seconds for taking leave
_KEPT = 4  # connections kept for later; each thread that sends at the same time needs one

# Their users are no secret.
_GUESTS = frozenset({"", "guest"})
# kombu's own transports by what their URL begins with, and what is said to each.
_AMQP = ("amqp", "pyamqp", "amqps")
_REDIS = ("redis", "rediss", "sentinel")
_TLS = ("amqps", "rediss")


class BrokerError(OSError):
    """The broker could not be reached, or did not take or give what it was asked for. A later attempt may succeed."""


class TooLargeError(PermanentError):
    """The broker takes no message of that size. Lower the limit of what a message holds, or raise the broker's."""


class Broker:
    """A broker's URL, as kombu knows it. Several, apart by ``;``, are tried in turn.

    :ivar shown: the scheme and the host of the first one
    :ivar has_secret: whether a password stands in the URL
    :raises EventError: it is no URL, or kombu or the client that it needs is not installed; the message does not hold
        the URL
    """

    def __init__(self, url: str) -> None:
        self._urls = [part.strip() for part in url.split(";")]
        parts = [_split(part) for part in self._urls]
        scheme, host, port, _ = parts[0]
        self.shown = f"{scheme}://{host}{f':{port}' if port else ''}"
        self.scheme = scheme
        self.has_secret = any(password not in _GUESTS for *_, password in parts)
        self._secrets = {secret for *_, password in parts if password for secret in (password, unquote(password))}
        for kind, *_ in parts:
            _require(kind)

    def is_same(self, other: Broker) -> bool:
        """Tell whether another URL leads to the same place, whoever goes there."""
        return _place(self._urls[0]) == _place(other._urls[0])

    def connect(self, clock: Clock, *, attempt: int = 0, heartbeat: float = 0) -> Any:
        """Return a connection, a `kombu.Connection`.

        :param attempt: how many were made before; each takes the next URL
        :param heartbeat: seconds after which a connection on which nothing comes is dead, 0 for never; AMQP alone
        :raises BrokerError: the broker could not be reached, or let us in
        """
        url = self._urls[attempt % len(self._urls)]
        scheme, host, _, _ = _split(url)
        with self.trouble():
            connection = _kombu.Connection(
                url, connect_timeout=clock.left(), heartbeat=heartbeat, ssl=_tls(scheme, host),
                transport_options=_options(scheme, min(clock.left(), STEP)),
            )  # fmt: skip
            try:
                connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
                connection.default_channel  # noqa: B018  # Redis and others are asked for only now
            except BaseException:
                leave(connection, self)
                raise
        return connection

    def trouble(self) -> _Trouble:
        """Return a context manager in which each error of kombu, or of what it uses, becomes a `BrokerError`."""
        return _Trouble(self)

    def masked(self, text: str) -> str:
        """Return text without the passwords of the URL."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


class Publisher:
    """Publishes to a broker. Threads may share it; a forked process makes connections of its own.

    :param broker: whom to publish to
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._idle: list[_Line] = []
        # Taking leave, the broker writes no line into its log; the process ends no later for it.
        weakref.finalize(self, _close_all, self._idle)

    def publish(  # noqa: PLR0913  # what a message is
        self, queue: str, body: bytes, clock: Clock, *, content_type: str, message_id: str = "",
        headers: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Publish a message to a queue; the broker has it, on its disk where it keeps any, when this returns.

        :param queue: its name; it is made where it is missing
        :param clock: how long it may take, with all attempts
        :param headers: of the message
        :raises BrokerError: it is not known to be taken; where it was all the same, another attempt doubles it
        :raises TooLargeError: the broker takes none of that size
        """
        message = {"body": body, "content_type": content_type, "headers": {**(headers or {})}}
        if message_id:
            message["message_id"] = message_id
        pause = _PAUSE
        for attempt in range(_ATTEMPTS):
            try:
                return self._attempt(queue, message, clock, attempt)
            except BrokerError:
                if attempt == _ATTEMPTS - 1 or time.monotonic() + pause >= clock.deadline:
                    raise
            time.sleep(pause)
            pause *= 2
        raise AssertionError

    def close(self) -> None:
        """Take leave of the broker."""
        _close_all(self._idle)

    def _attempt(self, queue: str, message: dict[str, Any], clock: Clock, attempt: int) -> None:
        line = self._line(clock, attempt)
        try:
            with self.broker.trouble():
                line.publish(queue, message, clock)
        except BaseException:
            line.close()
            raise
        if len(self._idle) < _KEPT:
            self._idle.append(line)
        else:
            line.close()

    def _line(self, clock: Clock, attempt: int) -> _Line:
        # No lock: taking from a list is one step, and one that a fork may leave locked would stay so.
        while not attempt:  # else the kept ones are likely to be as dead as the one before
            try:
                line = self._idle.pop()
            except IndexError:
                break
            if line.pid == os.getpid():
                return line
            line.abandon()
        return _Line(self.broker, self.broker.connect(clock, attempt=attempt))


class _Line:
    """A connection with a channel to publish on."""

    def __init__(self, broker: Broker, connection: Any) -> None:
        self.pid = os.getpid()
        self._broker = broker
        self._connection = connection
        self._declared: set[str] = set()
        self._returned: list[Exception] = []
        with broker.trouble():
            channel = connection.default_channel
            if broker.scheme in _AMQP:  # no other one returns what reaches no queue
                channel.events["basic_return"].add(self._note_return)
            self._producer = _kombu.Producer(channel)

    def publish(self, queue: str, message: dict[str, Any], clock: Clock) -> None:
        if queue not in self._declared:
            declare(self._connection, queue)
            self._declared.add(queue)
        self._returned.clear()
        self._producer.publish(
            routing_key=queue, content_encoding="utf-8", delivery_mode=2, mandatory=True, retry=False,
            timeout=clock.left(), confirm_timeout=clock.left(), **message,
        )  # fmt: skip
        if self._returned:
            raise self._returned[0]  # its queue has been removed meanwhile; the next attempt makes it again

    def close(self) -> None:
        if self.pid == os.getpid():
            leave(self._connection, self._broker)
        else:
            self.abandon()

    def abandon(self) -> None:
        """Let go of a connection of the process that we were forked from, without a word on it."""
        sock = _socket(self._connection)
        if sock is not None:
            os.close(sock.detach())  # its own close would end the connection for both; redis-py knows that by itself

    def _note_return(self, error: Exception, *_args: object) -> None:
        self._returned.append(error)


class _Trouble:
    """Turns what kombu and its clients raise, which has no common base, into a `BrokerError` without secrets."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _tb: object) -> None:
        if error is None or isinstance(error, (BrokerError, EventError)) or not isinstance(error, Exception):
            return
        reason = self._broker.masked(one_line(error))
        if type(error).__name__ == "PreconditionFailed" and "size" in reason:
            raise TooLargeError(f"{self._broker.shown}: {reason}") from None
        raise BrokerError(reason) from None  # not from error: a traceback would show its text, with the password


def declare(connection: Any, queue: str) -> None:
    """Make a queue where it is missing. One that is there stays as it is: a quorum queue, one with a limit."""
    channel = connection.channel()
    try:
        channel.queue_declare(queue=queue, passive=True)
    except Exception as error:
        if getattr(error, "code", None) != _NOT_FOUND and str(getattr(error, "reply_code", "")) != str(_NOT_FOUND):
            raise
        channel = connection.channel()  # the answer has closed the one before
        channel.queue_declare(queue=queue, durable=True, exclusive=False, auto_delete=False)
    channel.close()


_NOT_FOUND = 404  # AMQP 0-9-1, section 1.2


def _split(url: str) -> tuple[str, str, int | None, str]:
    """Return a URL's scheme, host, port and password."""
    scheme, colon, _ = url.partition("://")
    try:
        parts = urlsplit(f"http{url[len(scheme) :]}")  # as kombu takes it
        port = parts.port
    except ValueError:
        scheme, port, parts = "", None, urlsplit("")
    if not colon or not scheme or not url.isprintable() or " " in url:
        # Neither the URL nor a cause, whose text may hold it.
        raise EventError("broker: the URL is none; expected one of kombu's, such as amqps://USER@HOST/VHOST")
    return scheme, parts.hostname or "", port, parts.password or ""


def _place(url: str) -> tuple[str, int | None, str]:
    _, host, port, _ = _split(url)
    return host, port, urlsplit(url).path.strip("/")


def _require(scheme: str) -> None:
    """Import what a scheme needs.

    :raises EventError: kombu does not know the scheme, or misses the client that it needs
    """
    name = scheme.partition("+")[0]
    try:
        get_transport_cls(name)
    except ImportError as error:
        brings = "e3-event[broker]" if name in (*_AMQP, *_REDIS) else f"kombu[{name}]"
        raise EventError(f'broker: {name}:// needs more ({error}); pip install "{brings}" brings it') from error
    except KeyError:
        raise EventError(f"broker: kombu knows no {name}://; expected amqps://, rediss:// or another of its") from None


def _tls(scheme: str, host: str) -> Any:
    """Return what makes a client verify certificates, which neither kombu nor its clients do of themselves."""
    import ssl

    if scheme == "amqps":
        return {"context": {"check_hostname": True}, "server_hostname": host}
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True} if scheme == "rediss" else False


def _options(scheme: str, step: float) -> dict[str, Any]:
    """Return what kombu is told beside the URL: each wait ends, and how often to try again is ours to say.

    :param step: seconds for one wait
    """
    options: dict[str, Any] = {"max_retries": 0}
    if scheme in _AMQP:
        options |= {"confirm_publish": True, "read_timeout": step, "write_timeout": step}
    elif scheme in _REDIS:
        options |= {"socket_timeout": step, "socket_connect_timeout": step}
    return options


def leave(connection: Any, broker: Broker) -> None:
    """Close a connection. What the broker answers changes nothing, and it has a second for it."""
    try:
        sock = _socket(connection)
        if sock is not None:
            sock.settimeout(_GOODBYE)
        connection.release()
    except Exception as error:
        _log.get_logger().debug("%s: taking leave: %s", broker.shown, broker.masked(one_line(error)))
        connection.collect()


def _socket(connection: Any) -> Any:
    """Return the socket of an AMQP connection; None of another one."""
    # Not `connection.connection`, which would connect again where the connection is lost.
    return getattr(getattr(connection._connection, "transport", None), "sock", None)


def _close_all(lines: list[_Line]) -> None:
    while lines:
        lines.pop().close()
