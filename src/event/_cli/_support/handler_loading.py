"""Load handlers in this process, to find the broken ones."""

from __future__ import annotations

from event import _registry
from event._cli._support import handler_options
from event._lazy_handler import LazyHandler
from event._worker.capture import Capture
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event import EventHandler
    from event._cli._support.settings import Pairs


def load(pairs: Pairs, *, plugins: bool) -> tuple[dict[str, EventHandler], dict[str, str]]:
    """Return the handlers that could be constructed, and the errors of the others, both by name.

    :param pairs: the name and the configuration of each handler
    :param plugins: whether to load plugins; a long-running command runs their code only in its worker
    """
    loaded: dict[str, EventHandler] = {}
    broken: dict[str, str] = {}
    with Capture():
        left_out = () if plugins else _registry.plugins()
        for name, config in dict(pairs).items():
            if _registry.kind(name) not in left_out:
                try:
                    loaded[name] = LazyHandler(name, config).load()
                except (Exception, SystemExit) as error:
                    broken[name] = handler_options.masked(one_line(error), {name: config})
    return loaded, broken
