"""The smtp handler: send each event by mail."""

from __future__ import annotations

import time

from event import (
    Event,
    EventError,
    EventHandler,
    PartialDeliveryError,
    PermanentError,
    _dispatch,
    _handler_config,
    _log,
    _secrets,
    already_delivered,
)
from event.error import one_line

# Imported in the constructor: with the email package, these modules take longer to import than `check` takes to run.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, ClassVar

    from event._formats.mail import Mail, MailContent
    from event._net.deadline import Deadline
    from event._net.mail_server import MailServer
    from event._net.smtp import Refusal

_EXPECTED = "expected smtp=SUBJECT,FROM,TO,SERVER[,SERVER...][,title=TITLE][,body=BODY]"
_TEMPLATES = ("title=", "body=")  # no server name begins with these
_REFUSED_PREFIX = "refused "  # prefix of the key of a recipient that was refused permanently


class SMTPHandler(EventHandler):
    """Mails each event, with a readable notice, the data as JSON, and the attachments.

    The servers are tried in order until one accepts the mail. If a server refuses a recipient, the next one is tried.

    :param subject: the mail's subject; if the event has an outcome, the title follows it. A subclass may override the
        property `subject`
    :param from_addr: the sender, ``builds@example.com`` or ``Builds <builds@example.com>``
    :param to_addr: the recipients: an address list (RFC 5322) such as ``a@example.com, "Doe, Jane" <b@example.com>``,
        or a list of addresses. The attribute is always a string
    :param smtp_servers: one or several servers: ``host``, ``host:port``, ``[IPv6]:port``, or a URL such as
        ``smtps://ci:env:SMTP_PASSWORD@host``
    :param title: the template of the title. ``{key}`` is replaced by a value of the event's data, ``{key.inner}`` by a
        value in an object. Empty for a title such as ``tests failed on main (exit 1, 4 min 12 s)``
    :param body: the template of the text; empty for the notice
    :ivar pace: the pause between two mails in seconds, when `e3-event deliver` or a relay sends several
    :ivar timeout: the total timeout of a sending in seconds; the per-operation timeout is a third of it
    :raises EventError: an address or a server is invalid, or there is none
    """

    references: ClassVar[tuple[str, ...]] = ("passwords",)

    timeout: float = 60.0

    max_concurrency = 1  # a mail server limits the connections of a client
    pace: float = 1.0

    def __init__(  # noqa: PLR0913  # four are e3-core's
        self,
        subject: str,
        from_addr: str,
        to_addr: str | Iterable[str],
        smtp_servers: str | Iterable[str],
        *,
        title: str = "",
        body: str = "",
    ) -> None:
        from event._formats import mail  # noqa: F401  # a sending must import nothing, in case of a fork meanwhile
        from event._formats.address import format_mailboxes, parse_mailboxes
        from event._net import smtp  # noqa: F401
        from event._net.mail_server import MailServer, password_of

        self.default_subject = subject
        self.from_addr = from_addr
        self.to_addr: str = to_addr if isinstance(to_addr, str) else format_mailboxes(parse_mailboxes(to_addr))
        self.smtp_servers: list[str] = [smtp_servers] if isinstance(smtp_servers, str) else [*smtp_servers]
        self.title = title
        self.body = body
        self._addresses()
        for server in self._servers():
            MailServer.parse(server)
            _secrets.warn_if_clear(password_of(server), "smtp: the password in a server's URL")

    @property
    def subject(self) -> str:
        """The subject of the next mail."""
        return self.default_subject

    @property
    def passwords(self) -> list[str]:
        """The passwords in the servers' URLs, or the references to them."""
        from event._net.mail_server import password_of

        return [password for password in map(password_of, self._servers()) if password]

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``subject,from,to,server[,server...][,title=TITLE][,body=BODY]``.

        :raises EventError: there are fewer than four values
        """
        fields = _handler_config.split_fields(_config_str)
        templates: dict[str, str] = {}
        for template in _TEMPLATES:
            found = [field for field in fields[3:] if field.startswith(template)]
            templates |= {template[:-1]: field.removeprefix(template) for field in found}
            fields[3:] = [field for field in fields[3:] if field not in found]
        if len(fields) < 4:
            raise EventError(f"smtp: {len(fields)} values; {_EXPECTED}")
        return {"subject": fields[0], "from_addr": fields[1], "to_addr": fields[2], "smtp_servers": fields[3:]} | (
            templates
        )

    def encode_config(self) -> str:
        """Return ``subject,from,to,server[,server...][,title=TITLE][,body=BODY]``."""
        return self._encoded(self.smtp_servers)

    def config_for_outbox(self) -> str:
        """Return the configuration with absolute paths, for a process in another directory."""
        from event._net.mail_server import with_absolute_reference

        return self._encoded([with_absolute_reference(server) for server in self.smtp_servers])

    def send_event(self, event: Event) -> bool:
        """Mail an event.

        If an attachment cannot be read, nothing is mailed. Each failure, each refused recipient and each incomplete
        attachment is logged as a warning.

        :return: True if the servers accepted every recipient; False if they accepted none, and a retry may succeed
        :raises PartialDeliveryError: some recipients are finished, and a retry may reach the others
        :raises PermanentError: some recipients were refused permanently, and no other recipient is left to retry
        """
        from event._formats.mail import content_of
        from event._formats.template import Templates

        templates = Templates(self.title, self.body)
        return self._deliver(event, lambda: content_of(event, self.subject, templates))

    def send_events(self, events: Sequence[Event]) -> list[bool | BaseException]:
        """Mail several events: up to five in separate mails, more in one mail that lists them.

        :return: for each event, the return value or the exception of `send_event`
        """
        from functools import partial

        from event._formats.digest import DIGEST_OVER
        from event._formats.mail import digest_content

        # Send separate mails if a recipient already has an event, or if a subclass has its own `send_event`.
        is_own = type(self).send_event is SMTPHandler.send_event
        if len(events) <= DIGEST_OVER or any(map(already_delivered, events)) or not is_own:
            return [self._mail_one(event, is_first=event is events[0]) for event in events]
        content = partial(digest_content, events, self.subject)
        return [_dispatch.result_in_batch(lambda: self._deliver(events[0], content))] * len(events)

    def _mail_one(self, event: Event, *, is_first: bool) -> bool | BaseException:
        if not is_first:
            time.sleep(self.pace)
        return _dispatch.result_in_batch(lambda: self.send_event(event))

    def _deliver(self, event: Event, content: Callable[[], MailContent]) -> bool:
        from event._net.smtp import Refusal

        finished = already_delivered(event)
        try:
            sender, *recipients = self._addresses()
            pending = [to for to in recipients if not finished & {to, _REFUSED_PREFIX + to}]
            missing = self._mail(content(), sender, pending) if pending else {}
        except (EventError, OSError) as error:
            _log.not_delivered(event, f"smtp: {one_line(error).removeprefix('smtp: ')}")
            return False
        earlier = {
            to: Refusal(0, "on an earlier attempt", permanent=True)
            for to in recipients
            if _REFUSED_PREFIX + to in finished
        }
        return _outcome(event, recipients, earlier | missing)

    def _mail(self, content: MailContent, sender: str, pending: list[str]) -> dict[str, Refusal]:
        """Return the pending recipients whom no server accepted."""
        from event._formats.address import parse_mailbox, parse_mailboxes
        from event._formats.mail import Mail
        from event._net.deadline import Deadline
        from event._net.mail_server import MailServer

        mail = Mail(content, parse_mailbox(self.from_addr), parse_mailboxes(self.to_addr))
        missing: dict[str, Refusal] = {}
        end = time.monotonic() + self.timeout
        servers = self._servers()
        for position, server in enumerate(servers):
            # Each server gets a share of the time, so that a slow server leaves time for the next.
            deadline = Deadline((end - time.monotonic()) / (len(servers) - position), self.timeout / 3)
            answers = _try(MailServer.parse(server), deadline, sender, pending, mail)
            missing = {to: _both(missing.get(to, why), why) for to, why in answers.items()}
            pending = list(missing)
            if not pending:
                break
        return missing

    def _addresses(self) -> list[str]:
        """Return the sender's address, then the recipients' addresses without duplicates."""
        from event._formats.address import parse_mailbox, parse_mailboxes

        sender, recipients = parse_mailbox(self.from_addr), parse_mailboxes(self.to_addr)
        return [sender.wire_address, *dict.fromkeys(box.wire_address for box in recipients)]

    def _servers(self) -> list[str]:
        servers = [server for server in self.smtp_servers if server.strip()]
        if not servers:
            raise EventError(f"smtp: no server; {_EXPECTED}")
        return servers

    def _encoded(self, servers: list[str]) -> str:
        given = zip(_TEMPLATES, (self.title, self.body), strict=True)
        templates = [f"{name}{template}" for name, template in given if template]
        return _handler_config.join_fields([self.default_subject, self.from_addr, self.to_addr, *servers, *templates])


def _try(server: MailServer, deadline: Deadline, sender: str, pending: list[str], mail: Mail) -> dict[str, Refusal]:
    """Send a mail to a server; return the recipients that it did not accept."""
    from event._net import smtp

    try:
        refused = smtp.hand_over(server, deadline, sender, pending, mail.compose)
    except Exception as error:
        permanent = isinstance(error, PermanentError)
        refused = dict.fromkeys(pending, smtp.Refusal(0, smtp.smtp_reason(error), permanent, of_mail=True))
    refused = smtp.for_log(refused, server)
    for remark in mail.remarks if len(refused) < len(pending) else ():
        _log.warning("smtp: the mail is not complete: %s", remark)
    _warn_of(server, refused)
    return refused


def _both(earlier: Refusal, later: Refusal) -> Refusal:
    """Combine the refusals of two servers. The result is permanent only if both refusals are permanent."""
    return later if earlier.permanent else earlier


def _warn_of(server: MailServer, refused: dict[str, Refusal]) -> None:
    for reason in dict.fromkeys(why.reason for why in refused.values() if why.of_mail):
        _log.warning("smtp: %s: %s", server.shown, reason)
    for recipient, why in refused.items():
        if not why.of_mail:
            _log.warning("smtp: %s refused %s: %s", server.shown, recipient, why.reason)


def _outcome(event: Event, recipients: list[str], missing: dict[str, Refusal]) -> bool:
    """Return or raise the result of `SMTPHandler.send_event`."""
    delivered = [to for to in recipients if to not in missing]
    refused = [to for to, why in missing.items() if why.permanent]
    remaining = [to for to, why in missing.items() if not why.permanent]
    if not remaining and not refused:
        return True
    if not remaining:
        reasons = ", ".join(f"{to} ({missing[to].reason})" for to in refused)
        raise PermanentError(f"smtp: refused for {reasons}", done=delivered)
    if not delivered and not refused:
        _log.not_delivered(event, f"smtp: no server accepted the mail for {', '.join(remaining)}", is_logged=True)
        return False
    done = [*delivered, *(_REFUSED_PREFIX + to for to in refused)]
    reasons = ", ".join(f"{to} ({missing[to].reason})" for to in remaining)
    raise PartialDeliveryError(f"smtp: not yet mailed to {reasons}", done=done, remaining=remaining)
