"""The adapter for Amazon SQS, which uses boto3. Boto3 finds the account, region, credentials and endpoint."""

from __future__ import annotations

import time
from typing import Any

from boto3 import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from event._broker.queue import (
    DEAD_SUFFIX,
    MESSAGE_LEASE,
    MESSAGE_TYPE,
    OPERATION_TIMEOUT,
    BrokerError,
    MaskedErrors,
    NotAcceptedError,
    OutgoingMessage,
    ReceivedMessage,
    RefusedError,
    TooLargeError,
)
from event._net.s3 import botocore_reason, mask_errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from event._broker.url import Address, BrokerURL

_LONG_POLL = 10  # seconds of one long poll
_BATCH = 10  # messages in one request; the limit of SQS
_RETENTION = 14 * 86400  # seconds that SQS keeps a message; its limit
_MAX_DELAY = 900  # seconds; the limit of SQS
_VISIBILITY = int(2 * MESSAGE_LEASE)  # seconds until SQS redelivers an unacknowledged message
_ID_ATTRIBUTE = "e3-event-id"
_RECEIVED = "ApproximateReceiveCount"
_NO_SUCH_QUEUE = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
_REFUSED_CODES = frozenset(
    {
        "AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken",
        "UnrecognizedClientException", "InvalidAccessKeyId", "AuthFailure",
    }
)  # fmt: skip
_THROTTLED = frozenset({"RequestThrottled", "Throttling", "ThrottlingException", "OverLimit"})


def connect_publisher(url: BrokerURL, address: Address, timeout: float) -> SQSPublisher:
    """Return a client that publishes; see `queue.connect_publisher`. It connects when it publishes."""
    return SQSPublisher(url, _client(address, min(timeout, OPERATION_TIMEOUT)))


def connect_consumer(url: BrokerURL, address: Address, queue: str, prefetch: int) -> SQSConsumer:  # noqa: ARG001  # as in `queue`
    """Return a client that receives from a queue; see `queue.connect_consumer`."""
    return SQSConsumer(url, _client(address, _LONG_POLL + OPERATION_TIMEOUT), queue)


class SQSPublisher:
    """A client that publishes; see `queue.Publisher`."""

    def __init__(self, url: BrokerURL, client: Any) -> None:
        self._errors = MaskedErrors(url, broker_error, named=False)
        self._client = client
        self._queues: dict[str, str] = {}

    def publish(self, queue: str, message: OutgoingMessage, timeout: float) -> None:  # noqa: ARG002  # the client has its own timeout
        """Send a message and wait for the answer."""
        with self._errors:
            if queue not in self._queues:
                self._queues[queue] = queue_url(self._client, queue)
            try:
                _send(self._client, self._queues[queue], message)
            except ClientError:
                del self._queues[queue]  # the queue may have been deleted
                raise

    def close(self, timeout: float) -> None:  # noqa: ARG002  # as in `Publisher`
        """Close the connections."""
        self._client.close()

    def abandon(self) -> None:
        """Close this process's copies of the sockets, without sending anything."""
        self._client.close()


class SQSConsumer:
    """A client that receives; see `queue.Consumer`."""

    poll_interval = float(_LONG_POLL)

    def __init__(self, url: BrokerURL, client: Any, queue: str) -> None:
        self._errors = MaskedErrors(url, broker_error, named=False)
        self._client = client
        self._queue = queue
        self._held: dict[str, None] = {}
        self._last_extension = time.monotonic()
        self._dead_letter_url = ""
        self._queue_url = queue_url(client, queue)

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Return up to `limit` messages, with one request for each ten; wait for the first request's messages."""
        messages: list[ReceivedMessage] = []
        with self._errors:
            self._extend()
            seconds = min(-int(-wait // 1), _LONG_POLL)
            while len(messages) < limit and (found := self._receive(min(limit - len(messages), _BATCH), seconds)):
                messages += found
                seconds = 0
        return messages

    def acknowledge(self, messages: Sequence[ReceivedMessage]) -> None:
        """Delete messages, with one request for each ten."""
        with self._errors:
            for tokens in _batches([message.ack_token for message in messages]):
                entries = [{"Id": str(number), "ReceiptHandle": token} for number, token in enumerate(tokens)]
                answer = self._client.delete_message_batch(QueueUrl=self._queue_url, Entries=entries)
                if failed := answer.get("Failed"):
                    raise BrokerError(f"a message was not deleted: {failed[0].get('Message', '')}")
                for token in tokens:
                    self._held.pop(token, None)

    def requeue(self, message: ReceivedMessage, headers: Mapping[str, str], delay: float = 0.0) -> None:
        """Send a message once more, and delete the received one."""
        with self._errors:
            _send(self._client, self._queue_url, OutgoingMessage(message.body, message.id, headers), delay)
        self.acknowledge([message])

    def dead_letter(self, message: ReceivedMessage, headers: Mapping[str, str]) -> None:
        """Send a message to the dead-letter queue, and delete the received one."""
        with self._errors:
            self._dead_letter_url = self._dead_letter_url or queue_url(self._client, self._queue + DEAD_SUFFIX)
            _send(self._client, self._dead_letter_url, OutgoingMessage(message.body, message.id, headers))
        self.acknowledge([message])

    def keep_alive(self) -> None:
        """Extend the visibility timeout of unacknowledged messages, every half `MESSAGE_LEASE`."""
        with self._errors:
            self._extend()

    def close(self) -> None:
        """Make unacknowledged messages visible to other consumers, and close the connections."""
        try:
            self._change_visibility(0)
        except (BotoCoreError, ClientError, OSError):
            pass  # the messages become visible after their timeout
        finally:
            self._client.close()

    def _receive(self, limit: int, seconds: int) -> list[ReceivedMessage]:
        answer = self._client.receive_message(
            QueueUrl=self._queue_url, MaxNumberOfMessages=limit, WaitTimeSeconds=seconds,
            VisibilityTimeout=_VISIBILITY, MessageAttributeNames=["All"], AttributeNames=[_RECEIVED],
        )  # fmt: skip
        messages = [_from_sqs(content) for content in answer.get("Messages", ())]
        self._held.update((message.ack_token, None) for message in messages)
        return messages

    def _extend(self) -> None:
        now = time.monotonic()
        if self._held and now - self._last_extension < MESSAGE_LEASE / 2:
            return
        self._change_visibility(_VISIBILITY)
        self._last_extension = now

    def _change_visibility(self, seconds: int) -> None:
        for tokens in _batches([*self._held]):
            entries = [
                {"Id": str(number), "ReceiptHandle": token, "VisibilityTimeout": seconds}
                for number, token in enumerate(tokens)
            ]
            self._client.change_message_visibility_batch(QueueUrl=self._queue_url, Entries=entries)


def broker_error(error: Exception) -> Exception:
    """Convert an error of boto3 to an error of `event._broker.queue`."""
    if not isinstance(error, ClientError):
        # botocore raises ValueError for a wrong endpoint or region.
        return BrokerError(botocore_reason(error)) if isinstance(error, (BotoCoreError, ValueError)) else error
    details: Mapping[str, Any] = error.response.get("Error", {})
    code, text = str(details.get("Code", "")), botocore_reason(error)
    if "must be shorter than" in text or "longer than" in text or "TooLong" in code:
        return TooLargeError(text)
    if code in _REFUSED_CODES:
        return RefusedError(text)
    return NotAcceptedError(text) if code in _THROTTLED else BrokerError(text)


def queue_url(client: Any, queue: str) -> str:
    """Return the URL of a queue. If the queue does not exist, create it and its dead-letter queue.

    :raises RefusedError: it is a FIFO queue, in which a message that fails blocks the other messages of its group
    """
    if queue.endswith(".fifo"):
        raise RefusedError("FIFO queues are not supported; expected the name of a standard queue")
    name = queue.replace(".", "-")  # SQS does not allow dots
    try:
        return str(client.get_queue_url(QueueName=name)["QueueUrl"])
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in _NO_SUCH_QUEUE:
            raise
    if not queue.endswith(DEAD_SUFFIX):
        queue_url(client, queue + DEAD_SUFFIX)
    attributes = {"MessageRetentionPeriod": str(_RETENTION), "VisibilityTimeout": str(_VISIBILITY)}
    return str(client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])


def _client(address: Address, timeout: float) -> Any:
    config = Config(connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1})
    session = Session(region_name=address.host or None)
    client = session.client("sqs", config=config)
    mask_errors(client, session)
    return client


def _send(client: Any, url: str, message: OutgoingMessage, delay: float = 0.0) -> None:
    headers = {**message.headers, "content-type": MESSAGE_TYPE, **({_ID_ATTRIBUTE: message.id} if message.id else {})}
    attributes = {name: {"DataType": "String", "StringValue": value} for name, value in headers.items() if value}
    client.send_message(
        QueueUrl=url, MessageBody=message.body.decode("utf-8", "replace"), MessageAttributes=attributes,
        DelaySeconds=min(max(int(delay), 0), _MAX_DELAY),
    )  # fmt: skip


def _from_sqs(content: Mapping[str, Any]) -> ReceivedMessage:
    attributes: Mapping[str, Any] = content.get("MessageAttributes", {})
    headers = {name: str(value["StringValue"]) for name, value in attributes.items() if "StringValue" in value}
    return ReceivedMessage(
        content["Body"].encode("utf-8", "surrogatepass"),
        content["ReceiptHandle"], headers.pop(_ID_ATTRIBUTE, ""), headers,
        max(int(content.get("Attributes", {}).get(_RECEIVED, 1)) - 1, 0),
    )  # fmt: skip


def _batches(tokens: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(tokens), _BATCH):
        yield tokens[start : start + _BATCH]
