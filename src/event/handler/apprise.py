"""The apprise handler: send each event as a message to the services that Apprise supports."""

from __future__ import annotations

import re
from functools import partial

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
from event._handler import import_extra
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any, ClassVar

    from event._formats.chat import ChatMessage
    from event._net.apprise_service import AppriseService

_EXPECTED = (
    "expected apprise=URLS[,TITLE[,BODY]], where URLS are env:NAME, file:PATH or SCHEME://..., separated by white space"
)

# White space, a comma or a semicolon separates two URLs. A path may contain these characters too.
_BETWEEN_URLS = re.compile(r"(?<![\s,;])[\s,;]+(?=env:|file:|[A-Za-z][\w+.-]*://)")
_SEPARATORS = " \t\r\n\f\v,;"
_URL_START = re.compile(r"env:|file:|[A-Za-z][\w+.-]*://")


class AppriseHandler(EventHandler):
    """Sends each event as a message with title, body, severity and attachments.

    In a template, ``{key}`` is replaced by a value of the event's data, and ``{key.inner}`` by a value in an object.
    Write ``{{`` and ``}}`` for braces. An unknown key remains unchanged.

    :param urls: the Apprise URLs, or secret references to them (``env:NAME``, ``file:PATH``). Pass several in a list,
        or separate them by white space, commas or semicolons. A variable or a file may also contain several URLs
    :param title: the template of the title; empty for one such as ``tests failed on main (exit 1, 4 min 12 s)``
    :param body: the template of the body; empty for the reason, the last lines of the output, the link and the data
    :ivar timeout: the total timeout of a sending in seconds; all services get the message in parallel
    :raises EventError: Apprise is not installed, there is no URL, or Apprise rejects one; the error has its position
    """

    requires: ClassVar[Mapping[str, str]] = {"apprise": "e3-event[apprise]"}
    references: ClassVar[tuple[str, ...]] = ("urls",)

    timeout: float = 60.0

    max_concurrency = 1  # chat services limit how often a client posts

    def __init__(self, urls: str | Iterable[str], title: str = "", body: str = "") -> None:
        import_extra("apprise", self.requires["apprise"])
        # Imported here so that `e3-event check` can list the handler without Apprise.
        import event._formats.chat
        import event._formats.template  # noqa: F401  # loaded ahead on purpose
        from event._net import apprise_service

        apprise_service.load_ahead()
        self.urls: list[str] = _split_urls(urls)
        self.title = title
        self.body = body
        for position, url in enumerate(self.urls, 1):
            _secrets.warn_if_clear(url, f"apprise: URL {position}")
            try:
                found = list(_resolved_urls(url, position))
            except EventError:  # the secret may exist when the event is sent
                continue
            for label, resolved in found:
                apprise_service.require_service(resolved, label)

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``urls,title,body``. Further commas are part of the body.

        :raises EventError: there is no URL
        """
        fields = _handler_config.split_fields(_config_str, 3)
        if not fields[0].strip():
            raise EventError(f"apprise: no URL; {_EXPECTED}")
        if any(map(_URL_START.match, fields[1:2])):
            raise EventError(f"apprise: the title looks like a URL; {_EXPECTED}")
        return dict(zip(("urls", "title", "body"), fields, strict=False))

    def encode_config(self) -> str:
        """Return ``urls,title,body``, without empty values at the end."""
        return self._encoded(self.urls)

    def config_for_outbox(self) -> str:
        """Return the configuration with absolute paths, for a process in another directory."""
        return self._encoded([_secrets.absolute_reference(url) for url in self.urls])

    def _encoded(self, urls: list[str]) -> str:
        fields = [" ".join(urls), self.title, self.body]
        while not fields[-1]:
            fields.pop()
        return _handler_config.join_fields(fields, last_whole=len(fields) == 3)

    def send_events(self, events: Sequence[Event]) -> list[bool | BaseException]:
        """Send several events: up to five in separate messages, more in one message that lists them.

        :return: for each event, the return value or the exception of `send_event`
        """
        from event._formats.chat import digest_about
        from event._formats.digest import DIGEST_OVER

        # Send separate messages if a service already has an event, or if a subclass has its own `send_event`.
        is_own = type(self).send_event is AppriseHandler.send_event
        if len(events) <= DIGEST_OVER or any(map(already_delivered, events)) or not is_own:
            return [_dispatch.result_in_batch(partial(self.send_event, event)) for event in events]
        return [_dispatch.result_in_batch(lambda: self._send(events[0], digest_about(events)))] * len(events)

    def send_event(self, event: Event) -> bool:
        """Send an event to all services that do not have it yet, in parallel.

        Each failure is logged as a warning. If an attachment cannot be read, no service gets the event.

        :return: whether every service has accepted the message; False if none has
        :raises PartialDeliveryError: only some services have accepted it; a retry may reach the others
        :raises EventError: the data contains itself
        """
        from event._formats.chat import message_about
        from event._formats.template import Templates

        return self._send(event, message_about(event, Templates(self.title, self.body)))

    def _send(self, event: Event, message: ChatMessage) -> bool:
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

    def _services(self, message: ChatMessage) -> tuple[dict[str, AppriseService], dict[str, str]]:
        """Return the services by label, and the errors of the references that cannot be resolved."""
        from event._net.apprise_service import AppriseService

        services: dict[str, AppriseService] = {}
        failures: dict[str, str] = {}
        for position, url in enumerate(self.urls, 1):
            try:
                found = _resolved_urls(url, position)
                services |= {label: AppriseService(label, resolved, message) for label, resolved in found}
            except EventError as error:
                failures[f"URL {position}"] = one_line(error).removeprefix("apprise: ")
        return services, failures


def _split_urls(urls: str | Iterable[str]) -> list[str]:
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
    """Yield a label for messages and the URL, for each URL of a reference."""
    lines = _secrets.resolve_secret(url, "apprise").splitlines()
    found = [resolved for line in lines for resolved in _split(line)]
    if not found:
        raise EventError(f"apprise: {url} contains no URL")
    for number, resolved in enumerate(found, 1):
        yield f"URL {number} of {url}" if _secrets.is_reference(url) else f"URL {position}", resolved
