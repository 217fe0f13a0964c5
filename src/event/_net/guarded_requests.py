"""Apply the rules of our HTTP client to the package `requests`, which the services of Apprise use.

By default, `requests` sends passwords of ``.netrc`` to any server. It follows redirects to other hosts, where a POST
becomes a GET. It reads answers of any size, and it has its own rules for ``NO_PROXY``.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial

from event._net.proxies import proxies_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LINGER = 2.0  # seconds for the rest of a response whose status shows that the service has the message
_MAX_ANSWER = 1 << 20  # bytes


def guard(module: str) -> None:
    """Replace `requests` by the guarded version, in a module that has imported it."""
    namespace = vars(sys.modules[module])
    if getattr(namespace.get("requests"), "__name__", "") == "requests":
        namespace["requests"] = _GuardedRequests(namespace["requests"])


class _GuardedRequests:
    """Replaces `requests`. The functions that send are guarded; everything else is unchanged."""

    def __init__(self, requests: Any) -> None:
        self._requests = requests

    def __getattr__(self, name: str) -> Any:
        if name in {"get", "post", "put", "delete", "patch", "head", "options"}:
            return partial(self._send, name)
        return getattr(self._requests, name)

    def _send(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        return self.request(method, url, **_named(method, args), **kwargs)

    def request(self, method: str, url: str, **kwargs: Any) -> Any:
        """Send a request; return its response, which has been read."""
        kwargs.update(allow_redirects=False, stream=True)
        if kwargs.get("verify") in {None, True}:
            kwargs["verify"] = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        with self._requests.Session() as session:
            session.trust_env = False  # ignore .netrc, and the library's own rules for proxies
            session.proxies = proxies_for(url)
            answer = session.request(method, url, **kwargs)
            answer.raw = _Bounded(answer.raw, is_taken=200 <= answer.status_code < 300)
            answer.content  # noqa: B018  # reads it, while the session is open
            return answer


def _named(method: str, args: tuple[Any, ...]) -> dict[str, Any]:
    """Return the positional arguments after the URL as keyword arguments of `requests`."""
    names = {"get": ("params",), "post": ("data", "json")}.get(method, ("data",))
    return dict(zip(names, args, strict=False))


class _Bounded:
    """The beginning of a response.

    :param is_taken: whether the service has the message. If the response then stalls or breaks off, this is its end
        and not an error, because a retry would send the message again
    """

    def __init__(self, raw: Any, *, is_taken: bool) -> None:
        self._raw = raw
        self._left = _MAX_ANSWER
        self._is_taken = is_taken
        self._end = time.monotonic() + LINGER
        self._read = getattr(raw, "read1", raw.read)  # returns the available data without waiting for more
        sock = getattr(getattr(raw, "connection", None), "sock", None)
        if is_taken and sock:
            sock.settimeout(LINGER)

    def read(self, size: int) -> bytes:
        if not self._left or (self._is_taken and time.monotonic() >= self._end):
            return b""
        try:
            data: bytes = self._read(min(size, self._left), decode_content=True)
        except Exception:
            if not self._is_taken:
                raise
            return b""
        self._left -= min(len(data), self._left)
        return data

    def close(self) -> None:
        """Close the connection, even if more data may follow."""
        self._raw.close()

    def release_conn(self) -> None:
        """Do nothing, since the connection is not reused."""
