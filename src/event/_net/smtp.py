"""One SMTP session: connect, start TLS, log in, send the mail (RFC 5321, 3207, 4954, 8314).

`smtplib` implements the protocol. This module replaces its sockets by those of `event._net.deadline`, and limits the
length of an answer.
"""

from __future__ import annotations

import re
import smtplib
import socket
import ssl
from dataclasses import dataclass, replace
from ipaddress import ip_address

from event import _log
from event._mask import without_credentials
from event._net.deadline import Socket, TLSSocket, connect, start_tls
from event._net.mail_server import features
from event._text import on_one_line
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from event._net.deadline import Deadline
    from event._net.mail_server import MailServer

GOODBYE_TIMEOUT = 1.0
"""Seconds for QUIT. The server has the mail by then, and a longer wait could turn the success into a timeout."""

MAX_REPLY = 1 << 16  # bytes of one answer with all its lines
_MAX_REASON = 500  # characters of a server's text in a log
_ADDED_BY_SERVER = 2048  # bytes; a server counts the header that it adds as part of the mail
_TOO_MANY = frozenset({452, 552})  # the remaining recipients need a further transaction (RFC 5321, 4.5.3.1.10)
_LOGIN_NEEDED = frozenset({530, 534, 535, 538})  # another account may be accepted (RFC 4954, 6)
_FULL_NAME = re.compile(r"(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{1,63}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a server did not accept the mail for a recipient.

    :ivar code: the reply code; 0 if there is none
    :ivar permanent: whether the same attempt would fail again (RFC 5321, 4.2.1)
    :ivar of_mail: whether the server refused the mail itself, not only the recipient
    """

    code: int
    reason: str
    permanent: bool
    of_mail: bool = False

    @classmethod
    def answered(cls, code: int, text: Any, *, of_mail: bool = False) -> Refusal:
        """Return a server's reply as a refusal."""
        return cls(code, _answer(code, text), 500 <= code < 600 and code not in _LOGIN_NEEDED, of_mail)


def hand_over(
    server: MailServer,
    deadline: Deadline,
    sender: str,
    recipients: Sequence[str],
    compose: Callable[[int | None], bytes],
) -> dict[str, Refusal]:
    """Send a mail to a server, in as many transactions as its limits require.

    :param sender: the sender's address in the envelope
    :param recipients: the recipients' addresses in the envelope
    :param compose: returns the mail. Its argument is the server's size limit in bytes, None if there is none
    :return: the refusals, by recipient
    :raises Exception: no session could be opened, see `smtp_reason`; or an exception of `compose`
    """
    client = _open_session(server, deadline)
    try:
        if hasattr(client, "ehlo_or_helo_if_needed"):  # a mock in a test may have only `sendmail`
            client.ehlo_or_helo_if_needed()
        _log_in(client, server)
        content = compose(_size_limit(client))
        # A mail is not ASCII only if an address is not. smtplib then asks the server whether it supports that.
        mail = (content.decode("ascii"),) if content.isascii() else (content, ["SMTPUTF8", "BODY=8BITMIME"])
        return _transactions(client, sender, recipients, mail)
    finally:
        _leave(client, deadline)


def for_log(refused: dict[str, Refusal], server: MailServer) -> dict[str, Refusal]:
    """Return refusals with reasons for a log: limited in length, and without the account, which a server may echo."""
    try:
        account = server.account() if refused else None
    except EventError:  # the password's reference can't be resolved, so nothing was sent
        account = None
    user, password = account or ("", "")
    secrets = [password, f"{user}:{password}", f"\0{user}\0{password}"] if account else ()  # PLAIN: RFC 4616
    return {
        to: replace(why, reason=without_credentials(why.reason, secrets)[:_MAX_REASON]) for to, why in refused.items()
    }


def smtp_reason(error: Exception) -> str:
    """Return the reason why a server did not accept a mail, on one line."""
    if isinstance(error, smtplib.SMTPResponseException):
        return _answer(error.smtp_code, error.smtp_error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{one_line(error)}; SSL_CERT_FILE may name the certificates of a private authority"
    if getattr(error, "reason", None) == "WRONG_VERSION_NUMBER":
        return f"{one_line(error)}; a port without TLS needs smtp+starttls://, or smtp_nossl in E3_ENABLE_FEATURE"
    return _server_text(one_line(error))


def is_private(sock: socket.socket) -> bool:
    """Return whether the connection is encrypted or stays on this machine."""
    return isinstance(sock, ssl.SSLSocket) or ip_address(sock.getpeername()[0].partition("%")[0]).is_loopback


def _transactions(client: Any, sender: str, recipients: Sequence[str], mail: tuple[Any, ...]) -> dict[str, Refusal]:
    refused: dict[str, Refusal] = {}
    pending = list(recipients)
    while pending:
        answers = _transaction(client, sender, pending, mail)
        refused = {to: why for to, why in refused.items() if to not in pending} | answers
        some_taken = len(answers) < len(pending)
        pending = [to for to, why in answers.items() if why.code in _TOO_MANY] if some_taken else []
    return refused


def _transaction(client: Any, sender: str, recipients: list[str], mail: tuple[Any, ...]) -> dict[str, Refusal]:
    try:
        refused = client.sendmail(sender, recipients, *mail)
    except smtplib.SMTPRecipientsRefused as error:
        # If the server has closed the connection meanwhile, the error does not contain all recipients.
        answers: Any = error.recipients
        refused = {to: answers.get(to, (0, "the server hung up before")) for to in recipients}
    except smtplib.SMTPResponseException as error:
        return dict.fromkeys(recipients, Refusal.answered(error.smtp_code, error.smtp_error, of_mail=True))
    except smtplib.SMTPNotSupportedError as error:
        return dict.fromkeys(recipients, Refusal(0, smtp_reason(error), permanent=True, of_mail=True))
    except OSError as error:  # the base class of smtplib's own errors
        return dict.fromkeys(recipients, Refusal(0, smtp_reason(error), permanent=False, of_mail=True))
    # A mock in a test may return any value.
    return {to: Refusal.answered(*why) for to, why in refused.items()} if isinstance(refused, dict) else {}


def _size_limit(client: Any) -> int | None:
    """Return the server's limit for the size of a mail in bytes (RFC 1870); None if it has not announced one."""
    size: Any = getattr(client, "esmtp_features", {}).get("size")
    if not isinstance(size, str) or not re.fullmatch("[0-9]{1,18}", size) or int(size) == 0:
        return None
    return max(1, int(size) - _ADDED_BY_SERVER)


def _open_session(server: MailServer, deadline: Deadline) -> Any:
    is_tls = server.encryption == "tls"
    kind: Any = smtplib.SMTP_SSL if is_tls else smtplib.SMTP  # looked up now: tests replace these
    more: dict[str, Any] = {"context": _context(deadline)} if is_tls else {}
    if isinstance(kind, type) and hasattr(kind, "getreply"):
        client = _bounded_client(kind, server, deadline, more)
    else:
        client = kind(server.tls_name, server.port, timeout=deadline.left(), **more)
    if not is_tls:
        _upgrade(client, server, deadline)
    return client


def _upgrade(client: Any, server: MailServer, deadline: Deadline) -> None:
    try:
        client.ehlo_or_helo_if_needed()
        if server.encryption == "starttls" or client.has_extn("starttls"):
            client.starttls(context=_context(deadline))
    except BaseException:
        client.close()
        raise


def _bounded_client(kind: Any, server: MailServer, deadline: Deadline, more: dict[str, Any]) -> Any:
    connected = connect(server.host, server.port, deadline)
    if more:
        connected = start_tls(connected, more["context"], server.tls_name)

    class Client(kind):  # type: ignore[misc]  # the base class is known only at runtime
        file: Any

        def connect(self, *_args: Any, **_options: Any) -> Any:
            self.sock = connected
            return self.getreply()

        def getreply(self) -> Any:
            if self.file is None:
                self.file = _BoundedReader(self.sock.makefile("rb"))
            self.file.left = MAX_REPLY
            code, text = super().getreply()
            if code < 100:
                self.close()
                raise smtplib.SMTPServerDisconnected("the server does not answer as SMTP does; is this its port?")
            return code, text

    try:
        # smtplib would ask DNS for this machine's name, without a timeout, and send it even if it is not ASCII.
        name = _own_name(connected)
        return Client(server.tls_name, server.port, local_hostname=name, timeout=deadline.left(), **more)
    except BaseException:
        connected.close()
        raise


class _BoundedReader:
    def __init__(self, file: Any) -> None:
        self._file = file
        self.left = MAX_REPLY  # how many more bytes the current answer may have

    def readline(self, limit: int) -> bytes:
        line: bytes = self._file.readline(limit)
        self.left -= len(line)
        if self.left < 0:
            raise OSError(f"an answer is longer than {MAX_REPLY} bytes")
        if len(line) == limit:  # smtplib would turn this into a permanent refusal with code 500
            raise OSError("a line of an answer is too long")
        return line

    def close(self) -> None:
        self._file.close()


def _own_name(sock: socket.socket) -> str:
    """Return the name of this machine for EHLO: its full name, or else its address (RFC 5321, 4.1.4)."""
    name = socket.gethostname()
    if _FULL_NAME.fullmatch(name):
        return name
    address = sock.getsockname()[0].partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _context(deadline: Deadline) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if "smtp_noverify" in features():
        _log.warning("smtp: smtp_noverify in E3_ENABLE_FEATURE: the certificate of the mail server is not verified")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # For STARTTLS, with which smtplib creates the socket.
    context.sslsocket_class = type("_BoundTLSSocket", (TLSSocket,), {"deadline": deadline})
    return context


def _log_in(client: Any, server: MailServer) -> None:
    """Log in if there is an account for the server and the server offers a login."""
    account = server.account()
    if account is None or not client.has_extn("auth"):
        return
    if isinstance(client.sock, socket.socket) and not is_private(client.sock):
        _log.warning("smtp: %s: no login, since the server has no TLS: others could read the password", server.shown)
        return
    try:
        client.login(*account)
    except UnicodeError:
        # The text of the error contains a part of the password. The new error is raised outside of this block, so
        # that a traceback does not show the text either.
        pass
    else:
        return
    raise EventError(f"smtp: the account for {server.shown} is not ASCII; a login can send only ASCII")


def _leave(client: Any, deadline: Deadline) -> None:
    """End the session. The server's answer is ignored."""
    sock = getattr(client, "sock", None)
    if isinstance(sock, Socket):
        sock.deadline = deadline.shortened(GOODBYE_TIMEOUT)
    for farewell in ("quit", "close"):
        try:
            getattr(client, farewell)()
        except Exception:  # noqa: S110  # the result of the mail is already known
            pass


def _answer(code: int, text: Any) -> str:
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return _server_text(f"{code} {text}" if code else text)


def _server_text(text: str) -> str:
    return on_one_line(text[: 10 * _MAX_REASON])
