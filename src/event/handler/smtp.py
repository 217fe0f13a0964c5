"""The smtp handler: each event becomes a mail."""

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

# The constructor imports the mail rooms, not this module: with the email package, they cost more than a whole `check`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, ClassVar

    from event._formats.mail import Mail, MailContent
    from event._net.deadline import Deadline
    from event._net.mail_server import MailServer
    from event._net.smtp import Refusal

_EXPECTED = "expected smtp=SUBJECT,FROM,TO,SERVER[,SERVER...][,title=TITLE][,body=BODY]"
_TEMPLATES = ("title=", "body=")  # no server begins so
_REFUSED_PREFIX = "refused "  # begins the key of a recipient whom no later attempt must try


class SMTPHandler(EventHandler):
    """Mail each event: a notice for people, the data as JSON, and the attachments.

    The servers are tried in order until one takes the mail. A recipient whom one refuses is tried at the next.

    :param subject: the mail's subject, which the title follows if the event has an outcome; a subclass may compute one,
        by overriding the property `subject`
    :param from_addr: the sender, ``builds@example.com`` or ``Builds <builds@example.com>``
    :param to_addr: the recipients, an address list (RFC 5322) such as ``a@example.com, "Doe, Jane" <b@example.com>``,
        or a list of addresses; the attribute is always the string
    :param smtp_servers: a server or several: ``host``, ``host:port``, ``[IPv6]:port``, or a URL such as
        ``smtps://ci:env:SMTP_PASSWORD@host``
    :param title: a template of the title: text with ``{key}`` for a value of the event's data, ``{key.inner}`` for one
        inside of it; empty for the notice's own, such as ``tests failed on main (exit 1, 4 min 12 s)``
    :param body: a template of the text; empty for the notice
    :ivar pace: seconds from one mail to the next, when `e3-event deliver` or a relay sends many
    :ivar timeout: seconds that a whole sending may take, all servers together; a single wait takes a third at most
    :raises EventError: an address or a server is invalid, or there is none
    """

    # What may be given by reference: `e3-event check` looks for it.
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

        :raises EventError: there are fewer values
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
        """Return the configuration with absolute paths: an outbox may be delivered from another directory."""
        from event._net.mail_server import with_absolute_reference

        return self._encoded([with_absolute_reference(server) for server in self.smtp_servers])

    def send_event(self, event: Event) -> bool:
        """Mail an event.

        If an attachment cannot be read, nothing is mailed. Each reason for a failure, each refused recipient and each
        attachment that is not mailed as it is gets a line in the log, a warning.

        :return: whether every recipient was taken by a server; False if another attempt may reach all of them
        :raises PartialDeliveryError: another attempt may reach some of them
        :raises PermanentError: no attempt will; some recipients are refused for good
        """
        return self._deliver(event, lambda: self._content(event))

    def send_events(self, events: Sequence[Event]) -> list[bool | BaseException]:
        """Mail several events: more than five in one mail that lists them, fewer in a mail each, at `pace`.

        :return: for each event what `send_event` returns or raises
        """
        from functools import partial

        from event._formats.digest import DIGEST_OVER
        from event._formats.mail import digest_content

        # Who has a part of an event already must not get it again; a subclass may mail an event in its own way.
        is_own = type(self).send_event is SMTPHandler.send_event
        if len(events) <= DIGEST_OVER or any(map(already_delivered, events)) or not is_own:
            return [self._mail_one(event, is_first=event is events[0]) for event in events]
        content = partial(digest_content, events, self.subject)
        return [_dispatch.result_in_batch(lambda: self._deliver(events[0], content))] * len(events)

    def _mail_one(self, event: Event, *, is_first: bool) -> bool | BaseException:
        if not is_first:
            time.sleep(self.pace)
        return _dispatch.result_in_batch(lambda: self.send_event(event))

    def _content(self, event: Event) -> MailContent:
        from event._formats.mail import content_of
        from event._formats.template import Templates

        return content_of(event, self.subject, Templates(self.title, self.body))

    def _deliver(self, event: Event, content: Callable[[], MailContent]) -> bool:
        """Mail what is about an event; see `send_event`."""
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
        """Mail something to those who do not have it; return those who still do not."""
        from event._formats.address import parse_mailbox, parse_mailboxes
        from event._formats.mail import Mail
        from event._net.deadline import Deadline
        from event._net.mail_server import MailServer

        mail = Mail(content, parse_mailbox(self.from_addr), parse_mailboxes(self.to_addr))
        missing: dict[str, Refusal] = {}
        end = time.monotonic() + self.timeout
        servers = self._servers()
        for position, server in enumerate(servers):
            # A share each, so that a slow one leaves time for the next.
            deadline = Deadline((end - time.monotonic()) / (len(servers) - position), self.timeout / 3)
            answers = _try(MailServer.parse(server), deadline, sender, pending, mail)
            missing = {to: _both(missing.get(to, why), why) for to, why in answers.items()}
            pending = list(missing)
            if not pending:
                break
        return missing

    def _addresses(self) -> list[str]:
        """Return the addresses of the sender and, each once, of the recipients.

        :raises EventError: one is invalid
        """
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
    """Give a mail to a server; return the recipients whom it did not take."""
    from event._net import smtp

    remarks: list[str] = []

    def compose(limit: int | None) -> bytes:
        composed = mail.compose(limit)
        remarks[:] = composed.remarks
        return composed.content

    try:
        refused = smtp.hand_over(server, deadline, sender, pending, compose)
    except Exception as error:
        permanent = isinstance(error, PermanentError)
        refused = dict.fromkeys(pending, smtp.Refusal(0, smtp.smtp_reason(error), permanent, of_mail=True))
    for remark in remarks if len(refused) < len(pending) else ():
        _log.warning("smtp: the mail is not complete: %s", remark)
    _warn_of(server, refused)
    return refused


def _both(earlier: Refusal, later: Refusal) -> Refusal:
    """Return what two servers say together: another attempt helps if one of them may take the mail later."""
    return later if earlier.permanent else earlier


def _warn_of(server: MailServer, refused: dict[str, Refusal]) -> None:
    for reason in dict.fromkeys(why.reason for why in refused.values() if why.of_mail):
        _log.warning("smtp: %s: %s", server.shown, reason)
    for recipient, why in refused.items():
        if not why.of_mail:
            _log.warning("smtp: %s refused %s: %s", server.shown, recipient, why.reason)


def _outcome(event: Event, recipients: list[str], missing: dict[str, Refusal]) -> bool:
    """Return or raise what `SMTPHandler.send_event` does."""
    delivered = [to for to in recipients if to not in missing]
    refused = [to for to, why in missing.items() if why.permanent]
    remaining = [to for to, why in missing.items() if not why.permanent]
    if not remaining and not refused:
        return True
    if not remaining:
        reasons = ", ".join(f"{to} ({missing[to].reason})" for to in refused)
        raise PermanentError(f"smtp: refused for {reasons}", done=delivered)
    if not delivered and not refused:
        _log.not_delivered(event, f"smtp: no server took the mail for {', '.join(remaining)}", is_logged=True)
        return False
    done = [*delivered, *(_REFUSED_PREFIX + to for to in refused)]
    reasons = ", ".join(f"{to} ({missing[to].reason})" for to in remaining)
    raise PartialDeliveryError(f"smtp: not yet mailed to {reasons}", done=done, remaining=remaining)
