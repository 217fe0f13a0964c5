"""Configure the API pages: order of members, targets of links, and a check that no public name is missing."""

from __future__ import annotations

import re
import sys

from sphinx.util import logging

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sphinx.application import Sphinx

# The members of each page, in groups. The groups that most users need come first.
GROUPS: dict[str, dict[str, list[str]]] = {
    "event": {
        "Send events": ["send_event", "track", "Event", "send_event_from_file"],
        "Configure handlers": [
            *("add_handler", "load_handlers_from_env", "load_handlers_from_config", "handler_config_as_env"),
            "use_outbox",
            *("default_manager", "EventManager"),
        ],
        "Results and errors": ["Outcome", "Delivery", "EventError", "logger"],
        "Write a handler": [
            *("EventHandler", "PermanentError", "PartialDeliveryError"),
            *("sending_id", "already_delivered"),
        ],
        "Helpers": ["child_environment", "unique_id"],
    },
    "event.error": {"": ["E3Error"]},
    "event.config": {"": ["split_fields", "join_fields", "resolve_secret", "is_reference", "absolute_reference"]},
    "event.testing": {"": ["recording", "RecordingHandler", "RecordedEvent", "check_handler"]},
}
# Data has no docstring of its own.
DATA = {
    "event.default_manager": "The manager that the functions of this module use, looked up at each call.",
    "event.logger": "The logger of this package, ``event``; created when it is first used.",
}
PRIVATE = re.compile(r"^(event\.)?_\w+\.")
SPECIAL = {"__bool__", "__iter__", "__len__"}
INHERITED = {"add_note", "with_traceback"}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("autoapi-skip-member", skip)
    app.connect("missing-reference", elsewhere)
    app.connect("env-check-consistency", complete)
    return {"parallel_read_safe": True}


def prepare_jinja_env(environment: Any) -> None:
    """Let the template of a page call `groups`."""
    environment.filters["api_groups"] = groups


def groups(module: Any) -> list[tuple[str, list[Any]]]:
    """Return the title and the members of each group of a page."""
    children = {child.name: child for child in module.children}
    for child in module.children:
        child.docstring = child.docstring or DATA.get(child.id, "")
    return [
        (title, [children[name] for name in names if name in children]) for title, names in GROUPS[module.id].items()
    ]


def skip(_app: Sphinx, what: str, name: str, obj: Any, *_: Any) -> bool:
    """Return whether to omit a member: no group lists it, it is private, or it has no docstring."""
    if what in {"package", "module"}:
        return obj.id not in GROUPS
    if what in {"class", "exception"}:
        repair_signature(obj)
    above, _, short = name.rpartition(".")
    if above in GROUPS:
        return not any(short in names for names in GROUPS[above].values())
    if what == "attribute" and not obj.docstring:
        return True
    return short in INHERITED or (short.startswith("_") and short not in SPECIAL)


def repair_signature(obj: Any) -> None:
    """Read a constructor's parameters again if self is positional-only; sphinx-autoapi shifts their annotations."""
    import inspect
    import pydoc

    arguments = obj.constructor.obj["args"] if obj.constructor else []
    if [argument[0] for argument in arguments[:1]] == ["/"]:
        kind = type(arguments[0])
        prefixes = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        obj.constructor.obj["args"] = [
            kind(prefixes.get(p.kind), p.name, p.annotation, None if p.default is p.empty else repr(p.default))
            for p in inspect.signature(pydoc.locate(obj.obj.get("original_path", obj.id))).parameters.values()
        ]


def elsewhere(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """Link a name of a private module to its public name. Show other names as code without a link.

    Other names are those of the standard library, and parameters and values in the single backticks of a docstring.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target:
        return None
    root = target.partition(".")[0]
    public = "event.error.E3Error" if target == "e3.error.E3Error" else PRIVATE.sub("event.", target)
    if any(root in names for names in GROUPS["event"].values()):
        public = f"event.{target}"  # the docstring of another module may use an imported name
    if public != target:
        domain = env.get_domain("py")
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, contnode)
    if root in sys.stdlib_module_names or (node["reftype"] == "obj" and root == target):
        return contnode
    return None


def complete(_app: Sphinx, env: Any) -> None:
    """Warn about each public name of the package that no page documents."""
    import event

    documented = {name for name, *_ in env.get_domain("py").get_objects()}
    for name in event.__all__:
        if f"event.{name}" not in documented:
            logging.getLogger(__name__).warning("event.%s is documented nowhere", name)
