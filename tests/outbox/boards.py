"""Handlers for the tests of sending and delivering."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# A plugin that appends the sending's id and the event's uid to the file PATH, unless PATH.down or PATH.refuses exists.
BOARD = """
import os, event

class Handler:
    def __init__(self, path):
        self.path = path

    def send_event(self, e):
        if os.path.exists(self.path + ".down"):
            event.logger.warning("%s is down", "the board")
            return False
        if os.path.exists(self.path + ".refuses"):
            raise event.PermanentError("no such recipient")
        with open(self.path, "a") as file:
            file.write(event.sending_id(e) + " " + e.uid + "\\n")
        return True

    @classmethod
    def decode_config(cls, config_str):
        return {"path": config_str}

    def encode_config(self):
        return self.path
"""


class Board:
    """The file of the handler `board`.

    :ivar path: the configuration of the handler
    """

    def __init__(self, path):
        self.path = path

    @property
    def deliveries(self):
        """The sending's id and the event's uid of each delivery."""
        return [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []

    @property
    def uids(self):
        return [uid for _, uid in self.deliveries]

    def set(self, failure):
        """Make the handler fail: it is `down`, or it `refuses` events; None to make it work."""
        for name in ("down", "refuses"):
            path = Path(f"{self.path}.{name}")
            if name == failure:
                path.touch()
            else:
                path.unlink(missing_ok=True)


class Handler:
    """A handler that calls a function.

    :param config: its configuration; an exception to raise it instead
    """

    def __init__(self, send=lambda e: True, config=""):
        self.send = send
        self.config = config

    def send_event(self, e):
        return self.send(e)

    def encode_config(self):
        if isinstance(self.config, BaseException):
            raise self.config
        return self.config


def raising(error):
    """Return a function for `Handler` that raises an exception."""

    def send(e):
        raise error

    return send


def entries(box, *states):
    """Return the state, the id and the content of each entry."""
    return [(candidate.state, candidate.id, entry) for candidate, entry in box.entries(*states)]


def run(code, *arguments):
    """Run code in a new interpreter, and wait for its success."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done
