"""Message brokers: publishing events to a queue, and relaying them from there.

Other rooms use these names only:

=====================================  ==============================================================================
`BrokerURL`                            a broker's URL: checked, compared, shown without secrets
`PublisherPool`                        publishes, with confirmation, retries and failover; `OutgoingMessage` is what
`Relay`                                from a queue to a `Sink`, until it is told to stop
`Sink`, `Incoming`, `SinkResult`,      where a relay's events go, and what becomes of a message
`Disposition`
`OutboxSink`, `DirectSink`             sinks of this process; `AttachmentSource` says where S3 attachments may be
`EventMessage`, `InlineFile`,          the message format
`S3Reference`, `encode_message`,
`decode_message`
`RelayState`                           what relays remember about a message
`BrokerError`, `RefusedError`,         what goes wrong
`NotTakenError`, `TooLargeError`
`load_client`, `is_queue_name`,        the client library for a URL; names of queues
`DEFAULT_QUEUE`, `DEAD_SUFFIX`
`connect_consumer`                     a connection that receives
`connect_publisher`                    a connection that publishes
=====================================  ==============================================================================

Importing this package loads none of them, and no client library: a name is loaded when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event._broker.direct_sink import DirectSink
    from event._broker.message import EventMessage, InlineFile, S3Reference, decode_message, encode_message
    from event._broker.outbox_sink import OutboxSink
    from event._broker.publisher import PublisherPool
    from event._broker.queue import (
        DEAD_SUFFIX,
        DEFAULT_QUEUE,
        BrokerError,
        NotTakenError,
        OutgoingMessage,
        ReceivedMessage,
        RefusedError,
        TooLargeError,
        connect_consumer,
        connect_publisher,
        is_queue_name,
        load_client,
    )
    from event._broker.relay import REASON_HEADER, Relay
    from event._broker.sink import Disposition, Incoming, Sink, SinkResult
    from event._broker.state import RelayState
    from event._broker.unpack import AttachmentSource
    from event._broker.url import BrokerURL

_MODULES = {
    "message": ("EventMessage", "InlineFile", "S3Reference", "decode_message", "encode_message"),
    "publisher": ("PublisherPool",),
    "queue": (
        "DEAD_SUFFIX", "DEFAULT_QUEUE", "BrokerError", "NotTakenError", "OutgoingMessage", "ReceivedMessage",
        "RefusedError", "TooLargeError", "connect_consumer", "connect_publisher", "is_queue_name", "load_client",
    ),
    "relay": ("REASON_HEADER", "Relay"),
    "sink": ("Disposition", "Incoming", "Sink", "SinkResult"),
    "direct_sink": ("DirectSink",),
    "outbox_sink": ("OutboxSink",),
    "unpack": ("AttachmentSource",),
    "state": ("RelayState",),
    "url": ("BrokerURL",),
}  # fmt: skip

__all__ = [
    "DEAD_SUFFIX",
    "DEFAULT_QUEUE",
    "REASON_HEADER",
    "AttachmentSource",
    "BrokerError",
    "BrokerURL",
    "DirectSink",
    "Disposition",
    "EventMessage",
    "Incoming",
    "InlineFile",
    "NotTakenError",
    "OutboxSink",
    "OutgoingMessage",
    "PublisherPool",
    "ReceivedMessage",
    "RefusedError",
    "Relay",
    "RelayState",
    "S3Reference",
    "Sink",
    "SinkResult",
    "TooLargeError",
    "connect_consumer",
    "connect_publisher",
    "decode_message",
    "encode_message",
    "is_queue_name",
    "load_client",
]


def __getattr__(name: str) -> object:
    """Load a name when it is first used."""
    from importlib import import_module

    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
