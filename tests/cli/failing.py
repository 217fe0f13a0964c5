"""A script that runs a command many times. In each run, another file system call fails: the first, the second, ….

Arguments: DIRECTORY COMMAND HANDLER FORM ERRORS

The library helpers/failing_calls.c is preloaded. Each run is forked from one process that has imported everything;
to start an interpreter for each run would take most of the time.

ERRORS are names of the module errno, separated by commas. Call N fails with one of them, in turn. If the first word is
"each", each call fails in one run with each of the others.

The script prints a line of JSON for each run, which test_failing_calls.py checks.
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

STATE = struct.Struct("iii32s")  # struct state of failing_calls.c: count, number, error, failed
CONTENT = b"0123456789abcdef" * 4096


class Tally:
    """A handler that appends the id of each delivery to a file outside of the directory whose calls fail."""

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
    """Directories for an outbox, its handlers and a log, and the commands that use them.

    :param calls: the memory that failing_calls.c shares with all processes
    """

    def __init__(self, directory, calls, form):
        # Only calls for the first directory fail.
        self.failing, self.intact = os.path.join(directory, "failing"), os.path.join(directory, "intact")
        self.is_attachment = form == "attachment"  # only calls for the attachment fail: one call and all later ones
        outbox, log = (self.intact, self.failing) if self.is_attachment else (self.failing, self.intact)
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
        open(self.events, "w").close()  # so that the file handler fails too
        self.send()
        shutil.move(self.outbox, self.waiting)

    def clear(self):
        for directory in (self.failing, self.intact):
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
        """Run the command line in a fork; return its status and its stderr."""
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
        """Let a call of a command fail; return what happened to the event."""
        self.clear()
        if command == "deliver":
            shutil.copytree(self.waiting, self.outbox)
        self.set_down(down=handler == "down")
        status, text = getattr(self, command)(call=call, error=error)
        result = {"failed": self.failed, "status": status, "stderr": text, "damaged": self.entries("corrupt", "failed")}
        self.set_down(down=False)
        later = [self.deliver()]
        if self.entries():  # the claim of a process that had just died; the first `deliver` has only released it
            later.append(self.deliver())
        with open(self.tally) as file:
            result["deliveries"] = file.read().split()
        files = stored_events(self.events)
        missing = [content.get("not_attached") for content in files]
        return {**result, "later": later, "left": self.entries(), "files": len(files), "not_attached": missing}

    def entries(self, *states):
        return [candidate.name for candidate, _ in Outbox(self.outbox).entries(*states)]


def import_all():
    """Import what the commands import, so that the runs need not."""
    for module in pkgutil.walk_packages(event.__path__, "event."):
        if not module.name.startswith(("event._broker", "event._pyinstaller", "event.handler.", "event.__main__")):
            importlib.import_module(module.name)


def fail_each(place, command, handler, errors):
    """Let each call fail in a run of its own; print what happened to the event."""
    for call in itertools.count(1):
        for error in errors[1:] if errors[0] == "each" else [errors[call % len(errors)]]:
            result = place.fail(command, handler, call, getattr(errno, error))
            print(json.dumps({"call": call, "error": error, **result}), flush=True)
        if not result["failed"]:
            return


if __name__ == "__main__":
    where, command, handler, form, errors = sys.argv[1:]
    sys.modules["failing"] = sys.modules["__main__"]
    import_all()
    _registry.BUILTINS = {**_registry.BUILTINS, "tally": ("failing", "Tally")}
    with open(os.environ["FAILING_STATE"], "r+b") as file:
        shared = mmap.mmap(file.fileno(), STATE.size)
    fail_each(Place(where, shared, form), command, handler, errors.split(","))
