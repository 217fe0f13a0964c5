"""Whom messages go to and come from: a broker's URL, its connections, and publishing that is confirmed.

kombu speaks the protocols. What it leaves open is decided here: certificates are verified, each wait has an end, a
queue that an administrator has made is taken as it is, and a message that reaches no queue is no success.
"""

from __future__ import annotations

import os
import re
import time
import weakref
from urllib.parse import unquote, urlsplit

import kombu
from kombu.transport import TRANSPORT_ALIASES

from event import _log
from event._clocked import Clock
from event._wire import AMQPTransport, Watch
from event.error import EventError, PermanentError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_kombu: Any = kombu  # which is half typed
STEP = 10.0  # seconds for one wait
_ATTEMPTS = 3
_PAUSE = 0.2  # seconds before the second attempt, then twice as long
_GOODBYE = 1.0  # seconds for taking leave
_KEPT = 4  # connections kept for later; each thread that sends at the same time needs one
_FRESH = 60.0  # seconds that one is kept; what stands between, a firewall say, forgets it some day, without a word

# Their users are no secret.
_GUESTS = frozenset({"", "guest"})
# kombu's own transports by what their URL begins with, and what is said to each.
_AMQP = ("amqp", "pyamqp", "amqps")
_REDIS = ("redis", "rediss")
_TLS = ("amqps", "rediss")
_PORTS = {"amqp": 5672, "pyamqp": 5672, "amqps": 5671, "redis": 6379, "rediss": 6379}

# What each needs beside kombu, where kombu misses it no sooner than it is used; and what brings what is missing, where
# it is not the extra of kombu that has the name.
_CLIENTS = {"redis": "redis", "rediss": "redis", "sentinel": "redis", "sqs": "boto3"}
_BRINGS = {
    **dict.fromkeys(("redis", "rediss", "sentinel"), "e3-event[broker]"),
    "sqla": "kombu[sqlalchemy]",
    "kafka": "kombu[confluentkafka]",
    "etcd": "python-etcd",
}

# AMQP 0-9-1, section 1.2; kombu has the codes as text for what speaks something else.
_NOT_FOUND = "404"
_NOT_ALLOWED = frozenset({"403", "530"})
_TOO_LARGE = re.compile(r"message size .* larger than|must be shorter than")  # RabbitMQ's words, SQS's words


class BrokerError(OSError):
    """The broker could not be reached, or did not take or give what it was asked for. A later attempt may succeed."""


class RefusedError(BrokerError):
    """The broker does not let us in, or not do it: the password, the permission or the virtual host is wrong."""


class TooLargeError(PermanentError):
    """The broker takes no message of that size. Lower the limit of what a message holds, or raise the broker's."""


class Broker:
    """A broker's URL, as kombu knows it. Several, apart by ``;``, are tried in turn.

    :ivar scheme: the scheme of the first one
    :ivar shown: its scheme and host
    :ivar has_secret: whether a password stands in the URL
    :raises EventError: it is no URL, or kombu or the client that it needs is not installed; the message does not hold
        the URL
    """

    def __init__(self, url: str) -> None:
        self._addresses = [_Address(part.strip()) for part in url.split(";")]
        self.scheme = self._addresses[0].scheme
        self.shown = self._addresses[0].shown
        passwords = {address.password for address in self._addresses} - _GUESTS
        self.has_secret = bool(passwords)
        self._secrets = _forms(passwords)
        for address in self._addresses:
            address.require()

    def __len__(self) -> int:
        """Return how many URLs there are."""
        return len(self._addresses)

    def is_same(self, other: Broker) -> bool:
        """Tell whether another URL leads to the same place, whoever goes there."""
        places, others = ({address.place for address in broker._addresses} for broker in (self, other))
        return not places.isdisjoint(others)

    def connect(self, clock: Clock, *, attempt: int = 0, heartbeat: float = 0) -> Any:
        """Return a connection, a `kombu.Connection`.

        :param attempt: how many were made before; each takes the next URL
        :param heartbeat: seconds after which a connection on which nothing comes is dead, 0 for never; AMQP alone
        :raises BrokerError: the broker could not be reached, or did not let us in
        """
        address = self._addresses[attempt % len(self)]
        with self.trouble(address.shown if len(self) > 1 else ""):
            clock = Clock(min(clock.left(), STEP), STEP)
            connection = address.connection(clock, heartbeat)
            try:
                with connection.watch.by(clock):
                    connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
                    connection.default_channel  # noqa: B018  # some are asked for only now
            except BaseException:
                leave(connection, self, Clock(0, 0))
                raise
        return connection

    def trouble(self, where: str = "") -> _Trouble:
        """Return a context manager in which each error of kombu, or of what it uses, becomes a `BrokerError`.

        :param where: what the error is to begin with
        """
        return _Trouble(self, where)

    def masked(self, text: str) -> str:
        """Return text without the passwords of the URL."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class _Address:
    """One URL.

    :ivar shown: its scheme and host
    :ivar host: without brackets and port
    :ivar password: as it stands in the URL
    :ivar place: where it leads to, whoever goes there
    :raises EventError: it is none; the message does not hold it
    """

    def __init__(self, url: str) -> None:
        self.scheme, separator, rest = url.partition("://")
        try:
            parts = urlsplit(f"http://{rest}")  # as kombu takes it
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        # Behind a slash in the password, its rest would be taken for the path, and what is before it for the host.
        cut = "@" in rest[len(parts.netloc) :]
        if not (self.scheme and separator and parts.scheme) or cut or not url.isprintable() or " " in url:
            # Neither the URL nor a cause, whose text may hold it.
            raise EventError(
                "broker: the URL is none; expected one of kombu's, such as amqps://USER@HOST/VHOST, with what is "
                "special in a password percent-encoded"
            )
        self._url = url
        self.host = parts.hostname or ""
        self.password = parts.password or ""
        self.shown = f"{self.scheme}://{parts.netloc.rpartition('@')[2]}"
        host = "127.0.0.1" if self.host in {"", "localhost"} else self.host
        self.place = (host, port or _PORTS.get(self.scheme), unquote(parts.path).strip("/"))

    def require(self) -> None:
        """Import what the URL needs.

        :raises EventError: kombu does not know the scheme or a part of the URL, or misses the client that it needs
        """
        from importlib import import_module

        name = self.scheme.partition("+")[0]
        if name not in TRANSPORT_ALIASES:  # else kombu would import a module of that name
            raise EventError(f"broker: kombu knows no {name}://; expected amqps://, rediss:// or another of its")
        try:
            if name.lower() in _CLIENTS:
                import_module(_CLIENTS[name.lower()])
            self.connection(Clock(STEP, STEP)).transport  # noqa: B018  # it is made now
        except (TypeError, ValueError, KeyError) as error:
            problem = f"kombu does not take the URL ({type(error).__name__}); an option in its query is wrong"
        except Exception as error:  # each transport misses its client in its own way
            brings = _BRINGS.get(name, f"kombu[{name.lower()}]")
            problem = f'{name}:// needs more ({one_line(error)}); pip install "{brings}" brings it'
        else:
            return
        raise EventError(f"broker: {problem}")  # without the cause, whose text may hold the URL

    def connection(self, clock: Clock, heartbeat: float = 0) -> Any:
        """Return a `kombu.Connection` that is not connected yet, with its `Watch` as ``watch``."""
        step = min(clock.left(), STEP)
        options: dict[str, Any] = {"max_retries": 0}  # how often to try again is ours to say
        kind: Any = None
        if self.scheme in _AMQP:
            kind = AMQPTransport
            options["confirm_publish"] = True
        elif self.scheme in _REDIS:
            from event._wire_redis import RedisTransport

            kind = RedisTransport
        elif self.scheme == "redis+socket":
            options |= {"socket_timeout": step, "socket_connect_timeout": step}
        elif self.scheme.lower() == "sqs":
            options["client-config"] = {
                "connect_timeout": step, "read_timeout": step, "retries": {"total_max_attempts": 1}
            }  # fmt: skip
        connection = _kombu.Connection(
            self._url, transport=kind, connect_timeout=step, heartbeat=heartbeat, transport_options=options,
            ssl={"ssl_check_hostname": True} if self.scheme in _TLS else False,
        )  # fmt: skip
        connection.watch = Watch(clock, self.host or "localhost", STEP)
        return connection


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
        line = self._kept()
        made = 0
        pause = _PAUSE
        while True:
            try:
                return self._attempt(line, made, queue, message, clock)
            except BrokerError as error:
                made += 0 if line else 1
                line = None  # the other kept ones are likely to be as dead
                if self._is_final(error, made) or time.monotonic() + pause >= clock.deadline:
                    raise
            if made and made % len(self.broker) == 0:
                time.sleep(pause)
                pause *= 2

    def close(self) -> None:
        """Take leave of the broker."""
        _close_all(self._idle)

    def _attempt(self, line: _Line | None, made: int, queue: str, message: dict[str, Any], clock: Clock) -> None:
        """Publish on a connection that was kept, or on a new one.

        :param made: how many were made before
        """
        # The URLs that are left get their share of the time, should this one hang.
        urls = len(self.broker)
        whole = max(clock.deadline - time.monotonic(), 0) / (urls - made % urls)
        clock = Clock(whole, clock.step)
        line = line or _Line(self.broker, self.broker.connect(clock, attempt=made))
        try:
            line.publish(queue, message, clock)
        except BaseException:
            line.close(Clock(min(_GOODBYE, max(clock.deadline - time.monotonic(), 0)), _GOODBYE))
            raise
        if len(self._idle) < _KEPT:
            self._idle.append(line)
        else:
            line.close()

    def _is_final(self, error: BrokerError, made: int) -> bool:
        """Tell whether another attempt is of no use now."""
        urls = len(self.broker)
        # A wrong password is not said again and again: some lock the user out.
        return made >= (urls if isinstance(error, RefusedError) else max(_ATTEMPTS, urls))

    def _kept(self) -> _Line | None:
        # No lock: taking from a list is one step, and one that a fork may leave locked would stay so.
        while True:
            try:
                line = self._idle.pop()
            except IndexError:
                return None
            if line.pid == os.getpid() and time.monotonic() - line.used < _FRESH:
                return line
            line.close()


class _Line:
    """A connection with a channel to publish on.

    :ivar pid: the process that has made it
    :ivar used: when it was last used, by `time.monotonic`
    """

    def __init__(self, broker: Broker, connection: Any) -> None:
        self.pid = os.getpid()
        self.used = time.monotonic()
        self._broker = broker
        self._connection = connection
        self._declared: set[str] = set()
        self._returned: list[Exception] = []
        channel = connection.default_channel
        if isinstance(connection.transport, AMQPTransport):  # no other one returns what reaches no queue
            channel.events["basic_return"].add(self._note_return)
        self._producer = _kombu.Producer(channel)

    def publish(self, queue: str, message: dict[str, Any], clock: Clock) -> None:
        """Publish a message.

        :raises BrokerError: it is not known to be taken
        :raises TooLargeError: the broker takes none of that size
        """
        with self._broker.trouble(), self._connection.watch.by(clock):
            if queue not in self._declared:
                declare(self._connection, queue)
                self._declared.add(queue)
            self._returned.clear()
            try:
                self._producer.publish(
                    routing_key=queue, content_encoding="utf-8", delivery_mode=2, mandatory=True, retry=False, **message
                )
            except TimeoutError as error:
                if getattr(self._connection._connection, "blocked", False):
                    raise BrokerError("it takes nothing for now: it is short of memory or disk") from error
                raise
            if self._returned:
                raise self._returned[0]  # its queue has been removed meanwhile; the next attempt makes it again
        self.used = time.monotonic()

    def close(self, clock: Clock | None = None) -> None:
        """Take leave; what belongs to the process that we were forked from is let go of without a word on it."""
        if self.pid == os.getpid():
            leave(self._connection, self._broker, clock)
        else:
            self._connection.watch.abandon()

    def _note_return(self, error: Exception, *_args: object) -> None:
        self._returned.append(error)


class _Trouble:
    """Turns what kombu and its clients raise, which has no common base, into a `BrokerError` without secrets."""

    def __init__(self, broker: Broker, where: str) -> None:
        self._broker = broker
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _tb: object) -> None:
        if error is None or isinstance(error, (BrokerError, EventError)) or not isinstance(error, Exception):
            return
        reason = self._broker.masked(one_line(error))
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            reason += "; SSL_CERT_FILE may name the certificates of a private authority"
        if self._where:
            reason = f"{self._where}: {reason}"
        # None is raised from error: a traceback would show its text, with the password.
        if _TOO_LARGE.search(reason):
            raise TooLargeError(reason) from None
        raise (RefusedError if _is_refusal(error) else BrokerError)(reason) from None


def declare(connection: Any, queue: str) -> None:
    """Make a queue where it is missing. One that is there stays as it is: a quorum queue, one with a limit."""
    if connection.transport.driver_type == "redis":
        return  # a list is there when something is in it; kombu's question is one that a full Redis refuses
    channel = connection.channel()
    try:
        channel.queue_declare(queue=queue, passive=True)
    except Exception as error:
        if _code(error) != _NOT_FOUND:
            raise
        # The broker has closed the channel; kombu has opened it again.
        channel.queue_declare(queue=queue, durable=True, exclusive=False, auto_delete=False)
    channel.close()


def leave(connection: Any, broker: Broker, clock: Clock | None = None) -> None:
    """Close a connection. What the broker answers changes nothing, and it has a second for it.

    :param clock: how long it may take
    """
    inner = connection._connection
    try:
        with connection.watch.by(clock or Clock(_GOODBYE, _GOODBYE)):
            connection.release()
    except Exception as error:
        _log.get_logger().debug("%s: taking leave: %s", broker.shown, broker.masked(one_line(error)))
    finally:
        if isinstance(inner, AMQPTransport.Connection):
            inner.collect()  # kombu forgets it, open as it is, where no answer comes


def _close_all(lines: list[_Line]) -> None:
    clock = Clock(_GOODBYE, _GOODBYE)
    while lines:
        lines.pop().close(clock)


def _forms(passwords: set[str]) -> list[str]:
    """Return how passwords may stand in a text, the longest first: as in the URL, decoded, in a repr, on one line."""
    plain = {form for password in passwords for form in (password, unquote(password))}
    forms = plain | {repr(form)[1:-1] for form in plain}
    return sorted(filter(None, forms | {" ".join(form.split()) for form in forms}), key=len, reverse=True)


def _is_refusal(error: Exception) -> bool:
    # redis-py's have no code, but a class of their own.
    return _code(error) in _NOT_ALLOWED or "Authenticat" in type(error).__name__


def _code(error: Exception) -> str:
    return str(getattr(error, "reply_code", ""))
