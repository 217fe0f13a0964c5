"""Events and trace ids for the otel handler."""

from __future__ import annotations

import event

TRACE, SPAN, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"

TOKEN = "s3cr3t-of-the-tests"


def closed_event(name="compile", **data):
    with event.Event(name, **data) as closed:
        pass
    return closed
