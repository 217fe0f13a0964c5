"""The apprise handler: each event becomes a message, to any of the services that Apprise knows."""

from __future__ import annotations

import re
import time
from _thread import get_ident
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256

from event import (
    Event,
    EventError,
    EventHandler,
    PartialDeliveryError,
    _dispatch,
    _handler_config,
    _log,
    _secrets,
    already_delivered,
)
from event._formats.chat import digest_about, message_about
from event._formats.digest import DIGEST_OVER
from event._formats.template import Templates
from event._handler import import_extra
from event._net.guarded_requests import guard
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from logging import LogRecord
    from typing import Any, ClassVar

    from typing_extensions import Self

    from event._formats.chat import ChatMessage

_EXPECTED = (
    "expected apprise=URLS[,TITLE[,BODY]], where URLS are env:NAME, file:PATH or SCHEME://..., white space between them"
)

# White space, a comma or a semicolon separates two URLs; a path may hold some too.
_BETWEEN_URLS = re.compile(r"(?<![\s,;])[\s,;]+(?=env:|file:|[A-Za-z][\w+.-]*://)")
_SEPARATORS = " \t\r\n\f\v,;"
_URL_START = re.compile(r"env:|file:|[A-Za-z][\w+.-]*://")
_SEVERITIES = {"success": "SUCCESS", "failure": "FAILURE", "cancel": "WARNING"}  # outcome: name in Apprise's NotifyType

_CONNECT_TIMEOUT = 10.0  # seconds; Apprise's 4 are short for a proxy
_READ_TIMEOUT = 30.0  # seconds without a byte; a service that has got a large attachment takes its time to answer


class AppriseHandler(EventHandler):
    """Sends each event as a message with title, body, severity and attachments.

    A template is text with ``{key}`` for a value of the event's data, ``{key.inner}`` for one inside of it, ``{{`` and
    ``}}`` for braces. An unknown key stays as it is.

    :param urls: references to the Apprise URLs, ``env:NAME`` or ``file:PATH``, or the URLs themselves; several in a
        list, or separated by white space, commas or semicolons. A variable or a file may contain several too.
    :param title: the title's template; empty for one such as ``tests failed on main (exit 1, 4 min 12 s)``
    :param body: the body's template; empty for the reason, the last lines of the output, the link and the data
    :ivar timeout: seconds for a whole sending, to all services in parallel
    :raises EventError: Apprise is not installed, there is no URL, or Apprise rejects one; the error names its position
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
        # A service that has one of them already must not get it again; a subclass may send an event in its own way.
        is_own = type(self).send_event is AppriseHandler.send_event
        if len(events) <= DIGEST_OVER or any(map(already_delivered, events)) or not is_own:
            return [_dispatch.result_in_batch(partial(self.send_event, event)) for event in events]
        return [_dispatch.result_in_batch(lambda: self._send(events[0], digest_about(events)))] * len(events)

    def send_event(self, event: Event) -> bool:
        """Send an event to all services that do not have it yet, in parallel.

        Each reason for a failure is logged as a warning. If an attachment cannot be read, no service gets the event.

        :return: whether every service has taken the message; False if none has
        :raises PartialDeliveryError: some have; another attempt may reach the others
        :raises EventError: the data contains itself
        """
        return self._send(event, message_about(event, Templates(self.title, self.body)))

    def _send(self, event: Event, message: ChatMessage) -> bool:
        """Send a message to the services; see `send_event`."""
        if problem := message.problem():
            _log.not_delivered(event, f"apprise: {problem}")
            return False
        services, failures = self._services(message)
        finished = already_delivered(event)
        pending = {label: service for label, service in services.items() if service.key not in finished}
        outcome = _dispatch.dispatch(pending, event, self.timeout)
        failures |= {delivery.handler: delivery.reason for delivery in outcome if not delivery}
        for label, reason in failures.items():
            _log.not_delivered(event, f"apprise: {label}: {reason}")
        delivered = finished | {service.key for label, service in services.items() if label not in failures}
        if not failures or not delivered:
            return not failures
        raise PartialDeliveryError(
            f"apprise: {'; '.join(f'{label}: {reason}' for label, reason in failures.items())}",
            done=delivered,
            remaining=failures,
        )

    def _services(self, message: ChatMessage) -> tuple[dict[str, _Service], dict[str, str]]:
        """Return the services by their labels, and why a reference leads to none."""
        services: dict[str, _Service] = {}
        failures: dict[str, str] = {}
        for position, url in enumerate(self.urls, 1):
            try:
                found = _resolved_urls(url, position)
                services |= {label: _Service(label, resolved, message) for label, resolved in found}
            except EventError as error:
                failures[f"URL {position}"] = one_line(error).removeprefix("apprise: ")
        return services, failures


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
    found = [url for text in texts for url in _split(text)]
    if not found:
        raise EventError(f"apprise: no URL; {_EXPECTED}")
    for position, url in enumerate(found, 1):
        if not _URL_START.match(url):
            raise EventError(f"apprise: URL {position} is neither a URL nor a reference; {_EXPECTED}")
    return found


def _split(text: str) -> list[str]:
    return _BETWEEN_URLS.split(text.strip(_SEPARATORS)) if text.strip(_SEPARATORS) else []


def _resolved_urls(url: str, position: int) -> Iterator[tuple[str, str]]:
    """Yield the label for messages and the URL, for each URL that a reference leads to.

    :raises EventError: the reference leads to nothing
    """
    lines = _secrets.resolve_secret(url, "apprise").splitlines()
    found = [resolved for line in lines for resolved in _split(line)]
    if not found:
        raise EventError(f"apprise: {url} holds no URL")
    for number, resolved in enumerate(found, 1):
        yield f"URL {number} of {url}" if _secrets.is_reference(url) else f"URL {position}", resolved


@dataclass(frozen=True, slots=True)
class _Service:
    """One URL, as a handler of its own: `_dispatch` runs all of them side by side."""

    label: str
    url: str = field(repr=False)
    message: ChatMessage

    @property
    def key(self) -> str:
        """Return the URL's mark in the outbox's journal: too short to confirm a guess of what the URL contains."""
        return sha256(self.url.encode("utf-8", "replace")).hexdigest()[:8]

    def send_event(self, event: Event) -> bool:  # noqa: ARG002  # a handler's signature
        """Send the message.

        :raises EventError: the service has not taken it; the error is the reason and contains nothing of the URL
        """
        apprise = import_extra("apprise", AppriseHandler.requires["apprise"])
        with _Listener(self.url) as listener:
            # A new one each time: it holds no connection that a fork would share, and reads the secret as it is now.
            one = apprise.Apprise(asset=_asset(apprise))
            service = listener.service(apprise, self.label)
            one.add(service)
            limit = service.body_maxlen - (0 if service.title_maxlen else len(self.message.title) + 1)
            kind, body = self.message.body(_preferred_format(service), limit)
            _keep_pace(self.url, service.request_rate_per_sec)
            if not one.notify(
                title=self.message.title,
                body=body,
                body_format=getattr(apprise.NotifyFormat, kind),
                notify_type=getattr(apprise.NotifyType, _SEVERITIES.get(self.message.outcome, "INFO")),
                attach=self._attachments(apprise),
            ):
                raise EventError(listener.reason() or "the service did not say why")
        return True

    def _attachments(self, apprise: Any) -> Any:
        """Return the attachments as Apprise takes them; a set for each service, since they keep a state."""
        attachments = apprise.AppriseAttachment()
        for name, path in self.message.files:
            file = _file_attachment(apprise)(path=path, name=name)
            file.dirty_path = path  # its constructor expands what looks like a variable, on Windows
            attachments.add(file)
        return attachments


def _preferred_format(service: Any) -> str:
    """Return the name in Apprise's NotifyFormat."""
    preferred = service.notify_format
    first = preferred[0] if isinstance(preferred, tuple) else preferred
    return str(getattr(first, "value", first)).upper()


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
