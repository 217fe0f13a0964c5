"""Send a message to one of the services that Apprise supports."""

from __future__ import annotations

import re
import time
from _thread import get_ident
from dataclasses import dataclass, field
from hashlib import sha256

from event import EventError, _log
from event._mask import without_credentials
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
_READ_TIMEOUT = 30.0  # seconds without a byte; a service may need time to process a large attachment


def load_ahead() -> None:
    """Import all modules that sending needs. If another thread forked during a later import, the child would hang."""
    import netrc  # noqa: F401

    import apprise

    _file_attachment(apprise)


def _file_attachment(apprise: Any) -> Any:
    """Return Apprise's class for attached files. Its public name differs between versions."""
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
        """The key of this URL in the outbox's journal: a hash, too short to verify a guess of the URL."""
        return sha256(self.url.encode("utf-8", "replace")).hexdigest()[:8]

    def send_event(self, event: Event) -> bool:  # noqa: ARG002  # a handler's signature
        """Send the message.

        :raises EventError: the service did not accept it; the error is the reason, without any part of the URL
        """
        import apprise

        with Listener(self.url) as listener:
            # Create a new object each time: after a fork, two processes would share its connections, and the secret may
            # have changed.
            one = apprise.Apprise(asset=_asset(apprise))
            service = listener.service(apprise, self.label)
            one.add(service)
            limit = service.body_maxlen - (0 if service.title_maxlen else len(self.message.notice.title) + 1)
            kind, body = self.message.body(_preferred_format(service), limit)
            keep_pace(self.url, service.request_rate_per_sec)
            if not one.notify(
                title=self.message.notice.title,
                body=body,
                body_format=getattr(apprise.NotifyFormat, kind),
                notify_type=getattr(apprise.NotifyType, _SEVERITIES.get(self.message.notice.outcome, "INFO")),
                attach=self._attachments(apprise),
            ):
                raise EventError(listener.reason() or "the service did not say why")
        return True

    def _attachments(self, apprise: Any) -> Any:
        """Return the attachments in Apprise's form. Each service gets its own set, since they are stateful."""
        attachments = apprise.AppriseAttachment()
        for name, path in self.message.files:
            file = _file_attachment(apprise)(path=path, name=name)
            file.dirty_path = path  # on Windows, the constructor expands variables in the path
            attachments.add(file)
        return attachments


def _preferred_format(service: Any) -> str:
    """Return the service's preferred format, as its name in Apprise's NotifyFormat."""
    preferred = service.notify_format
    first = preferred[0] if isinstance(preferred, tuple) else preferred
    return str(getattr(first, "value", first)).upper()


def keep_pace(url: str, seconds: float) -> None:
    """Wait until the pause that Apprise requires between two messages to a service has passed.

    Apprise itself limits the rate of each object, but here each message has its own object.
    """
    now = time.monotonic()
    turn = max(now, _turns.get(url, 0.0))
    _turns[url] = turn + seconds
    time.sleep(turn - now)


_turns: dict[str, float] = {}  # when a URL may be used again, by `time.monotonic`


def _asset(apprise: Any) -> Any:
    """Return settings that make Apprise send in the calling thread.

    For a timeout, Apprise 2 would use a pool of threads. A forked process does not have these threads and would hang.
    """
    limit = {"service_timeout": 0} if hasattr(apprise.AppriseAsset, "_service_timeout") else {}
    return apprise.AppriseAsset(async_mode=False, **limit)


class Listener:
    """Captures and suppresses the log records of Apprise in this thread, inside a ``with`` block.

    Apprise logs URLs with their tokens: at DEBUG all of them, at higher levels some.

    :param url: the URL whose parts must not appear in a message
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._public: set[str] = set()

    def __enter__(self) -> Self:
        from logging import getLogger

        for name in ("apprise", "urllib3.connectionpool"):
            getLogger(name).addFilter(_capture)  # adding it again has no effect
        _captured[get_ident()] = []
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        captured = _captured.pop(get_ident())
        if isinstance(error, Exception) and not isinstance(error, EventError):
            raise EventError(self._masked("; ".join([one_line(error), *captured]))) from None

    def reason(self) -> str:
        """Return the messages at WARNING and above on one line, without the URL's parts."""
        return self._masked("; ".join(dict.fromkeys(_captured[get_ident()])))

    def service(self, apprise: Any, label: str) -> Any:
        """Return the Apprise service for the URL.

        :raises EventError: Apprise does not support the URL, or the URL is incomplete
        """
        from contextlib import suppress

        service: Any = None
        with suppress(ValueError, TypeError, AttributeError):  # Apprise 1.6 raises them for an invalid URL
            service = apprise.Apprise.instantiate(self._url, asset=_asset(apprise))
        if service is not None:
            guard(type(service).__module__)
        else:
            # A message with a complete URL shows the ends of its tokens, so leave it out.
            said = "; ".join(text for text in map(self._masked, _captured[get_ident()]) if "://" not in text)
            raise EventError(
                f"apprise: {label} is not a URL that Apprise accepts{': ' * bool(said)}{said}; "
                "expected SCHEME://... as https://appriseit.com/services/ shows for each service"
            )
        given = vars(service)  # the attributes that the URL sets
        given.setdefault("socket_connect_timeout", max(service.socket_connect_timeout, _CONNECT_TIMEOUT))
        given.setdefault("socket_read_timeout", max(service.socket_read_timeout, _READ_TIMEOUT))
        # Split a message that is too long, instead of refusing it; "truncate" would drop all attachments but one.
        given.setdefault("overflow_mode", apprise.OverflowMode.SPLIT)
        # In some URLs, a token takes the place of the host: notica://TOKEN, ntfy://TOPIC.
        named = service.template_tokens.get("host", {"private": True})
        if not named.get("private") and ("." in service.host or service.host == "localhost"):
            self._public = {service.host, str(service.port)}
        return service

    def _masked(self, text: str) -> str:
        """Return text without the URL and its parts, except for a real host name, which is not a token."""
        from urllib.parse import unquote

        rest = self._url.partition("://")[2]
        parts = {piece for part in (rest, unquote(rest)) for piece in re.split(r"[/:@?&=#,+\s]+", part)}
        account = unquote(rest.partition("/")[0].rpartition("@")[0])  # Basic authentication encodes both together
        return without_credentials(text, {self._url, account, *(parts - self._public)})


# The captured messages of each thread that is inside of a `Listener`.
_captured: dict[int, list[str]] = {}


def _capture(record: LogRecord) -> bool:
    """Capture and suppress a log record, if this thread is inside of a `Listener`.

    This is a filter, because a log handler cannot suppress a record.
    """
    captured = _captured.get(get_ident())
    if captured is None:
        return True
    if record.levelno >= _log.WARNING:
        error = record.exc_info[1] if record.exc_info else None
        said = _log.record_text(record)
        captured.append(f"{said}: {one_line(error)}" if error else said)
    return False
