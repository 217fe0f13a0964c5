"""Broker URLs: parse, validate, and compare them, and show them without secrets."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from event._mask import without_credentials
from event.error import EventError

# scheme -> (family, TLS, default port)
_BROKER_SCHEMES = {
    "amqp": ("amqp", False, 5672),
    "amqps": ("amqp", True, 5671),
    "redis": ("redis", False, 6379),
    "rediss": ("redis", True, 6379),
    "valkey": ("redis", False, 6379),
    "valkeys": ("redis", True, 6379),
    "sqs": ("sqs", True, 443),
}
_DEFAULT_PATHS = {"amqp": "/", "redis": "0", "sqs": ""}
_NO_SECRETS = frozenset({"", "guest"})  # "guest" is RabbitMQ's documented default
_URL_SYNTAX = "expected amqps://USER:PASSWORD@HOST/VHOST, rediss://…, valkeys://… or sqs://REGION"


@dataclass(frozen=True, slots=True)
class Address:
    """One node of a broker.

    :ivar family: "amqp", "redis" or "sqs"
    :ivar tls: whether to use TLS
    :ivar host: the host, an IPv6 address without brackets; for SQS the region, which may be empty
    :ivar path: the virtual host (AMQP) or the number of the database (Redis)
    :ivar shown: the URL without user, password and path
    """

    family: str
    tls: bool
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    path: str
    shown: str

    @property
    def location(self) -> tuple[str, str, int, str]:
        """A tuple that is equal for all URLs of the same location, regardless of the user."""
        host = "127.0.0.1" if self.host == "localhost" else self.host
        return self.family, host.lower(), self.port, self.path


class BrokerURL:
    """The URL of a broker. Several nodes are separated by ``;`` and tried in turn.

    :param url: the URL, with its secrets
    :ivar addresses: the nodes
    :ivar family: "amqp", "redis" or "sqs"
    :ivar shown: scheme and host of the first node
    :ivar has_secret: whether the URL holds a password
    :raises EventError: it is not a valid broker URL; the message does not contain the URL
    """

    def __init__(self, url: str) -> None:
        self.addresses = [_parse_node(part.strip()) for part in url.split(";")]
        self.family = self.addresses[0].family
        if any(address.family != self.family for address in self.addresses):
            raise EventError("broker: the URLs name different kinds of brokers; expected nodes of one broker")
        self.shown = self.addresses[0].shown
        passwords = {address.password for address in self.addresses} - _NO_SECRETS
        self.has_secret = bool(passwords)
        self._credentials = passwords | {_encoded_password(part) for part in url.split(";")} - _NO_SECRETS
        self._credentials |= {f"{node.user}:{node.password}" for node in self.addresses if node.password in passwords}

    def __repr__(self) -> str:
        return f"<BrokerURL {self.shown}>"

    def is_same(self, other: BrokerURL) -> bool:
        """Return whether both URLs have a node in common, regardless of the user."""
        return not {a.location for a in self.addresses}.isdisjoint(a.location for a in other.addresses)

    def mask(self, text: str) -> str:
        """Return text without the passwords of this URL."""
        return without_credentials(text, self._credentials)


def _encoded_password(url: str) -> str:
    return urlsplit("//" + url.partition("://")[2]).password or ""


def _parse_node(url: str) -> Address:
    """Parse the URL of one node.

    :raises EventError: the URL is invalid; the message contains at most its scheme
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if separator and scheme.isalnum() and scheme not in _BROKER_SCHEMES:
        raise EventError(f"broker: the URL's scheme is {scheme}://; {_URL_SYNTAX}")
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    # An unencoded slash in the password would make the rest of the password a part of the path.
    has_slash_in_password = "@" in rest[len(parts.netloc) :]
    if (
        not separator
        or scheme not in _BROKER_SCHEMES
        or has_slash_in_password
        or not url.isprintable()
        or " " in url
        or (rest and not parts.netloc and rest[0] != "/")
    ):
        raise EventError(f"broker: this is not a broker's URL; {_URL_SYNTAX}, with special characters percent-encoded")
    if parts.query or parts.fragment:
        raise EventError(f"broker: the URL has a query or a fragment, which is not supported; {_URL_SYNTAX}")
    return _address_from_parts(scheme, parts, port)


def _address_from_parts(scheme: str, parts: SplitResult, port: int | None) -> Address:
    family, tls, default_port = _BROKER_SCHEMES[scheme]
    path = unquote(parts.path[1:])
    if family == "redis" and not (path or "0").isdecimal():
        raise EventError("broker: the path of a Redis URL must be the number of a database, such as /0")
    if family == "sqs" and ("@" in parts.netloc or path):
        raise EventError("broker: an SQS URL is sqs:// or sqs://REGION; boto3 finds the credentials")
    return Address(
        family=family,
        tls=tls,
        host=parts.hostname or ("" if family == "sqs" else "localhost"),
        port=port or default_port,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        path=path or _DEFAULT_PATHS[family],
        shown=f"{scheme}://{parts.netloc.rpartition('@')[2]}",
    )
