"""The s3 handler: each event becomes objects in Amazon S3, or in a store that speaks its protocol."""

from __future__ import annotations

import os
import re
from mimetypes import guess_type

from event import Event, EventError, EventHandler, _config, _files, _json, _log, sending_id, unique_id
from event._handler import import_extra
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypedDict

    from mypy_boto3_s3 import S3Client

    class _Stored(TypedDict):
        s3_url: str
        encoding: str | None
        ctype: str | None
        sha1: str


_EXPECTED = "expected s3=EVENT_URL,LOG_URL,SSE,PROFILE, each URL as s3://BUCKET/PREFIX; SSE and PROFILE may be left out"
_STEM_MAX = 255 - len(f"-{unique_id()}.s3")

# An access point stands in a bucket's place by its ARN, which may hold slashes of its own; the AWS command line takes
# it in an s3:// URL.
_URL = re.compile(r"s3://(arn:[^/]+(?:/[^/]+)?[:/]accesspoint[:/][^:/]+|[^/]+)(?:/(.*))?", re.DOTALL)

# The `user:password@` of a URL; botocore's messages quote that of the endpoint whole. A password may hold a slash.
_USERINFO = re.compile(r"//\S*@")

_CONNECT_TIMEOUT = 10  # seconds
_READ_TIMEOUT = 60  # seconds without a byte


class S3Handler(EventHandler):
    """Uploads ``{log_s3_url}/{prefix}{uid}/{attachment name}``, then ``{event_s3_url}/{prefix}{uid}-{unique id}.s3``.

    The latter is the event's JSON, and tells where the attachments are. Who sees it finds them complete. The
    credentials and the endpoint are those that boto3 finds: the AWS_* variables, the files in ``~/.aws``, the
    machine's role. Derive from the class and override `s3_prefix` to sort the events into folders.

    :param event_s3_url: where the events go, ``s3://bucket`` or ``s3://bucket/prefix``
    :param log_s3_url: where the attachments go
    :param sse: the server-side encryption, ``AES256`` or ``aws:kms`` for example; empty or None for what the bucket
        does of itself
    :param profile: the profile of the AWS configuration; empty or None for the default one
    :raises EventError: boto3 is not installed, or a URL is none of S3
    """

    # The extra, and what it brings: `e3-event check` looks for it.
    _requires = ("s3", ("boto3",))

    # The process that made the client, and the client. A class attribute, so that a copy and an unpickled handler
    # start without one.
    _client: tuple[int, S3Client] | None = None

    def __init__(
        self, event_s3_url: str, log_s3_url: str, sse: str | None = "AES256", profile: str | None = None
    ) -> None:
        import_extra("boto3", "s3")
        _location(event_s3_url)
        _location(log_s3_url)
        self.event_s3_url = event_s3_url
        self.log_s3_url = log_s3_url
        self.sse = sse or ""
        self.aws_profile = profile or None

    def __getstate__(self) -> dict[str, Any]:
        """Return what copy and pickle keep: all but the client, which neither can take along."""
        return {name: value for name, value in self.__dict__.items() if name != "_client"}

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``event_url,log_url,sse,profile``.

        What is left out behind the URLs has its default; the profile takes the commas that are left.

        :raises EventError: there is no second URL
        """
        fields = _config.split_fields(_config_str, 4)
        if len(fields) < 2:
            raise EventError(f"s3: the configuration has no log URL; {_EXPECTED}")
        config: dict[str, Any] = dict(zip(("event_s3_url", "log_s3_url", "sse", "profile"), fields, strict=False))
        return {**config, "profile": config.get("profile") or None}

    def encode_config(self) -> str:
        """Return ``event_url,log_url,sse,profile``; no profile is empty."""
        fields = [self.event_s3_url, self.log_s3_url, self.sse, self.aws_profile or ""]
        return _config.join_fields(fields, last_whole=True)

    def s3_prefix(self, event: Event) -> str:  # noqa: ARG002  # for the classes that override it
        """Return what stands before the uid in an event's keys: nothing, unless a derived class says otherwise.

        A slash makes a folder: ``nightly/``.
        """
        return ""

    def send_event(self, event: Event) -> bool:
        """Upload the event's attachments, then its JSON.

        :return: whether all of it was uploaded; where it was not, the log tells the reason at WARNING
        :raises EventError: the data holds itself; nothing was uploaded
        """
        prefix = self.s3_prefix(event)
        stored = self._stored(event, prefix)
        target = _join(self.event_s3_url, prefix, str(getattr(event, "uid", None)), f"-{sending_id(event)}.s3")
        text = _json.dumps({"attachments": stored, "event": event.as_dict()}).encode("ascii")

        from botocore.exceptions import BotoCoreError, ClientError

        part = "the event"
        try:
            client = self._connect()
            for name, (path, _) in event.get_attachments().items():
                part = f"attachment {name!r}"
                self._upload(client, path, stored[name])
            part = "the event"
            bucket, key = _location(target)
            client.put_object(Bucket=bucket, Key=key, Body=text, **self._headers("application/json"))
        # A ValueError is what botocore raises for an endpoint's URL or a number that it finds in the environment.
        except (OSError, ValueError, BotoCoreError, ClientError) as error:
            reason = _USERINFO.sub("//***@", one_line(error))
            _log.warning("s3: %r is not delivered: %s: %s", event, part, reason)
            return False
        return True

    def _stored(self, event: Event, prefix: str) -> dict[str, _Stored]:
        """Return where each attachment goes, and what it is."""
        attachments = event.get_attachments()
        uid = str(getattr(event, "uid", None))
        stored: dict[str, _Stored] = {}
        for name, safe in _files.safe_names(attachments).items():
            path, digest = attachments[name]
            ctype, encoding = _guess_type(path, name)
            url = f"{_join(self.log_s3_url, prefix, uid)}/{safe}"
            stored[name] = {"s3_url": url, "encoding": encoding, "ctype": ctype, "sha1": digest}
        return stored

    def _connect(self) -> S3Client:
        """Return the client, which all sends and threads of a process share.

        A forked process makes its own: two processes that write to one connection destroy each other's requests.
        """
        if self._client is None or self._client[0] != os.getpid():
            self._client = (os.getpid(), self._new_client())
        return self._client[1]

    def _new_client(self) -> S3Client:
        from boto3 import Session
        from botocore.config import Config

        # The mode "standard" makes three attempts, unless AWS_MAX_ATTEMPTS says otherwise; botocore's own default
        # makes five, with a minute to connect for each.
        mode: Any = os.environ.get("AWS_RETRY_MODE", "standard")  # botocore refuses a wrong one
        config = Config(connect_timeout=_CONNECT_TIMEOUT, read_timeout=_READ_TIMEOUT, retries={"mode": mode})
        # A session of our own: boto3.client() shares one, which is not made for threads.
        return Session(profile_name=self.aws_profile).client("s3", config=config)

    def _upload(self, client: S3Client, path: str, stored: _Stored) -> None:
        from boto3.s3.transfer import TransferConfig

        headers = self._headers(stored["ctype"] or "application/octet-stream", stored["encoding"])
        bucket, key = _location(stored["s3_url"])
        # Without threads one part of a large file is in memory, not ten, and an event that is sent while the
        # interpreter ends, when no thread may start any more, still goes out.
        config = TransferConfig(use_threads=False)
        with open(_files.open_regular(path), "rb") as file:
            client.upload_fileobj(file, bucket, key, ExtraArgs=headers, Config=config)

    def _headers(self, ctype: str, encoding: str | None = None) -> dict[str, Any]:
        """Return what is said of an object beside its content."""
        headers = {"ContentType": ctype, "ContentEncoding": encoding, "ServerSideEncryption": self.sse}
        return {name: value for name, value in headers.items() if value}


def _location(url: str) -> tuple[str, str]:
    """Return the bucket and the key of an S3 URL, without the empty segments of the key.

    :raises EventError: it is no such URL, or a segment is ``.`` or ``..``
    """
    match = _URL.fullmatch(url) if isinstance(url, str) else None
    segments = [segment for segment in (match[2] or "").split("/") if segment] if match else []
    if match is None or not {".", ".."}.isdisjoint(segments):
        shown = _USERINFO.sub("//***@", repr(url))
        raise EventError(f"s3: the URL is {shown}; expected s3://BUCKET/PREFIX, without '.' and '..' in the prefix")
    return match[1], "/".join(segments)


def _join(url: str, prefix: str, uid: str, ending: str = "") -> str:
    """Return the URL of an object or folder beneath url; each segment of what the event says is made safe."""
    bucket, key = _location(url)
    *folders, stem = prefix.split("/")
    safe = [_files.safe_name(folder) for folder in folders if folder]
    return "/".join(filter(None, ["s3:/", bucket, key, *safe, _files.safe_name(stem + uid, _STEM_MAX) + ending]))


def _guess_type(path: str, name: str) -> tuple[str | None, str | None]:
    """Return the media type and the content coding that a file's name suggests, or else its attachment's."""
    # "./", since guess_type reads a name such as "data:x" as a URL.
    guess = guess_type(f"./{os.path.basename(path)}")
    return guess if any(guess) else guess_type(f"./{name}")
