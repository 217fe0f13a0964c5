"""Events and a token for the tests of the apprise handler."""

from __future__ import annotations

import event

TOKEN = "kJ8x-top-secret"  # must not be in any log


def closed_event(name="compile", **data):
    with event.Event(name, uid="42", **data) as closed:
        pass
    return closed


def service_class(url):
    """Return Apprise's class for a URL. The name of its module differs between versions."""
    import apprise

    return type(apprise.Apprise.instantiate(url))
