"""Whom messages go to and come from: a broker's URL, its connections, and what goes wrong with them.

kombu speaks the protocols. What it leaves open is decided here: certificates are verified, each wait has an end, a
queue that an administrator has made is taken as it is, and no error shows a password.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

import kombu
from kombu.transport import TRANSPORT_ALIASES

from event import _log
from event._clocked import Clock
from event._wire import AMQPTransport, Watch
from event.error import EventError, PermanentError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_kombu: Any = kombu  # which is half typed
STEP = 10.0  # seconds for one wait
GOODBYE = 1.0  # seconds for taking leave

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
        with connection.watch.by(clock or Clock(GOODBYE, GOODBYE)):
            connection.release()
    except Exception as error:
        _log.get_logger().debug("%s: taking leave: %s", broker.shown, broker.masked(one_line(error)))
    finally:
        if isinstance(inner, AMQPTransport.Connection):
            inner.collect()  # kombu forgets it, open as it is, where no answer comes


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
