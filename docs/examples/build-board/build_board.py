"""Post events to a build board: an HTTP server that shows the state of the builds."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from typing import Any

from event import Event, EventError, EventHandler


class BoardHandler(EventHandler):
    """Posts each event to a board as JSON.

    :param url: the board's address
    :param timeout: how long to wait for the board, in seconds
    :raises EventError: url is not an HTTP address
    """

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
            raise EventError(
                f"board: the address is {url!r}; expected board=URL or board=URL,SECONDS, with http or https"
            )
        self.url = url
        self.timeout = timeout

    @classmethod
    def decode_config(cls, config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``url`` or ``url,timeout``."""
        url, _, timeout = config_str.partition(",")
        try:
            return {"url": url, "timeout": float(timeout or 10.0)}
        except ValueError as error:
            raise EventError(f"board: the timeout is {timeout!r}; expected a number of seconds") from error

    def encode_config(self) -> str:
        """Return ``url,timeout``."""
        return f"{self.url},{self.timeout:g}"

    def send_event(self, event: Event) -> bool:
        """Post the event.

        :raises OSError: the board cannot be reached or refuses the event; the manager logs the reason
        """
        body = json.dumps(event.as_dict(), default=str).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=self.timeout) as answer:
            return answer.status < 300
