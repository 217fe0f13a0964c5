"""Amazon S3, or a store that speaks its protocol: objects by their URLs, put, uploaded and downloaded.

boto3 speaks the protocol. This module adds what it lacks: a client that survives a fork, a total timeout, limits on
what is read, and errors that a caller can distinguish without botocore. They contain no password.
"""

from __future__ import annotations

import os
import re

from event import _files
from event._handler import import_extra
from event.error import EventError, root_cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO, TypeVar

    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

    from event._net.deadline import Deadline

    _Result = TypeVar("_Result")

# An access point stands in a bucket's place by its ARN, which may hold slashes of its own; the AWS command line takes
# it in an s3:// URL.
_S3_URL = re.compile(r"s3://(arn:[^/]+(?:/[^/]+)?[:/]accesspoint[:/][^:/]+|[^/]+)(?:/(.*))?", re.DOTALL)

# What a bucket and an object can be called; a lone surrogate has no UTF-8.
_BUCKET = re.compile(r"arn:.+|[A-Za-z0-9._-]{1,255}")
_KEY = re.compile(r"[^\ud800-\udfff]{1,1024}")

# What a browser shows without running anything in it. Whatever else it is asked to show becomes a download: a page or a
# picture that somebody attached could otherwise act as the site that the bucket is served from.
_HARMLESS = frozenset({"text/plain", "application/json", "image/gif", "image/jpeg", "image/png", "image/webp"})

# The codes, not the status 404 alone: it is also what a multipart upload that got lost is answered, and a role of the
# single sign-on that does not exist.
_NO_SUCH_OBJECT = frozenset({"404", "NoSuchAccessPoint", "NoSuchBucket", "NoSuchKey"})

_DOWNLOAD_CHUNK = 1 << 20  # bytes of a download in memory
_S3_TOTAL_TIMEOUT = 60.0  # seconds for one object, with all attempts; more for a large one, according to
_S3_LEAST_SPEED = 1 << 18  # bytes per second


class StoreError(OSError):
    """The store did not process a request: no connection, a timeout, 403, 503, no credentials, or invalid settings.

    A retry may succeed, perhaps after an administrator has fixed the cause. The message is one line without passwords.
    """


class NotThereError(StoreError):
    """The object or the bucket does not exist. A retry fails until it is created.

    It is not a `FileNotFoundError`, which would look like an error about a local file.
    """


class ContentError(EventError):
    """An object has another size or SHA-1 than expected. A retry will fail again."""


class Store:
    """Puts objects, uploads and downloads files.

    The credentials and the endpoint are those that boto3 finds: the AWS_* variables, the files in ``~/.aws``, the
    machine's role. Threads may share it; copy and pickle take it along.

    :param profile: the profile of the AWS configuration; empty or None for the default one
    :param sse: the server-side encryption of what goes there; empty for what the bucket does of itself
    :raises EventError: boto3 is not installed
    """

    # The process that made the client, and the client. A class attribute, so that a copy and an unpickled store start
    # without one.
    _client: tuple[int, S3Client] | None = None

    def __init__(self, profile: str | None = None, sse: str = "") -> None:
        import_extra("boto3", "e3-event[s3]")
        self.profile = profile or None
        self.sse = sse

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copy and pickle, without the client."""
        return {name: value for name, value in self.__dict__.items() if name != "_client"}

    def connect(self) -> S3Client:
        """Return the client, which all calls and threads of a process share. It sends no request yet.

        A forked process makes its own: two processes that write to one connection destroy each other's requests.

        :raises StoreError: a setting of AWS cannot be: a profile that does not exist, an endpoint that is no URL
        """
        if self._client is None or self._client[0] != os.getpid():
            self._client = (os.getpid(), _translated(self._new_client))
        return self._client[1]

    def put(self, url: str, data: bytes, content_type: str) -> None:
        """Store data as an object, in the place of what is there.

        :param content_type: the media type
        :raises EventError: as `location`
        :raises NotThereError: there is no such bucket
        :raises StoreError: any other failure
        """
        bucket, key = location(url)
        client = self.connect()
        headers = self._headers(content_type)
        _asked(lambda: client.put_object(Bucket=bucket, Key=key, Body=data, **headers), _deadline(len(data)))

    def upload(self, path: str, url: str, content_type: str, encoding: str | None = None) -> None:
        """Store a regular file's content as an object, in the place of what is there; 8 MiB of it are in memory.

        :param content_type: the media type
        :param encoding: the content coding, ``gzip`` for example
        :raises EventError: as `location`
        :raises NotThereError: there is no such bucket
        :raises StoreError: any other failure of the store, or of reading on
        :raises OSError: as `_files.open_regular`
        :raises ValueError: path holds a NUL
        """
        target = location(url)
        with open(_files.open_regular(path), "rb") as file:
            self._upload(file, os.fstat(file.fileno()).st_size, target, self._headers(content_type, encoding))

    def upload_open(self, file: BinaryIO, size: int, url: str, content_type: str) -> tuple[int, str]:
        """Store the next bytes of an open file as an object, in the place of what is there; 8 MiB of it are in memory.

        Each byte is read once: what is told here is what is stored, whatever is written into the file meanwhile.

        :param size: how many bytes, should there be as many
        :param content_type: the media type
        :return: how many there were, and their SHA-1 (FIPS 180-4) in lower-case hex
        :raises EventError: as `location`
        :raises NotThereError: there is no such bucket
        :raises StoreError: any other failure of the store, or of reading
        """
        part = _Part(file, size)
        self._upload(part, size, location(url), self._headers(content_type))
        return size - part.left, part.digest.hexdigest()

    def _upload(self, file: Any, size: int, target: tuple[str, str], headers: dict[str, Any]) -> None:
        client = self.connect()

        from boto3.s3.transfer import TransferConfig

        # Without threads one part of a large file is in memory, not ten, and an event that is sent while the
        # interpreter ends, when no thread may start any more, still goes out.
        config = TransferConfig(use_threads=False)
        if headers["ContentType"] not in _HARMLESS:
            headers["ContentDisposition"] = "attachment"
        _asked(lambda: client.upload_fileobj(file, *target, ExtraArgs=headers, Config=config), _deadline(size))

    def download(self, url: str, path: str, size: int, sha1: str) -> None:
        """Write an object's content, as it was stored, to a new file that its owner alone may read.

        Whatever is raised, no file stays behind; a process that is killed leaves a part of it. It is not synced. No
        byte beyond size is written, whatever the store sends; 1 MiB is in memory.

        :param size: how many bytes the object has
        :param sha1: the SHA-1 (FIPS 180-4) of its content, in lower-case hex
        :raises EventError: as `location`, or no object can have that name
        :raises ContentError: the object is larger or smaller, or has another SHA-1; the message says which
        :raises NotThereError: there is no such object or bucket
        :raises StoreError: any other failure of the store
        :raises OSError: the file cannot be written, or something is at path already, which stays
        :raises ValueError: path holds a NUL
        """
        bucket, key = _object(url)
        client = self.connect()
        deadline = _deadline(size)
        body = _asked(lambda: client.get_object(Bucket=bucket, Key=key), deadline)["Body"]
        with body:
            fd = os.open(path, _files.CREATE_FLAGS, 0o600)
            try:
                with open(fd, "wb") as file:
                    _receive(body, file, url, size, sha1, deadline)
            except BaseException:
                _files.unlink_quietly(path)
                raise

    def _new_client(self) -> S3Client:
        import botocore.session
        from boto3 import Session
        from botocore.config import Config

        from event._net.s3_transport import CONNECT_TIMEOUT, READ_TIMEOUT, S3Transport

        # The mode "standard" makes three attempts, unless AWS_MAX_ATTEMPTS says otherwise; botocore's own default
        # makes five, with a minute to connect for each.
        mode: Any = os.environ.get("AWS_RETRY_MODE", "standard")  # botocore refuses a wrong one
        config = Config(connect_timeout=CONNECT_TIMEOUT, read_timeout=READ_TIMEOUT, retries={"mode": mode})
        # A session of our own: boto3.client() shares one, which is not made for threads.
        core = botocore.session.Session()
        client = Session(profile_name=self.profile, botocore_session=core).client("s3", config=config)
        transport: Any = S3Transport(
            core.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or True
        )
        client.meta.events.register_last("before-send.s3", transport.send)
        return client

    def _headers(self, ctype: str, encoding: str | None = None) -> dict[str, Any]:
        """Return the metadata of an object."""
        headers = {"ContentType": ctype, "ContentEncoding": encoding, "ServerSideEncryption": self.sse}
        return {name: value for name, value in headers.items() if value}


class _Part:
    """The next bytes of a file. It is not seekable, so boto3 buffers what it has read for another attempt.

    :ivar left: how many of them were not read
    :ivar digest: the SHA-1 of what was read
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.left = size
        self.digest = _files.new_sha1()

    def read(self, size: int = -1) -> bytes:
        """Return the next ones."""
        data = self._file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(data)
        self.digest.update(data)
        return data


def location(url: str) -> tuple[str, str]:
    """Return the bucket and the key of an S3 URL, without the empty segments of the key.

    :raises EventError: it is no such URL, or a segment is ``.`` or ``..``
    """
    match = _S3_URL.fullmatch(url) if isinstance(url, str) else None
    segments = [segment for segment in (match[2] or "").split("/") if segment] if match else []
    if match is None or not {".", ".."}.isdisjoint(segments):
        shown = _masked(repr(url))
        raise EventError(f"s3: the URL is {shown}; expected s3://BUCKET/PREFIX, without '.' and '..' in the prefix")
    return match[1], "/".join(segments)


def join(url: str, *segments: str) -> str:
    """Return the URL of an object or folder beneath url.

    :param segments: names that are safe already, as `_files.safe_name` makes them
    :raises EventError: as `location`
    """
    bucket, key = location(url)
    return "/".join(filter(None, ["s3:/", bucket, key, *segments]))


def s3_reason(error: Exception) -> str:
    """Return the reason of an error on one line, without the user and password of a URL."""
    return str(error) if isinstance(error, StoreError) else _masked(botocore_reason(error))


def botocore_reason(error: BaseException) -> str:
    """Return the cause of an error of botocore on one line, after the server that it was connecting to."""
    url = getattr(error, "kwargs", {}).get("endpoint_url")
    host, _, path = url.partition("//")[2].partition("/") if isinstance(url, str) else ("", "", "")
    server = "" if "@" in path else host.rpartition("@")[2]  # a password may contain a slash
    return f"{server}: {root_cause(error)}" if server else root_cause(error)


def _masked(text: str) -> str:
    """Return a text with the ``user:password@`` of URLs replaced; botocore's messages quote that of the endpoint.

    A password may contain a slash. Each word is searched once from either end: a pattern that goes back and forth would
    take a time that grows with the square of the text.
    """
    return " ".join(map(_masked_word, text.split(" ")))


def _masked_word(word: str) -> str:
    begin, end = word.find("//"), word.rfind("@")
    return f"{word[:begin]}//***{word[end:]}" if 0 <= begin < end else word


def _object(url: str) -> tuple[str, str]:
    """Return the bucket and the key of an object that another process has named.

    Others' names are asked for in vain at each attempt; botocore does not tell them from a setting that is wrong.

    :raises EventError: as `location`, or no object can have that name
    """
    bucket, key = location(url)
    if not _BUCKET.fullmatch(bucket) or not _KEY.fullmatch(key):
        raise EventError(f"s3: the URL is {_masked(repr(url))}; expected s3://BUCKET/KEY, as S3 lets them be called")
    return bucket, key


def _deadline(size: int) -> Deadline:
    """Return the deadline for an object of some bytes."""
    from event._net.deadline import Deadline

    return Deadline(_S3_TOTAL_TIMEOUT + size / _S3_LEAST_SPEED)


def _asked(act: Callable[[], _Result], deadline: Deadline) -> _Result:
    """Return what a call of botocore's returns.

    botocore limits each wait, but not their number. So the call runs in a thread, which is abandoned at the deadline.

    :raises StoreError: the call failed, or is not done by the deadline
    """
    from event import _dispatch

    call = _Call(act)
    nothing: Any = None
    (delivery,) = _dispatch.deliveries({"s3": call}, nothing, deadline.left())
    if isinstance(delivery.error, _dispatch.NotStartedError) and delivery.error.__cause__:
        return _translated(act)  # no thread can be started, because the interpreter exits

    def result() -> Any:
        if delivery.error is not None:
            raise delivery.error
        return call.result

    value: _Result = _translated(result)
    return value


class _Call:
    """A call, as a handler that `_dispatch` can run."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act
        self.result: Any = None

    def send_event(self, event: object) -> bool:  # noqa: ARG002  # a handler's signature
        self.result = self._act()
        return True


def _translated(act: Callable[[], _Result]) -> _Result:
    """Return the result of a call of botocore, and translate its errors.

    :raises StoreError: it failed
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError  # a TLS connection that breaks within a body

    try:
        return act()
    except RecursionError:  # botocore asks again where the bucket is, for each redirection
        raise StoreError("the server redirects every request again") from None
    # A ValueError is what botocore raises for an endpoint's URL or a number that it finds in the environment; an
    # OSError, for a program that is to bring the credentials. Without the cause: a traceback would show the password.
    except (OSError, ValueError, BotoCoreError, ClientError, HTTPError) as error:
        missing = isinstance(error, ClientError) and error.response.get("Error", {}).get("Code") in _NO_SUCH_OBJECT
        raise (NotThereError if missing else StoreError)(s3_reason(error)) from None


def _receive(  # noqa: PLR0913  # what is announced of an object
    body: StreamingBody, file: BinaryIO, url: str, size: int, sha1: str, deadline: Deadline
) -> None:
    """Write a response's body to a file.

    :raises ContentError: it is not what was announced
    :raises StoreError: it breaks off
    """
    digest = _files.new_sha1()
    received = 0
    while chunk := _translated(lambda: body.read(_DOWNLOAD_CHUNK)):
        _translated(deadline.left)
        received += len(chunk)
        if received > size:
            raise ContentError(f"s3: {url!r} holds more than {size} bytes")
        digest.update(chunk)
        file.write(chunk)
    if received < size:
        raise ContentError(f"s3: {url!r} holds {received} bytes, not {size}")
    if digest.hexdigest() != sha1:
        raise ContentError(f"s3: {url!r} has the SHA-1 {digest.hexdigest()}, not {sha1}")
