"""The http handler: post each event to a URL."""

from __future__ import annotations

from event import Event, EventError, EventHandler, PermanentError, _handler_config, _log, _secrets, sending_id
from event._formats import cloudevents
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from event._net.deadline import Deadline
    from event._net.http import Response, Target

_FORMATS = ("cloudevents", "cdevents", "json")
_HTTP_OPTIONS = ("source", "type", "cdevents", "timeout")
_EXPECTED = (
    "expected http=URL,FORMAT,SECRET and then source=..., type=..., cdevents=..., timeout=... as needed; "
    "all but the URL may be left out"
)
_POST_TIMEOUT = 30.0  # seconds; the longest timeout that Standard Webhooks recommends
_SUBJECT = "http: the URL"  # in errors


class HTTPHandler(EventHandler):
    """Posts each event to a URL.

    The handler uses the proxies of ``HTTPS_PROXY``, ``NO_PROXY`` and similar variables, or of the system's settings. It
    verifies certificates with the system's certificate authorities, or with those in the file ``SSL_CERT_FILE``.

    :param url: the URL, or a secret reference to it (``env:NAME``, ``file:PATH``), which is resolved when an event is
        sent. A user and a password in the URL are sent in the Authorization header
    :param format: ``cloudevents``, ``cdevents`` or ``json``
    :param secret: the key of the Standard Webhooks signature: ``whsec_`` and the key in base64, or preferably a secret
        reference to it
    :param source: the attribute ``source`` of CloudEvents and CDEvents, a URI reference
    :param type: the attribute ``type`` of CloudEvents; ``{name}`` is replaced by the event's name
    :param cdevents: the version of CDEvents
    :param timeout: the total timeout of a sending in seconds, including retries after ``Retry-After``
    :raises EventError: an argument is invalid
    """

    references: ClassVar[tuple[str, ...]] = ("url", "secret")

    def __init__(  # noqa: PLR0913  # what can be configured
        self,
        url: str,
        format: str = "cloudevents",  # noqa: A002  # the name of what the configuration says
        secret: str = "",
        *,
        source: str = "",
        type: str = "",  # noqa: A002  # CloudEvents' own name
        cdevents: str = cloudevents.CDEVENTS_DEFAULT,
        timeout: float = _POST_TIMEOUT,
    ) -> None:
        # Imported now, not during a sending: while one thread imports, another may fork.
        from event._net import http, webhook

        self.url = url
        self.format: str = _one_of("the format", format, _FORMATS)
        self.secret = secret
        self.source: str = _uri_reference(source)
        self.type = type
        self.cdevents: str = _one_of("the version in cdevents=", cdevents, cloudevents.CDEVENTS_VERSIONS)
        self.timeout: float = _handler_config.positive_seconds(timeout, "http: the timeout")
        if not _secrets.is_reference(url) and http.Target.parse(url, _SUBJECT).has_secret:
            _secrets.warn_if_clear(url, "http: the URL, with a user or a query,")
        if not _secrets.is_reference(secret):
            webhook.keys(secret)
            _secrets.warn_if_clear(secret, "http: the signing secret")
        self._client = http.Client()  # all sendings and threads share it

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``url,format,secret[,key=value...]``.

        :raises EventError: a value after the secret is not ``key=value``, or a key is unknown
        """
        url, *fields = _handler_config.split_fields(_config_str)
        config: dict[str, Any] = {"url": url}
        config.update((name, value) for name, value in zip(("format", "secret"), fields, strict=False) if value)
        return config | _handler_config.decode_options("http", fields[2:], _HTTP_OPTIONS, 4, _EXPECTED)

    def encode_config(self) -> str:
        """Return ``url,format,secret``, then each value that differs from its default as ``key=value``."""
        return self._encoded(self.url, self.secret)

    def config_for_outbox(self) -> str:
        """Return the configuration with absolute paths, for a process in another directory."""
        return self._encoded(_secrets.absolute_reference(self.url), _secrets.absolute_reference(self.secret))

    def send_event(self, event: Event) -> bool:
        """Post the event.

        If a response has a Retry-After that ends within the timeout, the handler waits and posts the event again, with
        the same webhook-id.

        :return: whether the server accepted the event (2xx); if not, the reason is logged as a warning
        :raises PermanentError: the server has refused the event permanently
        :raises EventError: the data contains itself; nothing was posted
        """
        sending = sending_id(event)
        content_type, body = self._body(event, sending)

        from event._net.deadline import Deadline
        from event._net.http import FAILURES, Target, http_reason

        shown = self.url if _secrets.is_reference(self.url) else ""
        try:
            target = Target.parse(_secrets.resolve_secret(self.url, _SUBJECT), _SUBJECT)
            shown = shown or target.shown
            answer = self._post(target, content_type, body, sending, Deadline(self.timeout))
        except EventError as error:
            _log.not_delivered(event, one_line(error))
            return False
        except FAILURES as error:
            _log.not_delivered(event, f"http: {shown}: {http_reason(error)}")
            return False
        if not answer.taken and not answer.temporary:
            raise PermanentError(f"http: {shown}: {answer}")
        if not answer.taken:
            _log.not_delivered(event, f"http: {shown}: {answer}")
        return answer.taken

    def _body(self, event: Event, sending: str) -> tuple[str, bytes]:
        if self.format == "json":
            return "application/json", cloudevents.as_json(event).encode()
        if self.format == "cdevents":
            text = cloudevents.as_cdevent(event, sending, self.source, self.cdevents)
        else:
            text = cloudevents.as_cloudevent(event, sending, self.source, self.type)
        return cloudevents.CONTENT_TYPE, text.encode()

    def _post(self, target: Target, content_type: str, body: bytes, sending: str, deadline: Deadline) -> Response:
        from event._net.http import repeated
        from event._net.webhook import sign

        secret = _secrets.resolve_secret(self.secret, "http: the signing secret")

        def post() -> Response:
            headers = {"Content-Type": content_type, "User-Agent": "e3-event", **sign(secret, sending, body)}
            return self._client.post(target, body, headers, deadline)

        return repeated(post, deadline)

    def _encoded(self, url: str, secret: str) -> str:
        usual = {"source": "", "type": "", "cdevents": cloudevents.CDEVENTS_DEFAULT, "timeout": _POST_TIMEOUT}
        options = [f"{key}={getattr(self, key)}" for key in _HTTP_OPTIONS if getattr(self, key) != usual[key]]
        fields = [url, self.format, secret, *options]
        return _handler_config.join_fields(fields if secret or options else fields[:2])


def _one_of(what: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        # The message has no value: it may be a secret in the wrong field.
        raise EventError(f"http: {what} is unknown; expected one of {', '.join(known)}")
    return value


def _uri_reference(value: str) -> str:
    if not cloudevents.is_uri_reference(value):
        raise EventError(f"http: the source is {value!r}; expected a URI reference, such as /ci/nightly")
    return value
