"""The s3 handler: upload each event to Amazon S3 or a compatible store."""

from __future__ import annotations

import os

from event import Event, EventError, EventHandler, _files, _handler_config, _json, _log, sending_id, unique_id
from event._net import s3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, ClassVar


_EXPECTED = "expected s3=EVENT_URL,LOG_URL,SSE,PROFILE, each URL as s3://BUCKET/PREFIX; SSE and PROFILE may be left out"
_OBJECT_NAME_MAX = 255 - len(f"-{unique_id()}.s3")


class S3Handler(EventHandler):
    """Uploads ``{log_s3_url}/{prefix}{uid}/{attachment name}``, then ``{event_s3_url}/{prefix}{uid}-{unique id}.s3``.

    The last object is the event's JSON, with the URLs of the attachments. It is uploaded when all attachments are
    complete. boto3 finds the credentials and the endpoint: in the AWS_* variables, the files in ``~/.aws`` or the
    machine's role. To sort the events into folders, override `s3_prefix` in a subclass.

    :param event_s3_url: the location of the events, ``s3://bucket`` or ``s3://bucket/prefix``
    :param log_s3_url: the location of the attachments
    :param sse: the server-side encryption, such as ``AES256`` or ``aws:kms``; empty or None for the bucket's default
    :param profile: the AWS profile; empty or None for the default one
    :raises EventError: boto3 is not installed, or a URL is not an S3 URL
    """

    requires: ClassVar[Mapping[str, str]] = dict.fromkeys(("boto3", "urllib3"), "e3-event[s3]")

    def __init__(
        self, event_s3_url: str, log_s3_url: str, sse: str | None = "AES256", profile: str | None = None
    ) -> None:
        s3.location(event_s3_url)
        s3.location(log_s3_url)
        self.event_s3_url = event_s3_url
        self.log_s3_url = log_s3_url
        self.sse: str = sse or ""
        self.aws_profile: str | None = profile or None
        self._store = s3.Store(self.aws_profile)

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``event_url,log_url,sse,profile``.

        ``sse`` and ``profile`` may be left out. Further commas are part of the profile.

        :raises EventError: there is no second URL
        """
        fields = _handler_config.split_fields(_config_str, 4)
        if len(fields) < 2:
            raise EventError(f"s3: the configuration has no log URL; {_EXPECTED}")
        config: dict[str, Any] = dict(zip(("event_s3_url", "log_s3_url", "sse", "profile"), fields, strict=False))
        return {**config, "profile": config.get("profile") or None}

    def encode_config(self) -> str:
        """Return ``event_url,log_url,sse,profile``. Without a profile, the last value is empty."""
        fields = [self.event_s3_url, self.log_s3_url, self.sse, self.aws_profile or ""]
        return _handler_config.join_fields(fields, last_whole=True)

    def s3_prefix(self, event: Event) -> str:  # noqa: ARG002  # for the classes that override it
        """Return the prefix of the uid in the keys of an event's objects. It is empty, unless a subclass overrides it.

        To put the objects into a folder, end the prefix with a slash: ``nightly/``.
        """
        return ""

    def send_event(self, event: Event) -> bool:
        """Upload the event's attachments, then its JSON.

        :return: whether everything was uploaded; if not, the reason is logged as a warning
        :raises EventError: the data contains itself; nothing was uploaded
        """
        prefix = self.s3_prefix(event)
        stored = self._stored(event, prefix)
        target = _join(self.event_s3_url, prefix, str(getattr(event, "uid", None)), f"-{sending_id(event)}.s3")
        text = _json.dumps({"attachments": stored, "event": event.as_dict()}, i_json=True).encode("ascii")

        part = self.event_s3_url
        try:
            self._store.sse = self.sse  # it may have changed
            self._store.connect()
            for name, (path, _) in event.get_attachments().items():
                part = f"attachment {name!r}"
                sent = stored[name]
                self._store.upload(path, sent["s3_url"], sent["ctype"] or "application/octet-stream", sent["encoding"])
            part = self.event_s3_url
            self._store.put(target, text, "application/json")
        except (OSError, ValueError) as error:  # ValueError: a path contains a NUL
            _log.not_delivered(event, f"s3: {part}: {s3.s3_reason(error)}")
            return False
        return True

    def _stored(self, event: Event, prefix: str) -> dict[str, dict[str, Any]]:
        attachments = event.get_attachments()
        uid = str(getattr(event, "uid", None))
        stored: dict[str, dict[str, Any]] = {}
        for name, safe in _files.safe_names(attachments).items():
            path, digest = attachments[name]
            ctype, encoding = _guess_type(path, name)
            url = f"{_join(self.log_s3_url, prefix, uid)}/{safe}"
            stored[name] = {"s3_url": url, "encoding": encoding, "ctype": ctype, "sha1": digest}
        return stored


def _join(url: str, prefix: str, uid: str, ending: str = "") -> str:
    """Return the URL of an object or folder under `url`. Unsafe names are replaced by safe ones."""
    *folders, stem = prefix.split("/")
    safe = [_files.safe_name(folder) for folder in folders if folder]
    return s3.join(url, *safe, _files.safe_name(stem + uid, _OBJECT_NAME_MAX) + ending)


def _guess_type(path: str, name: str) -> tuple[str | None, str | None]:
    """Guess the media type and content coding from the file's name, or else from the attachment's name."""
    from mimetypes import guess_type

    # "./", since guess_type reads a name such as "data:x" as a URL.
    guess = guess_type(f"./{os.path.basename(path)}")
    return guess if any(guess) else guess_type(f"./{name}")
