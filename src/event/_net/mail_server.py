"""Parse the configuration of a mail server: its address, its encryption and its account."""

from __future__ import annotations

import netrc
import os
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from event import _log, _places, _secrets
from event._net import hostname
from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    # TLS from the start; STARTTLS, always; STARTTLS if the server offers it, otherwise no encryption.
    Encryption: TypeAlias = Literal["tls", "starttls", "opportunistic"]

_MAIL_SCHEMES: dict[str, Encryption] = {"smtps": "tls", "smtp+starttls": "starttls", "smtp": "opportunistic"}
_MAIL_PORTS: dict[Encryption, int] = {"tls": 465, "starttls": 587, "opportunistic": 25}
_SERVER_SYNTAX = (
    "expected HOST, HOST:PORT, [IPV6]:PORT or a URL: smtps://HOST, smtp+starttls://HOST or smtp://HOST, in which"
    " USER:env:NAME@ or USER:file:PATH@ may precede HOST"
)


@dataclass(frozen=True, slots=True)
class MailServer:
    """A mail server.

    :ivar host: the host name in its ASCII form for DNS
    :ivar user: the account's user; empty to look in ``.netrc``
    :ivar password: the account's password, or a reference to it
    :ivar shown: the server's name in a log
    """

    host: str
    port: int
    encryption: Encryption
    shown: str
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> MailServer:
        """Parse ``host``, ``host:port``, ``[v6]:port``, ``v6`` or a URL.

        :raises EventError: the text is none of these; the message does not contain the text
        """
        scheme, user, password, place = _split_server(text)
        encryption = _MAIL_SCHEMES[scheme or ("smtp" if "smtp_nossl" in features() else "smtps")]
        host, port = _host_and_port(place)
        shown = f"{scheme}://{place}" if scheme else text.strip()
        return cls(host, port or _MAIL_PORTS[encryption], encryption, shown, user, password)

    @property
    def tls_name(self) -> str:
        """The host as a certificate names it: without a dot at its end (RFC 6066, 3)."""
        return self.host.rstrip(".")

    def account(self) -> tuple[str, str] | None:
        """Return the user and the password; None without an account.

        :raises EventError: the reference to the password cannot be resolved
        """
        if self.user:
            return self.user, _secrets.resolve_secret(self.password, f"smtp: the password for {self.shown}")
        return _netrc_account(self.host)


def features() -> set[str]:
    """Return the features in E3_ENABLE_FEATURE, a comma-separated list."""
    return {name.strip() for name in os.environ.get("E3_ENABLE_FEATURE", "").split(",")}


def password_of(text: str) -> str:
    """Return the password in a server's URL, or the reference to it; empty if there is none."""
    return _split_server(text)[2]


def with_absolute_reference(text: str) -> str:
    """Return a server's URL with an absolute path to the password's file, for a process in another directory."""
    scheme, user, password, place = _split_server(text)
    absolute = _secrets.absolute_reference(password)
    if absolute == password:
        return text
    return f"{scheme}://{quote(user, safe='')}:{quote(absolute, safe='/:~')}@{place}"


def _split_server(text: str) -> tuple[str, str, str, str]:
    """Return the scheme, the user, the password and the host with its port; the first three may be empty."""
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        if "@" in text:
            raise EventError(f"smtp: a server without a scheme contains an '@'; {_SERVER_SYNTAX}")
        return "", "", "", text.strip()
    account, at, place = rest.removesuffix("/").rpartition("@")
    user, _, password = map(unquote, account.partition(":"))
    if scheme not in _MAIL_SCHEMES or (at and not (user and password)):
        raise EventError(f"smtp: a server's URL is not understood; {_SERVER_SYNTAX}")
    return scheme, user, password, place


def _host_and_port(place: str) -> tuple[str, int]:
    host, colon, port = place, "", ""
    valid = True
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        valid = bool(bracket) and colon in {"", ":"}
    elif host.count(":") == 1:
        host, colon, port = host.partition(":")
    valid = valid and host.isprintable() and not {*" /?#@"} & {*host} and (not colon or _is_port(port))
    try:
        name = hostname.to_ascii(host) if valid else ""
    except ValueError as error:
        raise EventError(f"smtp: a server's name is invalid: {error}; {_SERVER_SYNTAX}") from error
    if not name:
        raise EventError(f"smtp: a server is not understood; {_SERVER_SYNTAX}")
    return name, int(port or 0)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text[:6]) < 65536


def _netrc_account(host: str) -> tuple[str, str] | None:
    """Return the login and the password of a host in ``.netrc``; None if there are none. Ignore the ``default`` entry.

    The variable NETRC names the file. Without it, the file is ``.netrc`` or ``_netrc`` in the home directory.
    """
    names = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    path = next((path for path in map(_places.expand_home, names) if os.path.isfile(path)), None)
    if path is None:
        return None
    try:
        account = netrc.netrc(path).hosts.get(host)
    except (OSError, UnicodeError, netrc.NetrcParseError) as error:
        # Not the error's text, which may quote the password.
        where = f"line {error.lineno}" if isinstance(error, netrc.NetrcParseError) else type(error).__name__
        _log.warning("smtp: %s cannot be read (%s); going on without login", path, where)
        return None
    return (account[0], account[2] or "") if account and account[0] else None
