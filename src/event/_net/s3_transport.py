"""Send the requests of boto3, with the proxy of `event._net.proxies` and a size limit for responses."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from botocore.awsrequest import AWSPreparedRequest, AWSResponse
    from botocore.httpsession import URLLib3Session

CONNECT_TIMEOUT = 10  # seconds
READ_TIMEOUT = 30  # seconds without a byte
_MAX_RESPONSE = 1 << 20  # bytes; only the content of an object may be longer


class S3Transport:
    """Sends the requests of a boto3 client. It replaces the HTTP client of botocore.

    :param verify: True to check certificates, or the file with the trusted certificates
    """

    def __init__(self, verify: bool | str) -> None:
        self._verify = verify
        self._sessions: dict[str, URLLib3Session] = {}  # by proxy

    def send(self, request: AWSPreparedRequest, **_kwargs: Any) -> AWSResponse:
        """Send a request; return the response. Its body is read now, unless it is the content of an object."""
        from botocore.exceptions import HTTPClientError
        from urllib3.exceptions import HTTPError

        is_content, request.stream_output = request.stream_output, True
        response = self._session(request.url).send(request)
        request.stream_output = is_content
        response.raw = _Body(response.raw)
        if not is_content:
            try:
                response.content  # noqa: B018  # reads the body and keeps it
            except HTTPError as error:
                raise HTTPClientError(error=error) from error
        return response

    def _session(self, url: str) -> URLLib3Session:
        from botocore import httpsession

        from event._net.proxies import proxies_for

        proxies = proxies_for(url)
        key = "".join(proxies.values())
        if key not in self._sessions:
            new_session: Any = httpsession.URLLib3Session  # its annotations are too narrow
            self._sessions[key] = new_session(self._verify, proxies, (CONNECT_TIMEOUT, READ_TIMEOUT))
        return self._sessions[key]


class _Body:
    """The body of a response. `read` has no limit, for an object's content; `stream` returns only the beginning."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    @property
    def closed(self) -> bool:
        return bool(self._raw.closed)

    def read(self, size: int) -> bytes:
        """Return the next bytes that are available, at most `size`."""
        data: bytes = self._raw.read1(size)
        return data

    def stream(self) -> Iterator[bytes]:
        """Yield the first `_MAX_RESPONSE` bytes in parts, then close the body."""
        left = _MAX_RESPONSE
        while left and (data := self.read(left)):
            left -= len(data)
            yield data
        self.close()

    def close(self) -> None:
        """Close the connection, unless the body was read to its end."""
        self._raw.close()
