"""Each extra lists every distribution that its modules import, even one that another distribution requires."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache

import pytest

import lowest
from event import _registry
from lowest import project

PACKAGE = lowest.CHECKOUT / "src" / "event"
# The extras of each module that imports a third-party package.
EXTRAS = {
    "_broker/amqp.py": {"broker"},
    "_broker/amqp_connection.py": {"broker"},
    "_broker/redis.py": {"broker"},
    "_broker/sqs.py": {"sqs"},
    "_cli/relay.py": {"s3"},
    "_net/apprise_service.py": {"apprise"},
    "_net/guarded_requests.py": {"apprise"},
    "_net/otlp.py": {"otel"},
    "_net/s3.py": {"s3"},
    "_net/s3_transport.py": {"s3"},
    "handler/apprise.py": {"apprise"},
}
OWN = {"event", "e3"}  # e3-core's error is the base class if it happens to be installed
KNOWN = OWN | sys.stdlib_module_names | {"typing_extensions", "tomli"}
INDIRECT = {"_net/guarded_requests.py": {"requests"}}  # it uses the `requests` that Apprise imports


def imported(source):
    """Return the third-party modules that source code imports, except those for type checkers."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    return {name for node in ast.walk(tree) for name in imported_names(node) if name.split(".")[0] not in KNOWN}


def imported_names(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module]
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_extra":
        return [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
    return []


def distribution_of(module):
    """Return the distribution of a module: the module's name or, for OpenTelemetry, its first parts."""
    parts = module.split(".")
    if parts[0] != "opentelemetry":
        return parts[0]
    if parts[1] == "exporter":
        return "-".join(parts[:5])
    return "-".join(parts[:2]) if parts[1] in {"sdk", "proto"} else "opentelemetry-api"


@cache
def needed():
    """Return the third-party modules that each file of the package needs."""
    files = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    return {path: imported(source) | INDIRECT.get(path, set()) for path, source in files.items()}


def test_table_has_every_module_that_imports_a_third_party_package():
    assert {path for path, modules in needed().items() if modules} == set(EXTRAS)


@pytest.mark.parametrize(
    ("path", "extra"), [(path, extra) for path, found in EXTRAS.items() for extra in sorted(found)]
)
def test_extra_lists_every_distribution_that_its_modules_import(path, extra):
    assert {*map(distribution_of, needed()[path])} <= distributions(project()["optional-dependencies"][extra])


def distributions(lines):
    return {re.split(r"[>\[]", line)[0] for line in lines}


def test_the_extras_are_those_that_handlers_require():
    extras = project()["optional-dependencies"]
    assert extras.pop("all") == [f"e3-event[{','.join(sorted(extras))}]"]
    handlers = {name: _registry.get_handler(name) for name in _registry.BUILTINS}
    needed = {name: handler.requires for name, handler in handlers.items() if hasattr(handler, "requires")}
    assert set(needed) == set(extras) - {"sqs", "toml"}  # of broker URLs, of configuration files
    for extra, requires in needed.items():
        assert set(requires.values()) == {f"e3-event[{extra}]"}
        # Each of these distributions has the name of its module, with - for the dot.
        assert set(requires) <= {name.replace("-", ".") for name in distributions(extras[extra])}


# The lowest versions, which `tox -e lowest` tests.


def test_constraints_pin_each_dependency_to_its_lowest_version():
    extras = {"a": ["one[x,y]>=1.2"], "b": ["two>=3", "one[x,y]>=1.2"], "all": ["e3-event[a,b]"]}
    project = {"dependencies": ["three-four>=5.6"], "optional-dependencies": extras}
    assert lowest.constraints(project) == ["one==1.2", "three-four==5.6", "two==3"]


def test_every_dependency_declares_its_lowest_version():
    lines = lowest.constraints(project())
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\d.]+(; python_version < '3.\d+')?", line)] == []
    assert len({line.partition("==")[0] for line in lines}) == len(lines), "a dependency is declared with two versions"
