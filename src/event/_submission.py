"""One talk with a mail server: connecting, TLS, login, handing the mail over (RFC 5321, 3207, 4954, 8314).

`smtplib` speaks the protocol. What it lacks stands here: a limit on the whole, so that a server which drips a byte
now and then does not hold us. Its sockets are replaced by those of `event._clocked`.
"""

from __future__ import annotations

import netrc
import os
import smtplib
import socket
import ssl
from ipaddress import ip_address

from event import _clocked, _log
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from event._clocked import Clock

_GOODBYE = 5.0  # seconds for QUIT; the mail is the server's by then


def hand_over(server: tuple[str, int], clock: Clock, sender: str, recipients: list[str], text: str) -> dict[str, str]:
    """Give a mail to a server.

    :param server: host and port; port 0 is the protocol's own
    :param sender: an address for the envelope; the recipients likewise
    :return: the recipients whom the server refused, with its reasons
    :raises Exception: the server took nothing; `reason` says why
    """
    host, port = server
    client = _connect(host, port, clock)
    # Beyond ASCII are only addresses; smtplib encodes a str as ASCII, and asks the server whether it knows RFC 6531.
    mail: tuple[Any, ...] = (text,) if text.isascii() else (text.encode(), ["SMTPUTF8"])
    try:
        _log_in(client, host)
        refused = client.sendmail(sender, recipients, *mail)
    except smtplib.SMTPRecipientsRefused as error:
        # Where the server has hung up meanwhile, not all are in there.
        refused = {to: error.recipients.get(to, ("", "not asked for any more")) for to in recipients}
    finally:
        _leave(client, clock)
    # A test's mock returns anything.
    return {to: _answer(*why) for to, why in refused.items()} if isinstance(refused, dict) else {}


def features() -> set[str]:
    """Return what E3_ENABLE_FEATURE switches on, a comma-separated list."""
    return {name.strip() for name in os.environ.get("E3_ENABLE_FEATURE", "").split(",")}


def reason(error: Exception) -> str:
    """Return on one line why a server did not take a mail."""
    if isinstance(error, smtplib.SMTPResponseException):
        return _answer(error.smtp_code, error.smtp_error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{one_line(error)}; SSL_CERT_FILE may name the certificates of a private authority"
    if getattr(error, "reason", None) == "WRONG_VERSION_NUMBER":
        return f"{one_line(error)}; a port without TLS needs smtp_nossl in E3_ENABLE_FEATURE"
    return _printable(one_line(error))


def _answer(code: Any, text: Any) -> str:
    return _printable(f"{code} {text.decode('utf-8', 'replace') if isinstance(text, bytes) else text}")


def _printable(text: str) -> str:
    """Return a server's words as they may stand in a log: one line, no control characters, not endless."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[:500]).split())


def _connect(host: str, port: int, clock: Clock) -> Any:
    """Return a client that has been greeted, over TLS wherever the server has it."""
    plain = "smtp_nossl" in features()
    kind: Any = smtplib.SMTP if plain else smtplib.SMTP_SSL  # looked up now: tests replace them
    context = None if plain else _context(clock)  # it costs more than the talk
    if isinstance(kind, type):
        kind = _bounded(kind, clock, context)
    if not plain:
        return kind(host, port, timeout=clock.left(), context=context)
    client = kind(host, port, timeout=clock.left())
    try:
        client.ehlo_or_helo_if_needed()
        if client.has_extn("starttls"):
            client.starttls(context=_context(clock))
    except BaseException:
        client.close()
        raise
    return client


def _bounded(kind: Any, clock: Clock, context: ssl.SSLContext | None) -> Any:
    """Return the client's class with the connecting done here, so that even the greeting cannot drip past the clock."""

    class Bounded(kind):  # type: ignore[misc]  # known when it runs
        def _get_socket(self, host: str, port: int, _timeout: float) -> socket.socket:
            return _clocked.connected(host, port, clock, context)

    return Bounded


def _context(clock: Clock) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if "smtp_noverify" in features():
        _log.warning("smtp: smtp_noverify in E3_ENABLE_FEATURE: whoever answers is taken for the mail server")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.sslsocket_class = type("_ClockedTLSSocket", (_clocked.TLSSocket,), {"clock": clock})
    return context


def _log_in(client: Any, host: str) -> None:
    """Log in, where .netrc has an account for the host and the server wants one."""
    account = credentials(host)
    if account is None:
        return
    client.ehlo_or_helo_if_needed()
    if not client.has_extn("auth"):
        return
    if isinstance(client.sock, socket.socket) and not _is_private(client.sock):
        _log.warning("smtp: %s: no login, since the server has no TLS: the password would be readable", host)
        return
    try:
        client.login(*account)
    except UnicodeError:
        # Its text would show a part of the password; raised outside, so that a traceback does not either.
        pass
    else:
        return
    raise EventError(f"smtp: the account for {host} in .netrc is not ASCII, which the login needs")


def _is_private(sock: socket.socket) -> bool:
    return isinstance(sock, ssl.SSLSocket) or ip_address(sock.getpeername()[0].partition("%")[0]).is_loopback


def credentials(host: str) -> tuple[str, str] | None:
    """Return the login and the password that .netrc holds for a host; its ``default`` entry does not count.

    The file is the one that the variable NETRC names, else ``.netrc`` (or ``_netrc``) in the home directory.
    """
    names = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    path = next((path for path in map(os.path.expanduser, names) if os.path.isfile(path)), None)
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


def _leave(client: Any, clock: Clock) -> None:
    """Say goodbye. What the server answers changes nothing, and a client that has lost its server is closed already."""
    clock.shorten(_GOODBYE)
    for farewell in (client.quit, client.close):
        try:
            farewell()
        except Exception:  # noqa: S110  # the mail's fate is decided
            pass
