"""Send a message to one of the services that Apprise supports."""

from __future__ import annotations

import re
import time
from _thread import get_ident
from dataclasses import dataclass, field
from hashlib import sha256

from event import EventError, _log
from event._net.guarded_requests import guard
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from logging import LogRecord
    from typing import Any

    from typing_extensions import Self

    from event import Event
    from event._formats.chat import ChatMessage

_SEVERITIES = {"success": "SUCCESS", "failure": "FAILURE", "cancel": "WARNING"}  # outcome: name in Apprise's NotifyType

_CONNECT_TIMEOUT = 10.0  # seconds; Apprise's 4 are short for a proxy
_READ_TIMEOUT = 30.0  # seconds without a byte; a service that has got a large attachment takes its time to answer


def load_ahead() -> None:
    """Import all modules that sending needs: while one thread imports, another may fork."""
    import netrc  # noqa: F401

    import apprise

    _file_attachment(apprise)


def _file_attachment(apprise: Any) -> Any:
    """Return the class of attached files, which has no public name that all versions share."""
    return type(apprise.AppriseAttachment.instantiate("file:///attachment"))


def require_service(url: str, label: str) -> None:
    """Raise EventError if Apprise does not support a URL."""
    import apprise

    with Listener(url) as listener:
        listener.service(apprise, label)


@dataclass(frozen=True, slots=True)
class AppriseService:
    """A handler for one URL. `_dispatch` runs the handlers of all URLs in parallel."""

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
        import apprise

        with Listener(self.url) as listener:
            # A new one each time: it holds no connection that a fork would share, and reads the secret as it is now.
            one = apprise.Apprise(asset=_asset(apprise))
            service = listener.service(apprise, self.label)
            one.add(service)
            limit = service.body_maxlen - (0 if service.title_maxlen else len(self.message.title) + 1)
            kind, body = self.message.body(_preferred_format(service), limit)
            keep_pace(self.url, service.request_rate_per_sec)
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
        """Return the attachments in Apprise's form. Each service gets its own set, since they are stateful."""
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


def keep_pace(url: str, seconds: float) -> None:
    """Wait until the pause that Apprise requires between two messages to a service has passed.

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


class Listener:
    """Captures and suppresses the log records of Apprise in this thread, inside a ``with`` block.

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
        """Return the messages at WARNING and above on one line, without the URL's parts."""
        return self._masked("; ".join(dict.fromkeys(_heard[get_ident()])))

    def service(self, apprise: Any, label: str) -> Any:
        """Return the Apprise service for the URL.

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
        """Return text without the URL and its parts, except for a real host name, which is not a token."""
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
    """Suppress and capture a log record if this thread is listening. Only a filter can suppress a record."""
    heard = _heard.get(get_ident())
    if heard is None:
        return True
    if record.levelno >= _log.WARNING:
        error = record.exc_info[1] if record.exc_info else None
        said = _log.record_text(record)
        heard.append(f"{said}: {one_line(error)}" if error else said)
    return False
