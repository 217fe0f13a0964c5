"""Time one operation: python micro.py OPERATION LIBRARY ATTACHMENT DIRECTORY COUNT; prints the seconds of one.

COUNT is the number of operations of a repeat. The best of the repeats counts: the others were disturbed. They are many
and short, so that some fit between two disturbances.
"""

import importlib
import os
import sys
from timeit import Timer

REPEATS = 40

operation, library, attachment, directory, count = sys.argv[1:]
module = importlib.import_module(library)


def make(*, attach=False):
    """Return an event with three values, closed as it is when it is sent."""
    with module.Event("compile", target="arm", status="ok", count=3) as event:
        if attach:
            event.attach_file(attachment, "log")
    return event


def fresh_directory():
    """Return an empty directory, so that no repeat works in a fuller one than another."""
    path = os.path.join(directory, os.urandom(8).hex())
    os.mkdir(path)
    return path


class Nothing:
    """A handler that does nothing."""

    def send_event(self, event):
        """Take an event."""
        return True


def sender(receivers):
    """Return a library's function that sends an event to so many receivers."""
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


def keeper():
    """Return the function that sends an event to a file handler, through an outbox where it is to be kept."""
    outbox = os.path.join(directory, "outbox") if operation.startswith("keep") else None
    manager = module.EventManager(outbox=outbox)
    manager.add_handler("file", fresh_directory())
    return manager.send_event


def hook(receivers):
    """Return pluggy's hook with so many implementations."""

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
    """Return the timer of the operation; what its set-up does is not in the time."""
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
    if operation in {"tell", "tell_file", "keep", "keep_file"}:
        names["events"] = lambda: iter([make(attach=operation.endswith("_file")) for _ in range(int(count))])
        names["sender"] = keeper
        return Timer("send(next(fresh))", "send = sender(); fresh = events()", globals=names)
    send, event = sender(int(operation.removeprefix("send"))), object()
    if library == "pluggy":
        return Timer("send(event=event)", globals={"send": send, "event": event})
    return Timer("send(event)", globals={"send": send, "event": event})


print(min(timer().repeat(REPEATS, int(count))) / int(count))
