"""The file handler: write each event to files in a directory."""

from __future__ import annotations

import os

from event import Event, EventError, EventHandler, _files, _handler_config, _json, sending_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class FileHandler(EventHandler):
    """Writes ``LOG_DIR/{name}-{uid}-{unique id}.json`` and ``LOG_DIR/{name}-{uid}/{attachment name}``.

    The attachments are written before the JSON file. Each file is written atomically: a reader sees the complete file
    or none. Names that are invalid in a file system, or that point outside the directory, are replaced by safe ones.

    :param log_dir: the directory; if it is missing, it is created when an event is sent
    :raises EventError: log_dir is empty or contains a NUL
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        self.log_dir: str = os.fspath(log_dir)
        if not self.log_dir or "\0" in self.log_dir:
            raise EventError(f"file: the log directory is {self.log_dir!r}; expected a directory, as in file=DIR")

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``log_dir``."""
        return {"log_dir": _handler_config.unquote(_config_str)}

    def encode_config(self) -> str:
        """Return ``log_dir``."""
        return _handler_config.quote(self.log_dir, comma=False)

    def config_for_outbox(self) -> str:
        """Return ``log_dir`` as an absolute path, for a process in another directory."""
        return _handler_config.quote(os.path.abspath(self.log_dir), comma=False)

    def send_event(self, event: Event) -> bool:
        """Write the event's attachments, then its JSON file.

        :raises OSError: a file could not be written or an attachment could not be read; there is no JSON file
        :raises EventError: the data contains itself
        """
        data = event.as_dict()
        text = _json.dumps(data, indent=2, sort_keys=True, i_json=True)
        stem = "-".join(str(getattr(event, key, None)) for key in ("name", "uid"))  # either may be deleted
        directory = self._own_directory(stem, data)
        attachments = event.get_attachments().copy()  # another thread may attach meanwhile
        for name, safe in _files.safe_names(attachments).items():
            _files.copy_atomically(attachments[name][0], os.path.join(directory, safe))
        path = os.path.join(self.log_dir, f"{_files.safe_name(stem, _files.STEM_MAX)}-{sending_id(event)}.json")
        _files.write_atomically(path, text.encode("ascii"))
        return True

    def _own_directory(self, stem: str, data: dict[str, Any]) -> str:
        """Create the directory of an event's attachments; return its path.

        Two events may have the same stem: ``a-b`` with uid ``c``, and ``a`` with uid ``b-c``. The directory of the
        second event then gets a hash in its name. The same applies if the name already belongs to a file, a symbolic
        link or a directory of another user.
        """
        directory = os.path.join(self.log_dir, _files.safe_name(stem, _files.STEM_MAX))
        if _files.make_directory(directory) or (
            _files.is_own_directory(directory) and not self._is_foreign(stem, data)
        ):
            return directory
        identity = f"{data.get('name')}\0{data.get('uid')}"
        directory = os.path.join(self.log_dir, _files.hashed_name(identity, _files.STEM_MAX))
        if not _files.make_directory(directory) and not _files.is_own_directory(directory):
            raise FileExistsError(f"{directory} exists, but is not a directory of this user")
        return directory

    def _is_foreign(self, stem: str, data: dict[str, Any]) -> bool:
        """Return whether the directory contains another event with the same stem."""
        if _is_random(str(data.get("uid"))):
            return False  # the usual case: such a stem is unique, and scanning a large directory is slow
        stem = _files.safe_name(stem, _files.STEM_MAX)
        own = _identity(_json.dumps(data))
        with os.scandir(self.log_dir) as entries:
            others = [
                _read_file(e.path) for e in entries if _is_json_of(stem, e.name) and e.is_file(follow_symlinks=False)
            ]
        return any(other not in (None, own) for other in map(_identity, others))


def _is_json_of(stem: str, name: str) -> bool:
    name, stem = os.path.normcase(name), os.path.normcase(stem)
    return name.startswith(f"{stem}-") and name.endswith(".json") and _is_uuid(name[len(stem) + 1 : -len(".json")])


def _read_file(path: str) -> bytes:
    try:
        return _files.read_regular(path, follow=False)
    except OSError:
        return b""


def _identity(text: str | bytes) -> tuple[Any, Any] | None:
    """Return the name and the uid of the event in a JSON file; None if the file does not contain an event."""
    try:
        data = _json.loads(text)
        return data["name"], data["uid"]
    except (ValueError, LookupError, TypeError):
        return None


def _is_uuid(text: str) -> bool:
    return [len(part) for part in text.split("-")] == [8, 4, 4, 4, 12]


def _is_random(uid: str) -> bool:
    """Return whether a uid is a UUID of version 4, as `unique_id` returns."""
    return _is_uuid(uid) and uid[14] == "4" and uid[19] in "89ab"
