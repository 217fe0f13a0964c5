"""Runs a command again and again; in each run, the next one of its file system calls fails.

A script: DIRECTORY COMMAND HANDLER FORM ERRORS.

It is preloaded with helpers/failing_calls.c, and forks each run from one warm process: an interpreter for each would
take most of the time. ERRORS are names of errno; call N fails with number N of them, or with "each", with all in turn.

It prints a line of JSON for each run, which test_failing_calls.py checks.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import itertools
import json
import mmap
import os
import pkgutil
import shutil
import struct
import sys

import event
from event import _registry
from event._cli import main
from event._outbox import Outbox

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from helpers.commands import stored_events  # next to this script's directory

STATE = struct.Struct("iii32s")  # calls so far, the call that fails, its errno, its name
CONTENT = b"0123456789abcdef" * 4096


class Tally:
    """Appends the id of each delivery to a file, which is outside of the directory whose calls fail."""

    def __init__(self, path):
        self.path = path

    @classmethod
    def decode_config(cls, config_str):
        return {"path": config_str}

    def encode_config(self):
        return self.path

    def send_event(self, e):
        if os.path.exists(f"{self.path}.down"):
            return False
        for path, digest in e.get_attachments().values():
            with open(path, "rb") as file:
                assert hashlib.sha1(file.read()).hexdigest() == digest
        with open(self.path, "a") as file:
            file.write(f"{event.sending_id(e)}\n")
        return True


class Place:
    """A directory with an outbox, and the commands that use it.

    :param calls: the memory that failing_calls.c shares with all processes
    """

    def __init__(self, directory, calls, form):
        # failing_calls.c counts the calls for the first directory.
        self.below, self.intact = os.path.join(directory, "failing"), os.path.join(directory, "intact")
        self.is_attachment = form == "attachment"  # only the calls for the attachment fail, and all from one call on
        outbox, log = (self.intact, self.below) if self.is_attachment else (self.below, self.intact)
        self.outbox = os.path.join(outbox, "outbox")
        self.events = os.path.join(outbox, "events")
        self.tally = os.path.join(directory, "tally")
        self.down = os.path.join(directory, "tally.down")
        self.waiting = os.path.join(directory, "waiting")
        self.log = os.path.join(log, "log")
        self.stderr = os.path.join(directory, "stderr")
        self.calls = calls
        self.attach = [] if form == "file" else ["--attach", f"log={self.log}"]
        self.failed = ""
        self.clear()
        self.set_down(down=True)
        open(self.events, "w").close()  # the file handler fails too
        self.send()
        shutil.move(self.outbox, self.waiting)

    def clear(self):
        for directory in (self.below, self.intact):
            shutil.rmtree(directory, ignore_errors=True)
            os.mkdir(directory)
        with open(self.log, "wb") as file:
            file.write(CONTENT)
        open(self.tally, "w").close()

    def set_down(self, *, down):
        if down:
            open(self.down, "w").close()
        elif os.path.exists(self.down):
            os.unlink(self.down)

    def run(self, *args, call=0, error=0):
        """Run the command; return its status and what it printed to stderr."""
        self.calls[: STATE.size] = STATE.pack(0, -call if self.is_attachment else call, error, b"")
        pid = os.fork()
        if not pid:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(self.stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
            sys.argv = ["e3-event", *args]
            os._exit(main())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.failed = STATE.unpack(self.calls[: STATE.size])[3].rstrip(b"\0").decode()
        self.calls[: STATE.size] = bytes(STATE.size)
        with open(self.stderr, encoding="utf-8") as file:
            return status, file.read()

    def send(self, **failure):
        handlers = ["--handler", f"file={self.events}", "--handler", f"tally={self.tally}"]
        return self.run("send", "build", "--outbox", self.outbox, *handlers, *self.attach, **failure)

    def deliver(self, **failure):
        return self.run("deliver", self.outbox, "--all", **failure)

    def fail(self, command, handler, call, error):
        """Have a call of a command fail; return what became of the event."""
        self.clear()
        if command == "deliver":
            shutil.copytree(self.waiting, self.outbox)
        self.set_down(down=handler == "down")
        status, text = getattr(self, command)(call=call, error=error)
        done = {"failed": self.failed, "status": status, "stderr": text, "damaged": self.entries("corrupt", "failed")}
        self.set_down(down=False)
        later = [self.deliver()]
        if self.entries():  # the first one has released the claim of a process that had just died
            later.append(self.deliver())
        with open(self.tally) as file:
            done["deliveries"] = file.read().split()
        files = stored_events(self.events)
        noted = [content.get("not_attached") for content in files]
        return {**done, "later": later, "left": self.entries(), "files": len(files), "not_attached": noted}

    def entries(self, *states):
        return [candidate.name for candidate, _ in Outbox(self.outbox).entries(*states)]


def import_all():
    """Import what the commands import, so that each run does not."""
    for module in pkgutil.walk_packages(event.__path__, "event."):
        if not module.name.startswith(("event._broker", "event._pyinstaller", "event.handler.", "event.__main__")):
            importlib.import_module(module.name)


def fail_each(place, command, handler, errors):
    """Have each call fail; print what became of the event."""
    for call in itertools.count(1):
        for error in errors[1:] if errors[0] == "each" else [errors[call % len(errors)]]:
            done = place.fail(command, handler, call, getattr(errno, error))
            print(json.dumps({"call": call, "error": error, **done}), flush=True)
        if not done["failed"]:
            return


if __name__ == "__main__":
    where, command, handler, form, errors = sys.argv[1:]
    sys.modules["failing"] = sys.modules["__main__"]
    import_all()
    _registry.BUILTINS = {**_registry.BUILTINS, "tally": ("failing", "Tally")}
    with open(os.environ["FAILING_STATE"], "r+b") as file:
        shared = mmap.mmap(file.fileno(), STATE.size)
    fail_each(Place(where, shared, form), command, handler, errors.split(","))
