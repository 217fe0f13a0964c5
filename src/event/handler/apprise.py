"""The apprise handler: each event becomes a message, to any of the services that Apprise knows."""

from __future__ import annotations

import os
import re
import time
from _thread import get_ident
from functools import partial

from event import Event, EventError, EventHandler, _dispatch, _files, _handler_config, _log, _secrets
from event._formats.digest import DIGEST_OVER, digest_of
from event._formats.notice import CHAT_MAX, chat_text, clean, notice_of, plain_data, with_templates
from event._formats.notice_html import chat_html
from event._formats.template import Templates
from event._handler import import_extra
from event._net.guarded_requests import guard
from event._text import on_one_line
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from logging import LogRecord
    from typing import Any, ClassVar

    from typing_extensions import Self

_EXPECTED = (
    "expected apprise=URLS[,TITLE[,BODY]], where URLS are env:NAME, file:PATH or SCHEME://..., white space between them"
)

# White space, a comma or a semicolon separates two URLs; a path may hold some too.
_BETWEEN_URLS = re.compile(r"(?<![\s,;])[\s,;]+(?=env:|file:|[A-Za-z][\w+.-]*://)")
_URL_START = re.compile(r"env:|file:|[A-Za-z][\w+.-]*://")
_SEVERITIES = {"success": "SUCCESS", "failure": "FAILURE", "cancel": "WARNING"}  # outcome: name in Apprise's NotifyType

_CONNECT_TIMEOUT = 10.0  # seconds; Apprise's 4 are short for a proxy
_READ_TIMEOUT = 30.0  # seconds without a byte; a service that has got a large attachment takes its time to answer


class AppriseHandler(EventHandler):
    """Sends each event as a message with title, body, severity and attachments.

    A template is text with ``{key}`` for a value of the event's data, ``{key.inner}`` for one inside of it, ``{{`` and
    ``}}`` for braces. A key that the event does not have stands as it is written.

    :param urls: where the Apprise URLs stand, ``env:NAME`` or ``file:PATH``, or a URL itself; several in a list, or
        with white space between them. A variable or a file may hold several too.
    :param title: the title's template; empty for one such as ``tests failed on main (exit 1, 4 min 12 s)``
    :param body: the body's template; empty for the reason, the last lines of the output, the link and the data
    :ivar timeout: seconds that a whole sending may take, all services side by side
    :raises EventError: Apprise is not installed, there is no URL, or one is none that Apprise takes; the message says
        which, and does not hold it
    """

    # What `e3-event check` looks for: modules, and attributes that may hold secret references.
    requires: ClassVar[Mapping[str, str]] = {"apprise": "e3-event[apprise]"}
    references: ClassVar[tuple[str, ...]] = ("urls",)

    timeout: float = 60.0

    max_concurrency = 1  # chat services limit how often a client posts

    def __init__(self, urls: str | Iterable[str], title: str = "", body: str = "") -> None:
        apprise = import_extra("apprise", self.requires["apprise"])
        _load_ahead(apprise)
        self.urls: list[str] = _split_urls(urls)
        self.title = title
        self.body = body
        for position, url in enumerate(self.urls, 1):
            _secrets.warn_if_clear(url, f"apprise: URL {position}")
            try:
                found = list(_resolved_urls(url, position))
            except EventError:  # what is not there yet may be when the event is sent
                continue
            for label, resolved in found:
                with _Listener(resolved) as listener:
                    listener.service(apprise, label)

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``urls,title,body``; the body takes the commas that are left.

        :raises EventError: there is no URL
        """
        fields = _handler_config.split_fields(_config_str, 3)
        if not fields[0].strip():
            raise EventError(f"apprise: no URL; {_EXPECTED}")
        if any(map(_URL_START.match, fields[1:2])):
            raise EventError(f"apprise: the title begins as a URL does; {_EXPECTED}")
        return dict(zip(("urls", "title", "body"), fields, strict=False))

    def encode_config(self) -> str:
        """Return ``urls,title,body``, without what is empty at the end."""
        return self._encoded(self.urls)

    def config_for_outbox(self) -> str:
        """Return the configuration with absolute paths: an outbox may be delivered from another directory."""
        return self._encoded([_secrets.absolute_reference(url) for url in self.urls])

    def _encoded(self, urls: list[str]) -> str:
        fields = [" ".join(urls), self.title, self.body]
        while not fields[-1]:
            fields.pop()
        return _handler_config.join_fields(fields, last_whole=len(fields) == 3)

    def send_events(self, events: Sequence[Event]) -> list[bool | BaseException]:
        """Send several events: more than five in one message that lists them, fewer in a message each.

        :return: for each event what `send_event` returns or raises
        """
        if len(events) <= DIGEST_OVER or type(self).send_event is not AppriseHandler.send_event:
            return [_dispatch.result_in_batch(partial(self.send_event, event)) for event in events]
        return [_dispatch.result_in_batch(lambda: self._send(events[0], _Digest(events)))] * len(events)

    def send_event(self, event: Event) -> bool:
        """Send an event to all services, side by side.

        Each reason for a failure is logged as a warning. No service gets anything where an attachment cannot be read.

        :return: whether every service has taken the message
        :raises EventError: the data holds itself
        """
        return self._send(event, _Message(event, Templates(self.title, self.body)))

    def _send(self, event: Event, message: _Message) -> bool:
        """Send a message to all services; see `send_event`."""
        if problem := message.problem():
            _log.not_delivered(event, f"apprise: {problem}")
            return False
        failures: list[tuple[str, str]] = []
        services: dict[str, _Service] = {}
        for position, url in enumerate(self.urls, 1):
            try:
                services.update(
                    (label, _Service(label, found, message)) for label, found in _resolved_urls(url, position)
                )
            except EventError as error:
                failures.append((f"URL {position}", one_line(error).removeprefix("apprise: ")))
        outcome = _dispatch.dispatch(services, event, self.timeout)
        failures += [(delivery.handler, delivery.reason) for delivery in outcome if not delivery]
        for label, reason in failures:
            _log.not_delivered(event, f"apprise: {label}: {reason}")
        return not failures


def _load_ahead(apprise: Any) -> None:
    """Load what Apprise and requests load when they first send: while one thread imports, another may fork."""
    import netrc  # noqa: F401

    _file_attachment(apprise)


def _file_attachment(apprise: Any) -> Any:
    """Return the class of attached files, which has no public name that all versions share."""
    return type(apprise.AppriseAttachment.instantiate("file:///attachment"))


def _split_urls(urls: str | Iterable[str]) -> list[str]:
    """Return the URLs and the references one by one, as `AppriseHandler` is given them.

    :raises EventError: there is none, or one is neither a URL nor a reference; the message does not hold it
    """
    texts = [urls] if isinstance(urls, str) else [*urls]
    found = [url for text in texts if text.strip() for url in _BETWEEN_URLS.split(text.strip())]
    if not found:
        raise EventError(f"apprise: no URL; {_EXPECTED}")
    for position, url in enumerate(found, 1):
        if not _URL_START.match(url):
            raise EventError(f"apprise: URL {position} is neither a URL nor a reference; {_EXPECTED}")
    return found


def _resolved_urls(url: str, position: int) -> Iterator[tuple[str, str]]:
    """Yield what messages call it and the URL, for each one that a reference leads to.

    :raises EventError: the reference leads to nothing
    """
    found = _secrets.resolve_secret(url, "apprise").split()
    if not found:
        raise EventError(f"apprise: {url} holds no URL")
    for number, resolved in enumerate(found, 1):
        yield f"URL {number} of {url}" if _secrets.is_reference(url) else f"URL {position}", resolved


class _Message:
    """What an event says to a person, for all services."""

    def __init__(self, event: Event, templates: Templates) -> None:
        data = plain_data(event.as_dict())
        self.files = [(on_one_line(clean(name)), path) for name, (path, _) in event.get_attachments().items()]
        # A service refuses a message that is blank; the event is worth more than the template.
        self.notice = with_templates(notice_of(data), templates, data)
        self.title = self.notice.title
        self.severity = _SEVERITIES.get(self.notice.outcome, "INFO")

    def problem(self) -> str:
        """Return which attachment is missing, no regular file or not readable, and why; empty where none is."""
        for name, path in self.files:
            try:
                os.close(_files.open_regular(path))
            except OSError as error:
                return f"attachment {name!r}: {one_line(error)}"
        return ""

    def body_for(self, service: Any) -> tuple[str, str]:
        """Return the name of a format that a service prefers, and the body in it, within the service's limit.

        :param service: Apprise's
        """
        preferred = service.notify_format
        kind = str(getattr(preferred[0] if isinstance(preferred, tuple) else preferred, "value", preferred)).upper()
        room = service.body_maxlen - (0 if service.title_maxlen else len(self.title) + 1)
        names = [name for name, _ in self.files]
        if kind == "HTML" and not self.notice.body:
            return kind, chat_html(self.notice, names, room)
        return "TEXT" if self.notice.body else kind, chat_text(self.notice, names, room) or self.title


class _Digest(_Message):
    """What many events say, for all services. Their files are not attached."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = [plain_data(event.as_dict()) for event in events]
        self.files = []
        self.notice = digest_of(self._events)
        self.title = self.notice.title
        self.severity = _SEVERITIES.get(self.notice.outcome, "INFO")

    def body_for(self, service: Any) -> tuple[str, str]:
        """Return TEXT, and as many lines as there is room for; see `_Message.body_for`."""
        room = service.body_maxlen - (0 if service.title_maxlen else len(self.title) + 1)
        return "TEXT", digest_of(self._events, min(room, CHAT_MAX)).body


class _Service:
    """One URL, as a handler of its own: `_dispatch` runs all of them side by side."""

    def __init__(self, label: str, url: str, message: _Message) -> None:
        self._label = label
        self._url = url
        self._message = message

    def send_event(self, event: Event) -> bool:  # noqa: ARG002  # a handler's signature
        """Send the message.

        :raises EventError: the service has not taken it; the message tells the reason and holds nothing of the URL
        """
        apprise = import_extra("apprise", AppriseHandler.requires["apprise"])
        with _Listener(self._url) as listener:
            # A new one each time: it holds no connection that a fork would share, and reads the secret as it is now.
            one = apprise.Apprise(asset=_asset(apprise))
            service = listener.service(apprise, self._label)
            one.add(service)
            kind, body = self._message.body_for(service)
            _keep_pace(self._url, service.request_rate_per_sec)
            if not one.notify(
                title=self._message.title,
                body=body,
                body_format=getattr(apprise.NotifyFormat, kind),
                notify_type=getattr(apprise.NotifyType, self._message.severity),
                attach=self._attachments(apprise),
            ):
                raise EventError(listener.reason() or "the service did not say why")
        return True

    def _attachments(self, apprise: Any) -> Any:
        """Return the attachments as Apprise takes them; a set for each service, since they keep a state."""
        attachments = apprise.AppriseAttachment()
        for name, path in self._message.files:
            file = _file_attachment(apprise)(path=path, name=name)
            file.dirty_path = path  # its constructor expands what looks like a variable, on Windows
            attachments.add(file)
        return attachments


def _keep_pace(url: str, seconds: float) -> None:
    """Wait until a service has had the pause that Apprise gives it from one message to the next.

    Apprise itself knows only of the messages of one object, and each message has one of its own.
    """
    now = time.monotonic()
    turn = max(now, _turns.get(url, 0.0))
    _turns[url] = turn + seconds
    time.sleep(turn - now)


_turns: dict[str, float] = {}  # when a URL may be used again, by `time.monotonic`


def _asset(apprise: Any) -> Any:
    """Return settings with which Apprise sends in the thread that calls it.

    Version 2 would keep a pool of threads for what has a time limit, which a forked process would wait for in vain.
    """
    limit = {"service_timeout": 0} if hasattr(apprise.AppriseAsset, "_service_timeout") else {}
    return apprise.AppriseAsset(async_mode=False, **limit)


class _Listener:
    """Hears what Apprise logs in this thread while the listener is entered, and lets nothing of it through.

    Apprise's own records hold URLs with their tokens: at DEBUG all of them, above it some.

    :param url: what no reason may hold
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._public: set[str] = set()

    def __enter__(self) -> Self:
        from logging import getLogger

        for name in ("apprise", "urllib3.connectionpool"):
            getLogger(name).addFilter(_hear)  # adding it again changes nothing
        _heard[get_ident()] = []
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        heard = _heard.pop(get_ident())
        if isinstance(error, Exception) and not isinstance(error, EventError):
            raise EventError(self._masked("; ".join([one_line(error), *heard]))) from None

    def reason(self) -> str:
        """Return what was said at WARNING and above, on one line, without the URL's parts."""
        return self._masked("; ".join(dict.fromkeys(_heard[get_ident()])))

    def service(self, apprise: Any, label: str) -> Any:
        """Return Apprise's service for the URL.

        :raises EventError: Apprise does not know the URL or lacks something in it
        """
        from contextlib import suppress

        service: Any = None
        with suppress(ValueError, TypeError, AttributeError):  # 1.6 has them for what is no URL at all
            service = apprise.Apprise.instantiate(self._url, asset=_asset(apprise))
        if service is not None:
            guard(type(service).__module__)
        else:
            # What Apprise says of a URL as a whole shows the ends of its parts.
            said = "; ".join(text for text in map(self._masked, _heard[get_ident()]) if "://" not in text)
            raise EventError(
                f"apprise: {label} is none that Apprise takes{': ' * bool(said)}{said}; "
                "expected SCHEME://... as https://appriseit.com/services/ shows for each service"
            )
        given = vars(service)  # its own attributes are those that the URL sets
        given.setdefault("socket_connect_timeout", max(service.socket_connect_timeout, _CONNECT_TIMEOUT))
        given.setdefault("socket_read_timeout", max(service.socket_read_timeout, _READ_TIMEOUT))
        # Else a service refuses what is too long for it; "truncate" would keep the first attachment alone.
        given.setdefault("overflow_mode", apprise.OverflowMode.SPLIT)
        # Where some services may have a host, others have a token: notica://TOKEN, ntfy://TOPIC.
        named = service.template_tokens.get("host", {"private": True})
        if not named.get("private") and ("." in service.host or service.host == "localhost"):
            self._public = {service.host, str(service.port)}
        return service

    def _masked(self, text: str) -> str:
        """Return text without the URL and its parts, except for a host that is a host and no token."""
        from urllib.parse import unquote

        text = text.replace(self._url, "***")
        rest = self._url.partition("://")[2]
        parts = {piece for part in (rest, unquote(rest)) for piece in re.split(r"[/:@?&=#,+\s]+", part)}
        for part in sorted(parts - self._public - {""}, key=len, reverse=True):
            # A short one would be found inside of words.
            pattern = re.escape(part) if len(part) > 5 else rf"(?<!\w){re.escape(part)}(?!\w)"
            text = re.sub(pattern, "***", text, flags=re.IGNORECASE)
        return text


# What each thread that listens has heard.
_heard: dict[int, list[str]] = {}


def _hear(record: LogRecord) -> bool:
    """Keep a record from every log where this thread listens; a filter, since a handler could not."""
    heard = _heard.get(get_ident())
    if heard is None:
        return True
    if record.levelno >= _log.WARNING:
        error = record.exc_info[1] if record.exc_info else None
        said = _log.record_text(record)
        heard.append(f"{said}: {one_line(error)}" if error else said)
    return False
