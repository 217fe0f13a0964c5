"""The smtp handler: each event becomes a mail."""

from __future__ import annotations

from event import Event, EventError, EventHandler, _clocked, _config, _log, _mail, _submission
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_EXPECTED = "expected smtp=SUBJECT,FROM,TO,SERVER[,SERVER...]"


class SMTPHandler(EventHandler):
    """Mails each event: a text to read, the data as JSON, and the attachments.

    The servers are tried in order until one takes the mail. A recipient whom one refuses is tried at the next.

    :param subject: the mail's subject; a subclass may compute one, by overriding the property `subject`
    :param from_addr: the sender, ``builds@example.com`` or ``Builds <builds@example.com>``
    :param to_addr: the recipients, an address list (RFC 5322) such as ``a@example.com, "Doe, Jane" <b@example.com>``,
        or a list of addresses; the attribute is always the string
    :param smtp_servers: a server or several: ``host``, ``host:port``, ``[IPv6]:port``
    :ivar timeout: seconds that a whole sending may take, all servers together; a single wait takes a third at most
    :raises EventError: an address or a server cannot be, or there is none
    """

    timeout: float = 60.0

    max_concurrency = 1  # a mail server limits the connections of a client

    def __init__(
        self, subject: str, from_addr: str, to_addr: str | Iterable[str], smtp_servers: str | Iterable[str]
    ) -> None:
        self.default_subject = subject
        self.from_addr = from_addr
        self.to_addr = to_addr if isinstance(to_addr, str) else _mail.address_list(_mail.mailboxes(to_addr))
        self.smtp_servers = [smtp_servers] if isinstance(smtp_servers, str) else [*smtp_servers]
        for _, address in (_mail.mailbox(from_addr), *_mail.mailboxes(to_addr)):
            _mail.wire_address(address)
        for server in self._servers():
            parse_server(server)

    @property
    def subject(self) -> str:
        """The subject of the next mail."""
        return self.default_subject

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``subject,from,to,server[,server...]``.

        :raises EventError: there are fewer values
        """
        fields = _config.split_fields(_config_str)
        if len(fields) < 4:
            raise EventError(f"smtp: {len(fields)} values; {_EXPECTED}")
        return {"subject": fields[0], "from_addr": fields[1], "to_addr": fields[2], "smtp_servers": fields[3:]}

    def encode_config(self) -> str:
        """Return ``subject,from,to,server[,server...]``."""
        return _config.join_fields([self.default_subject, self.from_addr, self.to_addr, *self.smtp_servers])

    def send_event(self, event: Event) -> bool:
        """Mail an event.

        Nothing is mailed where an attachment cannot be read. Each reason for a failure, each refused recipient and
        each attachment left out for its size is logged as a warning.

        :return: whether every recipient was taken by a server
        """
        try:
            sender, recipients = _mail.mailbox(self.from_addr), _mail.mailboxes(self.to_addr)
            text, left_out = _mail.compose(event, self.subject, sender, recipients)
            addresses = [_mail.wire_address(address) for _, address in recipients]
            missed = self._deliver(_mail.wire_address(sender[1]), list(dict.fromkeys(addresses)), text)
        except (EventError, OSError) as error:
            _log.warning("smtp: %r is not mailed: %s", event, one_line(error))
            return False
        if left_out and len(missed) < len(set(addresses)):
            _log.warning("smtp: %r is mailed without what has no room: %s", event, ", ".join(map(repr, left_out)))
        if missed:
            _log.warning("smtp: %r is not mailed to %s: no server took it", event, ", ".join(missed))
        return not missed

    def _servers(self) -> list[str]:
        servers = [server for server in self.smtp_servers if server.strip()]
        if not servers:
            raise EventError(f"smtp: no server; {_EXPECTED}")
        return servers

    def _deliver(self, sender: str, recipients: list[str], text: str) -> list[str]:
        """Hand the mail over, server by server; return the recipients whom none has taken."""
        servers = self._servers()
        whole = _clocked.Clock(self.timeout, self.timeout)
        for position, server in enumerate(servers):
            try:
                # A share each, so that one which drips leaves time for the next.
                clock = _clocked.Clock(whole.left() / (len(servers) - position), self.timeout / 3)
                refused = _submission.hand_over(parse_server(server), clock, sender, recipients, text)
            except Exception as error:
                _log.warning("smtp: %s took no mail: %s", server, _submission.reason(error))
                continue
            for recipient, reason in refused.items():
                _log.warning("smtp: %s refused %s: %s", server, recipient, reason)
            recipients = [recipient for recipient in recipients if recipient in refused]
            if not recipients:
                break
        return recipients


def parse_server(server: str) -> tuple[str, int]:
    """Return the host and the port of ``host``, ``host:port``, ``[v6]``, ``[v6]:port`` or ``v6``; without one, port 0.

    :raises EventError: it is none of these, or the port is not from 1 to 65535
    """
    if "@" in server:  # a password before it would stand in every line of the log
        raise EventError("smtp: a server holds an '@'; expected HOST, HOST:PORT or [IPV6]:PORT, the login in .netrc")
    host, colon, port = server.strip(), "", ""
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        valid = bracket and colon in {"", ":"}
    else:
        if host.count(":") == 1:
            host, colon, port = host.partition(":")
        valid = True
    if not valid or not host or not host.isprintable() or " " in host or (colon and not _is_port(port)):
        raise EventError(f"smtp: the server is {server!r}; expected HOST, HOST:PORT or [IPV6]:PORT")
    return host, int(port or 0)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text[:6]) < 65536
