"""The API pages: which modules and members they show, what a name links to, and that nothing public is missing."""

from __future__ import annotations

import re
import sys

from sphinx.util import logging

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sphinx.application import Sphinx

PAGES = {"event", "event.error", "event.testing"}
ON_THE_FACE = {"event.error.EventError", "event.error.PermanentError"}
PRIVATE = re.compile(r"^(event\.)?_\w+\.")
SPECIAL = {"__iadd__", "__bool__", "__iter__", "__len__"}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("autoapi-skip-member", skip)
    app.connect("missing-reference", elsewhere)
    app.connect("env-check-consistency", complete)
    return {"parallel_read_safe": True}


def skip(_app: Sphinx, what: str, name: str, obj: Any, *_: Any) -> bool:
    """Leave out what is private or says nothing, what the face shows already, and the handlers: they have pages."""
    if what in {"package", "module"}:
        return obj.id not in PAGES
    if what == "class":
        mend_signature(obj)
    short = name.rpartition(".")[2]
    if what == "attribute" and not obj.docstring:
        return True
    return obj.id in ON_THE_FACE or (short.startswith("_") and short not in SPECIAL)


def mend_signature(obj: Any) -> None:
    """Read a constructor's parameters anew where self is positional-only; sphinx-autoapi shifts their annotations."""
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
    """Lead a name of a private module to the face, and show what is not ours as code without a link.

    The latter are names of the standard library, and a docstring's parameters and values between single backticks.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target:
        return None
    public = "event.error.E3Error" if target == "e3.error.E3Error" else PRIVATE.sub("event.", target)
    if public != target:
        domain = env.get_domain("py")
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, contnode)
    root = target.partition(".")[0]
    if root in sys.stdlib_module_names or (node["reftype"] == "obj" and root == target):
        return contnode
    return None


def complete(_app: Sphinx, env: Any) -> None:
    """Warn of every public name of the package that no page documents."""
    import event

    documented = {name for name, *_ in env.get_domain("py").get_objects()}
    for name in event.__all__:
        if f"event.{name}" not in documented:
            logging.getLogger(__name__).warning("event.%s is documented nowhere", name)
