"""Amazon SQS, by boto3. Account, region, credentials and endpoint are those that boto3 finds."""

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
    Masked,
    NotTakenError,
    OutgoingMessage,
    ReceivedMessage,
    RefusedError,
    TooLargeError,
)
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from event._broker.url import Address, BrokerURL

_LONG_POLL = 10  # seconds of one long poll
_BATCH = 10  # messages in one request, as SQS has it
_RETENTION = 14 * 86400  # seconds, the most that SQS keeps a message
_LONGEST_DELAY = 900  # seconds, likewise
_VISIBILITY = int(2 * MESSAGE_LEASE)  # seconds
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
    """Return a client; it connects when it publishes. See `queue.connect_publisher`."""
    return SQSPublisher(url, _client(address, min(timeout, OPERATION_TIMEOUT)))


def connect_consumer(url: BrokerURL, address: Address, queue: str, prefetch: int) -> SQSConsumer:  # noqa: ARG001  # the port's
    """Return a client that receives from a queue; see `queue.connect_consumer`."""
    return SQSConsumer(url, _client(address, _LONG_POLL + OPERATION_TIMEOUT), queue)


class SQSPublisher:
    """A client that publishes; see `queue.Publisher`."""

    def __init__(self, url: BrokerURL, client: Any) -> None:
        self._url = url
        self._client = client
        self._queues: dict[str, str] = {}

    def publish(self, queue: str, message: OutgoingMessage, timeout: float) -> None:  # noqa: ARG002  # the client has it
        """Send a message and wait for the answer."""
        with Masked(self._url, named=False), _SQSErrors():
            if queue not in self._queues:
                self._queues[queue] = queue_url(self._client, queue)
            try:
                _send(self._client, self._queues[queue], message)
            except ClientError:
                del self._queues[queue]  # it may have been removed
                raise

    def close(self, timeout: float) -> None:  # noqa: ARG002  # the port's
        """Close the connections."""
        self._client.close()

    def abandon(self) -> None:
        """Close our copies of the sockets; nothing is sent."""
        self._client.close()


class SQSConsumer:
    """A client that receives; see `queue.Consumer`."""

    poll_interval = float(_LONG_POLL)

    def __init__(self, url: BrokerURL, client: Any, queue: str) -> None:
        self._url = url
        self._client = client
        self._queue = queue
        self._held: dict[str, None] = {}
        self._extended = time.monotonic()
        with _SQSErrors():
            self._dead_letters = ""
            self._queue_url = queue_url(client, queue)

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Return up to `limit` messages, ten a request; wait for the first ones."""
        messages: list[ReceivedMessage] = []
        with Masked(self._url, named=False), _SQSErrors():
            self._extend()
            seconds = min(-int(-wait // 1), _LONG_POLL)
            while len(messages) < limit and (found := self._receive(min(limit - len(messages), _BATCH), seconds)):
                messages += found
                seconds = 0
        return messages

    def acknowledge(self, messages: Sequence[ReceivedMessage]) -> None:
        """Delete messages, ten a request."""
        with Masked(self._url, named=False), _SQSErrors():
            for tokens in _tens([message.ack_token for message in messages]):
                entries = [{"Id": str(number), "ReceiptHandle": token} for number, token in enumerate(tokens)]
                answer = self._client.delete_message_batch(QueueUrl=self._queue_url, Entries=entries)
                if failed := answer.get("Failed"):
                    raise BrokerError(f"a message was not deleted: {failed[0].get('Message', '')}")
                for token in tokens:
                    self._held.pop(token, None)

    def requeue(self, message: ReceivedMessage, headers: Mapping[str, str], delay: float = 0.0) -> None:
        """Send a message once more, and delete the received one."""
        with Masked(self._url, named=False), _SQSErrors():
            _send(self._client, self._queue_url, OutgoingMessage(message.body, message.id, headers), delay)
        self.acknowledge([message])

    def dead_letter(self, message: ReceivedMessage, headers: Mapping[str, str]) -> None:
        """Send a message to the dead-letter queue, and delete the received one."""
        with Masked(self._url, named=False), _SQSErrors():
            self._dead_letters = self._dead_letters or queue_url(self._client, self._queue + DEAD_SUFFIX)
            _send(self._client, self._dead_letters, OutgoingMessage(message.body, message.id, headers))
        self.acknowledge([message])

    def keep_alive(self) -> None:
        """Extend the visibility timeout of what is held, if it is time for that."""
        with Masked(self._url, named=False), _SQSErrors():
            self._extend()

    def close(self) -> None:
        """Make what is held visible to others, and close the connections."""
        try:
            self._change_visibility(0)
        except (BotoCoreError, ClientError, OSError):
            pass  # it is visible after its timeout
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
        if self._held and now - self._extended >= MESSAGE_LEASE / 2:
            self._change_visibility(_VISIBILITY)
        if not self._held or now - self._extended >= MESSAGE_LEASE / 2:
            self._extended = now

    def _change_visibility(self, seconds: int) -> None:
        for tokens in _tens([*self._held]):
            entries = [
                {"Id": str(number), "ReceiptHandle": token, "VisibilityTimeout": seconds}
                for number, token in enumerate(tokens)
            ]
            self._client.change_message_visibility_batch(QueueUrl=self._queue_url, Entries=entries)


class _SQSErrors:
    """Turns errors of boto3 into those of the port."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, ClientError):
            raise _sorted(error) from error
        # A ValueError is what botocore raises for a wrong endpoint or region.
        if isinstance(error, (BotoCoreError, ValueError)):
            raise BrokerError(one_line(error)) from error


def _sorted(error: ClientError) -> Exception:
    details: Mapping[str, Any] = error.response.get("Error", {})
    code, text = str(details.get("Code", "")), one_line(error)
    if "must be shorter than" in text or "longer than" in text or "TooLong" in code:
        return TooLargeError(text)
    if code in _REFUSED_CODES:
        return RefusedError(text)
    return NotTakenError(text) if code in _THROTTLED else BrokerError(text)


def queue_url(client: Any, queue: str) -> str:
    """Return the URL of a queue; the queue and its dead-letter queue are made if there is none of that name."""
    name = _queue_name(queue)
    try:
        return str(client.get_queue_url(QueueName=name)["QueueUrl"])
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in _NO_SUCH_QUEUE:
            raise
    if not queue.endswith(DEAD_SUFFIX):
        queue_url(client, queue + DEAD_SUFFIX)
    attributes = {"MessageRetentionPeriod": str(_RETENTION), "VisibilityTimeout": str(_VISIBILITY)}
    return str(client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])


def _queue_name(queue: str) -> str:
    """Return a queue's name as SQS allows it, without dots."""
    return queue.replace(".", "-")


def _client(address: Address, timeout: float) -> Any:
    config = Config(connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1})
    with _SQSErrors():
        return Session(region_name=address.host or None).client("sqs", config=config)


def _send(client: Any, url: str, message: OutgoingMessage, delay: float = 0.0) -> None:
    headers = {**message.headers, "content-type": MESSAGE_TYPE, **({_ID_ATTRIBUTE: message.id} if message.id else {})}
    attributes = {name: {"DataType": "String", "StringValue": value} for name, value in headers.items() if value}
    client.send_message(
        QueueUrl=url, MessageBody=message.body.decode("utf-8", "replace"), MessageAttributes=attributes,
        DelaySeconds=min(max(int(delay), 0), _LONGEST_DELAY),
    )  # fmt: skip


def _from_sqs(content: Mapping[str, Any]) -> ReceivedMessage:
    attributes: Mapping[str, Any] = content.get("MessageAttributes", {})
    headers = {name: str(value["StringValue"]) for name, value in attributes.items() if "StringValue" in value}
    return ReceivedMessage(
        content["Body"].encode("utf-8", "surrogatepass"),
        content["ReceiptHandle"], headers.pop(_ID_ATTRIBUTE, ""), headers,
        max(int(content.get("Attributes", {}).get(_RECEIVED, 1)) - 1, 0),
    )  # fmt: skip


def _tens(tokens: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(tokens), _BATCH):
        yield tokens[start : start + _BATCH]
