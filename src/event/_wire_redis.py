"""kombu's way to Redis, over sockets each of whose waits ends with a clock."""

from __future__ import annotations

import redis
from kombu.transport import redis as transport

from event._wire import open_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from event._wire import Watch


class _Connection(redis.Connection):
    """A connection, with TLS or without.

    :param watch: what its waits end with
    :param tls: what `kombu.Connection` has as ``ssl``
    """

    def __init__(self, *, watch: Watch, tls: Any, **more: Any) -> None:
        super().__init__(**more)  # type: ignore[no-untyped-call]
        self._watch = watch
        self._tls = tls

    def _connect(self) -> socket.socket:
        return open_socket(self.host, self.port, self._watch, self._tls)


class _Channel(transport.Channel):
    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        client = self.connection.client
        parameters: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        parameters = {name: value for name, value in parameters.items() if not name.startswith("ssl_")}
        return {
            **parameters, "connection_class": _Connection, "watch": client.watch, "tls": client.ssl,
        }  # fmt: skip


class RedisTransport(transport.Transport):
    """kombu's way to Redis."""

    Channel = _Channel
