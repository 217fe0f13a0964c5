"""Parse a URL for a request. Errors and the repr contain none of its secrets."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import quote, unquote, urlsplit

from event._net import hostname
from event.error import EventError

_HTTP_PORTS = {"http": 80, "https": 443}
_TOKEN_LENGTH = 16  # characters; a part of a path that is as long may be a token
_PATH = "/:@!$&'()*+,;=~%"  # allowed in a path, as are letters, digits, "-", "." and "_" (RFC 3986, 3.3)


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a URL.

    :ivar shown: the scheme and the host, which contain no secret
    :ivar path: the path and the query, in the form of a request
    :ivar authorization: the header with the URL's user and password; empty if the URL has none
    """

    scheme: str
    host: str
    port: int
    path: str = field(repr=False)
    authorization: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str, subject: str, *, guarded: bool = True) -> Target:
        """Return a URL's parts.

        :param subject: the beginning of an error message, such as ``http: the URL``
        :param guarded: whether to reject a password that would be sent to another machine without encryption
        :raises EventError: the URL is not a valid http or https URL; the message does not contain it
        """
        target = cls._parsed(url, subject)
        if guarded and target.authorization and target.scheme == "http" and not _is_this_machine(target.host):
            raise EventError(
                f"{subject} has a user or a password but no TLS, so others on the network could read it; expected https://"
            )
        return target

    @classmethod
    def _parsed(cls, url: str, subject: str) -> Target:
        try:
            parts = urlsplit(url if url.isprintable() and " " not in url else "")
            if parts.scheme in _HTTP_PORTS and parts.hostname and parts.port != 0:
                return cls(
                    parts.scheme,
                    hostname.to_ascii(unquote(parts.hostname)).lower(),
                    parts.port or _HTTP_PORTS[parts.scheme],
                    quote(parts.path or "/", _PATH) + (f"?{quote(parts.query, _PATH + '?')}" if parts.query else ""),
                    _authorization(parts.username or "", parts.password or ""),
                )
        except ValueError:
            pass
        # Raised here, without a cause: the text of the cause contains the URL.
        raise EventError(f"{subject} is not a valid http:// or https:// URL; expected https://HOST/PATH")

    @property
    def netloc(self) -> str:
        """The host, in brackets if it is an IPv6 address, and the port unless it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _HTTP_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def has_secret(self) -> bool:
        """Whether the URL has a user, a password or a query."""
        return bool(self.authorization) or "?" in self.path

    @property
    def credentials(self) -> list[str]:
        """The parts that may be secret: the user and the password, the query, and long parts of the path."""
        path, _, query = self.path.partition("?")
        return [self.authorization, query, *(part for part in path.split("/") if len(part) >= _TOKEN_LENGTH)]

    @property
    def shown(self) -> str:
        """The scheme and the host, for a log."""
        return f"{self.scheme}://{self.netloc}"


def _authorization(user: str, password: str) -> str:
    if not user and not password:
        return ""
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()  # RFC 7617


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
