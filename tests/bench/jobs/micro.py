"""Time one operation: python micro.py OPERATION LIBRARY ATTACHMENT DIRECTORY COUNT. Print the seconds per operation.

COUNT is the number of operations in a repeat. The best repeat counts, since other processes delay the rest. Repeats are
many and short, so that some run undisturbed.
"""

import importlib
import os
import sys
from timeit import Timer

REPEATS = 40

operation, library, attachment, directory, count = sys.argv[1:]
module = importlib.import_module(library)


def make(*, attach=False):
    """Return a closed event with three values."""
    with module.Event("compile", target="arm", status="ok", count=3) as event:
        if attach:
            event.attach_file(attachment, "log")
    return event


def fresh_directory():
    """Return an empty directory, so that each repeat starts from the same state."""
    path = os.path.join(directory, os.urandom(8).hex())
    os.mkdir(path)
    return path


class Nothing:
    """A handler that does nothing."""

    def send_event(self, event):
        return True


def sender(receivers):
    """Return the library's function that sends an event to this number of receivers."""
    if library == "blinker":
        signal = module.Signal()
        for _ in range(receivers):
            signal.connect(Nothing().send_event, weak=False)
        return signal.send
    if library == "pluggy":
        return hook(receivers)
    manager = module.EventManager()
    manager.handlers.update((str(number), Nothing()) for number in range(receivers))
    return manager.send_event


def sender_to_files():
    """Return a function that sends an event to the file handler, through an outbox if the operation requires it."""
    outbox = os.path.join(directory, "outbox") if operation.startswith("outbox") else None
    manager = module.EventManager(outbox=outbox)
    manager.add_handler("file", fresh_directory())
    return manager.send_event


def hook(receivers):
    """Return a pluggy hook with this number of implementations."""

    class Specification:
        @module.HookspecMarker("bench")
        def take(self, event):
            pass

    class Plugin:
        @module.HookimplMarker("bench")
        def take(self, event):
            return True

    manager = module.PluginManager("bench")
    manager.add_hookspecs(Specification)
    for _ in range(receivers):
        manager.register(Plugin())
    return manager.hook.take


def timer():
    """Return the timer of the operation. It does not time the set-up."""
    names = {"module": module, "make": make, "fresh_directory": fresh_directory}
    if operation == "create":
        return Timer("Event('compile', target='arm', status='ok', count=3)", "Event = module.Event", globals=names)
    if operation == "as_dict":
        return Timer("event.as_dict()", "event = make()", globals=names)
    if operation == "dump":
        return Timer("event.dump(directory)", "event = make(); directory = fresh_directory()", globals=names)
    if operation == "load":
        return Timer("load(path)", "load = module.Event.load; path = make().dump(fresh_directory())", globals=names)
    if operation == "file":
        names["events"] = lambda: iter([make(attach=True) for _ in range(int(count))])
        names["handler"] = module.EventManager().get_handler("file")
        return Timer(
            "send(next(fresh))", "send = handler(fresh_directory()).send_event; fresh = events()", globals=names
        )
    if operation in {"direct", "direct_file", "outbox", "outbox_file"}:
        names["events"] = lambda: iter([make(attach=operation.endswith("_file")) for _ in range(int(count))])
        names["sender"] = sender_to_files
        return Timer("send(next(fresh))", "send = sender(); fresh = events()", globals=names)
    send, event = sender(int(operation.removeprefix("send"))), object()
    if library == "pluggy":
        return Timer("send(event=event)", globals={"send": send, "event": event})
    return Timer("send(event)", globals={"send": send, "event": event})


print(min(timer().repeat(REPEATS, int(count))) / int(count))
