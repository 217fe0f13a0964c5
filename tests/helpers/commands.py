"""Handlers and calls for the tests that run commands or workers."""

from __future__ import annotations

import json
import pathlib
import sys
from concurrent.futures import ThreadPoolExecutor

HANDLER = """\
import logging, sys
class Handler:
    def __init__(self, config=""):
        self.config = config
    @classmethod
    def decode_config(cls, config_str):
        {decode}
        return {{"config": config_str}}
    def send_event(self, event):
        {send}
    def encode_config(self):
        return self.config
"""


def handler_source(send="return True", decode="pass"):
    return HANDLER.format(send=send, decode=decode)


def stored_events(path="events"):
    """Return the events that the file handler has written, by name of the file."""
    return [json.loads(file.read_text("utf-8")) for file in sorted(pathlib.Path(path).glob("*.json"))]


def stored_event(path="events"):
    """Return the only event that the file handler has written."""
    (data,) = stored_events(path)
    return data


TO_FILES = ("--handler", "file=events")


def patched(patch, *args):
    """Return the words that run ``e3-event ARGS`` in a new process, after some code has patched the package there."""
    return [sys.executable, "-c", f"import sys\n{patch}\nfrom event._cli import main\nsys.exit(main())", *args]


# As C code that does not release the interpreter's lock. It waits, and takes no processor time from other tests.
HOLDS_THE_LOCK = "__import__('ctypes').PyDLL(None).pause()"


def in_parallel(run, names):
    """Call a function with each name, all at the same time; return the results by name."""
    names = [*names]
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(run, names), strict=True))
