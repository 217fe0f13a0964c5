"""Upload objects to Amazon S3 or a compatible store, and download them.

boto3 implements the protocol. This module adds a total timeout, limits for the size of responses, and a client that
survives a fork. A caller can distinguish its errors without botocore, and they contain no password.
"""

from __future__ import annotations

import os
import re

from event import _files
from event._handler import import_extra
from event._mask import without_credentials
from event.error import EventError, root_cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO, TypeVar

    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

    from event._net.deadline import Deadline

    _Result = TypeVar("_Result")

# The ARN of an access point can replace the bucket's name, as in the AWS command line. An ARN may contain slashes.
_S3_URL = re.compile(r"s3://(arn:[^/]+(?:/[^/]+)?[:/]accesspoint[:/][^:/]+|[^/]+)(?:/(.*))?", re.DOTALL)

# The valid names of buckets and objects. A lone surrogate cannot be encoded as UTF-8.
_BUCKET = re.compile(r"arn:.+|[A-Za-z0-9._-]{1,255}")
_KEY = re.compile(r"[^\ud800-\udfff]{1,1024}")

# A browser shows these media types without running code from them. It downloads all others. Otherwise, a script in an
# attached page or SVG picture could act in the name of the site that serves the bucket.
_HARMLESS = frozenset({"text/plain", "application/json", "image/gif", "image/jpeg", "image/png", "image/webp"})

# Error codes of S3. The HTTP status is not enough: 404 may also mean an unknown multipart upload, or an unknown role of
# the single sign-on.
_NO_SUCH_OBJECT = frozenset({"404", "NoSuchAccessPoint", "NoSuchBucket", "NoSuchKey"})

_DOWNLOAD_CHUNK = 1 << 20  # bytes of a download in memory
_S3_TOTAL_TIMEOUT = 60.0  # seconds for one object, including retries, plus the time for its size at the least speed
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
    """Uploads and downloads objects. Threads may share a store. It can be copied and pickled.

    boto3 finds the credentials and the endpoint: in the AWS_* variables, in ``~/.aws``, or from the machine's role.

    :param profile: the profile of the AWS configuration; empty or None for the default one
    :param sse: the server-side encryption of uploaded objects; empty for the bucket's own setting
    :raises EventError: boto3 is not installed
    """

    # The id of the process that created the client, and the client. A class attribute, so that copied and unpickled
    # stores start without a client.
    _client: tuple[int, S3Client] | None = None

    def __init__(self, profile: str | None = None, sse: str = "") -> None:
        import_extra("boto3", "e3-event[s3]")
        self.profile = profile or None
        self.sse = sse

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_client"}

    def connect(self) -> S3Client:
        """Return the client of this process, without sending a request. All threads share it.

        A forked process creates its own client: two processes that write to one connection would corrupt the requests.

        :raises StoreError: a setting of AWS is invalid, such as an unknown profile or a malformed endpoint
        """
        if self._client is None or self._client[0] != os.getpid():
            self._client = (os.getpid(), _translate_errors(self._new_client))
        return self._client[1]

    def put(self, url: str, data: bytes, content_type: str) -> None:
        """Store data as an object, replacing an existing one.

        :param content_type: the media type
        :raises EventError: as `location`
        :raises NotThereError: the bucket does not exist
        :raises StoreError: any other failure
        """
        bucket, key = location(url)
        client = self.connect()
        headers = self._headers(content_type)
        _call_before(lambda: client.put_object(Bucket=bucket, Key=key, Body=data, **headers), _deadline(len(data)))

    def upload(self, path: str, url: str, content_type: str, encoding: str | None = None) -> None:
        """Store the content of a regular file as an object, replacing an existing one. Uses 8 MiB of memory.

        :param content_type: the media type
        :param encoding: the content coding, such as ``gzip``
        :raises EventError: as `location`
        :raises NotThereError: the bucket does not exist
        :raises StoreError: any other failure of the store, or the file cannot be read to its end
        :raises OSError: as `_files.open_regular`
        :raises ValueError: path contains a NUL
        """
        target = location(url)
        with open(_files.open_regular(path), "rb") as file:
            self._upload(file, os.fstat(file.fileno()).st_size, target, self._headers(content_type, encoding))

    def upload_open(self, file: BinaryIO, size: int, url: str, content_type: str) -> tuple[int, str]:
        """Store the next bytes of an open file as an object, replacing an existing one. Uses 8 MiB of memory.

        Each byte is read once, so the returned SHA-1 is that of the stored object, even if the file changes meanwhile.

        :param size: the maximum number of bytes
        :param content_type: the media type
        :return: the number of stored bytes, and their SHA-1 (FIPS 180-4) in lower-case hex
        :raises EventError: as `location`
        :raises NotThereError: the bucket does not exist
        :raises StoreError: any other failure of the store, or the file cannot be read
        """
        part = _Part(file, size)
        self._upload(part, size, location(url), self._headers(content_type))
        return size - part.left, part.digest.hexdigest()

    def _upload(self, file: Any, size: int, target: tuple[str, str], headers: dict[str, Any]) -> None:
        client = self.connect()

        from boto3.s3.transfer import TransferConfig

        # Without threads, only one part of a large file is in memory instead of ten. An upload also works while the
        # interpreter exits, when no thread can be started.
        config = TransferConfig(use_threads=False)
        if headers["ContentType"] not in _HARMLESS:
            headers["ContentDisposition"] = "attachment"
        _call_before(lambda: client.upload_fileobj(file, *target, ExtraArgs=headers, Config=config), _deadline(size))

    def download(self, url: str, path: str, size: int, sha1: str) -> None:
        """Write the content of an object to a new file, which only its owner may read. Uses 1 MiB of memory.

        The file is not synced, and never larger than `size`. After an error, there is no file. If the process is
        killed, a part of the file may remain.

        :param size: the expected size in bytes
        :param sha1: the expected SHA-1 (FIPS 180-4) in lower-case hex
        :raises EventError: as `location`, or no object can have that name
        :raises ContentError: the size or the SHA-1 differs; the message says which
        :raises NotThereError: the object or bucket does not exist
        :raises StoreError: any other failure of the store
        :raises OSError: the file cannot be written, or `path` already exists; then it is not changed
        :raises ValueError: path contains a NUL
        """
        bucket, key = _object(url)
        client = self.connect()
        deadline = _deadline(size)
        body = _call_before(lambda: client.get_object(Bucket=bucket, Key=key), deadline)["Body"]
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

        # The mode "standard" makes three attempts, unless AWS_MAX_ATTEMPTS is set. The default of botocore makes five,
        # each with a minute to connect.
        mode: Any = os.environ.get("AWS_RETRY_MODE", "standard")  # botocore rejects an invalid mode
        config = Config(connect_timeout=CONNECT_TIMEOUT, read_timeout=READ_TIMEOUT, retries={"mode": mode})
        # boto3.client() would share a session between threads, which is not safe.
        core = botocore.session.Session()
        session = Session(profile_name=self.profile, botocore_session=core)
        client = session.client("s3", config=config)
        mask_errors(client, session)
        transport: Any = S3Transport(
            core.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or True
        )
        client.meta.events.register_last("before-send.s3", transport.send)
        return client

    def _headers(self, ctype: str, encoding: str | None = None) -> dict[str, Any]:
        headers = {"ContentType": ctype, "ContentEncoding": encoding, "ServerSideEncryption": self.sse}
        return {name: value for name, value in headers.items() if value}


class _Part:
    """The next bytes of a file, as a file object. It is not seekable, so boto3 buffers each part for a retry."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.left = size  # the bytes that may still be read
        self.digest = _files.new_sha1()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(data)
        self.digest.update(data)
        return data


def location(url: str) -> tuple[str, str]:
    """Return the bucket and the key of an S3 URL. Empty segments of the key are removed.

    :raises EventError: it is not an S3 URL, or a segment is ``.`` or ``..``
    """
    match = _S3_URL.fullmatch(url) if isinstance(url, str) else None
    segments = [segment for segment in (match[2] or "").split("/") if segment] if match else []
    if match is None or not {".", ".."}.isdisjoint(segments):
        shown = _masked(repr(url))
        raise EventError(f"s3: the URL is {shown}; expected s3://BUCKET/PREFIX, without '.' and '..' in the prefix")
    return match[1], "/".join(segments)


def join(url: str, *segments: str) -> str:
    """Return the URL of an object or folder below `url`.

    :param segments: safe names, as `_files.safe_name` returns them
    :raises EventError: as `location`
    """
    bucket, key = location(url)
    return "/".join(filter(None, ["s3:/", bucket, key, *segments]))


def mask_errors(client: Any, session: Any) -> None:
    """Let a client of boto3 mask its credentials in the errors of a server, which may echo the request.

    :param session: the session of boto3 that created the client
    """

    def mask(parsed: dict[str, Any], **_: Any) -> None:
        error = parsed.get("Error", {})
        credentials = session.get_credentials() if error else None
        if credentials is not None:
            secrets = [text for text in credentials.get_frozen_credentials() if text]
            error.update((key, without_credentials(error[key], secrets)) for key in ("Code", "Message") if key in error)

    client.meta.events.register("after-call", mask)


def s3_reason(error: Exception) -> str:
    """Return the reason of an error on one line, without the user and password of a URL."""
    return str(error) if isinstance(error, StoreError) else _masked(botocore_reason(error))


def botocore_reason(error: BaseException) -> str:
    """Return the cause of an error of botocore on one line, after the name of the server if the error contains it."""
    url = getattr(error, "kwargs", {}).get("endpoint_url")
    host, _, path = url.partition("//")[2].partition("/") if isinstance(url, str) else ("", "", "")
    server = "" if "@" in path else host.rpartition("@")[2]  # a password may contain a slash
    return f"{server}: {root_cause(error)}" if server else root_cause(error)


def _masked(text: str) -> str:
    """Replace each ``user:password@`` in a text. Messages of botocore may quote the URL of the endpoint.

    A password may contain a slash. Each word is searched once from each end, because a regular expression would need
    quadratic time.
    """
    return " ".join(map(_masked_word, text.split(" ")))


def _masked_word(word: str) -> str:
    begin, end = word.find("//"), word.rfind("@")
    return f"{word[:begin]}//***{word[end:]}" if 0 <= begin < end else word


def _object(url: str) -> tuple[str, str]:
    """Return the bucket and the key of an object, from a URL that another process chose.

    An invalid name is a permanent error. The errors of botocore would not distinguish it from a wrong setting, which
    may be fixed before the next attempt.
    """
    bucket, key = location(url)
    if not _BUCKET.fullmatch(bucket) or not _KEY.fullmatch(key):
        raise EventError(
            f"s3: the URL is {_masked(repr(url))}; expected s3://BUCKET/KEY with names that are valid in S3"
        )
    return bucket, key


def _deadline(size: int) -> Deadline:
    from event._net.deadline import Deadline

    return Deadline(_S3_TOTAL_TIMEOUT + size / _S3_LEAST_SPEED)


def _call_before(act: Callable[[], _Result], deadline: Deadline) -> _Result:
    """Call a function in a thread, which is abandoned at the deadline: botocore limits each wait, not their number."""
    from event import _dispatch

    call = _Call(act)
    nothing: Any = None
    (delivery,) = _dispatch.deliveries({"s3": call}, nothing, deadline.left())
    if isinstance(delivery.error, _dispatch.NotStartedError) and delivery.error.__cause__:
        return _translate_errors(act)  # no thread can be started, because the interpreter exits

    def result() -> Any:
        if delivery.error is not None:
            raise delivery.error
        return call.result

    value: _Result = _translate_errors(result)
    return value


class _Call:
    """A function call in the form of a handler, so that `_dispatch` can run it."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act
        self.result: Any = None

    def send_event(self, event: object) -> bool:  # noqa: ARG002  # a handler's signature
        self.result = self._act()
        return True


def _translate_errors(act: Callable[[], _Result]) -> _Result:
    """Call a function that uses botocore. Its errors become a StoreError."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError  # a TLS connection that breaks off during a response

    try:
        return act()
    # botocore raises ValueError for an invalid endpoint or number in the environment, and OSError if the program that
    # prints the credentials fails. The cause is omitted, because its traceback could show a password.
    except (RecursionError, OSError, ValueError, BotoCoreError, ClientError, HTTPError) as error:
        if _is_endless_redirection(error):
            raise StoreError("the server redirects every request again") from None
        missing = isinstance(error, ClientError) and error.response.get("Error", {}).get("Code") in _NO_SUCH_OBJECT
        raise (NotThereError if missing else StoreError)(s3_reason(error)) from None


def _is_endless_redirection(error: BaseException) -> bool:
    """Return whether a RecursionError is among the causes of an error.

    After each redirection, botocore looks up the bucket's region again, without a limit. It wraps the RecursionError if
    its HTTP client raises it.
    """
    cause: BaseException | None = error
    while cause and not isinstance(cause, RecursionError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _receive(  # noqa: PLR0913  # the object, where it goes and what is expected
    body: StreamingBody, file: BinaryIO, url: str, size: int, sha1: str, deadline: Deadline
) -> None:
    digest = _files.new_sha1()
    received = 0
    while chunk := _translate_errors(lambda: body.read(_DOWNLOAD_CHUNK)):
        _translate_errors(deadline.left)
        received += len(chunk)
        if received > size:
            raise ContentError(f"s3: {url!r} has more than {size} bytes")
        digest.update(chunk)
        file.write(chunk)
    if received < size:
        raise ContentError(f"s3: {url!r} has {received} bytes, not {size}")
    if digest.hexdigest() != sha1:
        raise ContentError(f"s3: {url!r} has the SHA-1 {digest.hexdigest()}, not {sha1}")
