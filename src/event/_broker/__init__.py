"""Message brokers: publish events to a queue, and relay them from a queue to handlers.

Other packages use only these names:

=====================================  ==============================================================================
`BrokerURL`                            a broker's URL: parse, compare, and show it without secrets
`PublisherPool`                        publish messages, with confirmation, retries and failover
`OutgoingMessage`                      a message to publish
`ReceivedMessage`                      a message that was received and is not acknowledged yet
`Relay`                                pass messages from a queue to a `Sink`
`REASON_HEADER`                        the header with the reason why a message was dead-lettered
`Sink`                                 the protocol of a relay's destination
`Incoming`                             a message for a sink
`SinkResult`, `Disposition`            the result of a sink: what to do with the message
`OutboxSink`, `DirectSink`             sinks that store events in an outbox, or give them directly to handlers
`AttachmentSource`                     download attachments from S3
`EventMessage`                         the content of a message
`InlineFile`, `S3Reference`            an attachment in a message: its content, or its location in S3
`encode_message`, `decode_message`     convert an `EventMessage` to the body of a message, and back
`RelayState`                           the state that relays store in a message's header, such as the attempts
`BrokerError`, `RefusedError`,         errors of a broker, see `event._broker.queue`
`NotAcceptedError`, `TooLargeError`
`load_client`                          import the client library for a URL
`connect_consumer`                     open a connection that receives messages
`connect_publisher`                    open a connection that publishes messages
`is_queue_name`                        return whether a text is a valid queue name
`DEFAULT_QUEUE`, `DEAD_SUFFIX`         the default queue's name; the suffix of a dead-letter queue's name
=====================================  ==============================================================================

Importing this package imports no submodule and no client library. A name is imported when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event._broker.direct_sink import DirectSink as DirectSink
    from event._broker.message import EventMessage as EventMessage
    from event._broker.message import InlineFile as InlineFile
    from event._broker.message import S3Reference as S3Reference
    from event._broker.message import decode_message as decode_message
    from event._broker.message import encode_message as encode_message
    from event._broker.outbox_sink import OutboxSink as OutboxSink
    from event._broker.publisher import PublisherPool as PublisherPool
    from event._broker.queue import DEAD_SUFFIX as DEAD_SUFFIX
    from event._broker.queue import DEFAULT_QUEUE as DEFAULT_QUEUE
    from event._broker.queue import BrokerError as BrokerError
    from event._broker.queue import NotAcceptedError as NotAcceptedError
    from event._broker.queue import OutgoingMessage as OutgoingMessage
    from event._broker.queue import ReceivedMessage as ReceivedMessage
    from event._broker.queue import RefusedError as RefusedError
    from event._broker.queue import TooLargeError as TooLargeError
    from event._broker.queue import connect_consumer as connect_consumer
    from event._broker.queue import connect_publisher as connect_publisher
    from event._broker.queue import is_queue_name as is_queue_name
    from event._broker.queue import load_client as load_client
    from event._broker.relay import REASON_HEADER as REASON_HEADER
    from event._broker.relay import Relay as Relay
    from event._broker.sink import Disposition as Disposition
    from event._broker.sink import Incoming as Incoming
    from event._broker.sink import Sink as Sink
    from event._broker.sink import SinkResult as SinkResult
    from event._broker.state import RelayState as RelayState
    from event._broker.unpack import AttachmentSource as AttachmentSource
    from event._broker.url import BrokerURL as BrokerURL

_MODULES = {
    "message": ("EventMessage", "InlineFile", "S3Reference", "decode_message", "encode_message"),
    "publisher": ("PublisherPool",),
    "queue": (
        "DEAD_SUFFIX", "DEFAULT_QUEUE", "BrokerError", "NotAcceptedError", "OutgoingMessage", "ReceivedMessage",
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


def __getattr__(name: str) -> object:
    """Import a name on first use."""
    from importlib import import_module

    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
