"""Each extra names every distribution that its modules import: none is there only because another one needs it."""

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
# The extras of the modules that import what a bare Python lacks.
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
    "_net/url.py": {"http", "otel"},
    "handler/apprise.py": {"apprise"},
    "handler/http.py": {"http"},
    "handler/s3.py": {"s3"},
}
OWN = {"event", "e3"}  # e3-core's error is the base class if it happens to be installed
KNOWN = OWN | sys.stdlib_module_names | {"typing_extensions", "tomli"}
INDIRECT = {"_net/guarded_requests.py": {"requests"}}  # it has it from Apprise's modules


def imported(source):
    """Return the modules that a text imports, apart from Python's own and those for type checkers."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    return {name for node in ast.walk(tree) for name in named(node) if name.split(".")[0] not in KNOWN}


def named(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module]
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_extra":
        return [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
    return []


def distribution_of(module):
    """Return the distribution of a module: most are named like it, OpenTelemetry's like its beginning."""
    parts = module.split(".")
    if parts[0] != "opentelemetry":
        return parts[0]
    if parts[1] == "exporter":
        return "-".join(parts[:5])
    return "-".join(parts[:2]) if parts[1] in {"sdk", "proto"} else "opentelemetry-api"


@cache
def needed():
    """Return path -> modules that it needs of an extra, for each file of the package."""
    files = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    return {path: imported(source) | INDIRECT.get(path, set()) for path, source in files.items()}


def test_the_table_names_every_module_that_imports_of_an_extra():
    assert {path for path, modules in needed().items() if modules} == set(EXTRAS)


@pytest.mark.parametrize(
    ("path", "extra"), [(path, extra) for path, found in EXTRAS.items() for extra in sorted(found)]
)
def test_an_extra_names_what_its_modules_import(path, extra):
    assert {*map(distribution_of, needed()[path])} <= distributions(project()["optional-dependencies"][extra])


def distributions(lines):
    return {re.split(r"[>\[]", line)[0] for line in lines}


def test_the_extras_are_those_that_handlers_require():
    extras = project()["optional-dependencies"]
    assert extras.pop("all") == [f"e3-event[{','.join(sorted(extras))}]"]
    handlers = {name: _registry.get_handler(name) for name in _registry.BUILTINS}
    needed = {name: handler.requires for name, handler in handlers.items() if hasattr(handler, "requires")}
    assert set(needed) == set(extras) - {"sqs", "toml"}  # of a broker's URL, of a file
    for extra, requires in needed.items():
        assert set(requires.values()) == {f"e3-event[{extra}]"}
        # Each of these distributions is named as its module, with - for the dot.
        assert set(requires) <= {name.replace("-", ".") for name in distributions(extras[extra])}


# The lowest versions, which `tox -e lowest` tests.


def test_the_lowest_version_of_each_dependency_and_of_each_extra_is_taken():
    extras = {"a": ["one[x,y]>=1.2"], "b": ["two>=3", "one[x,y]>=1.2"], "all": ["e3-event[a,b]"]}
    project = {"dependencies": ["three-four>=5.6"], "optional-dependencies": extras}
    assert lowest.constraints(project) == ["one==1.2", "three-four==5.6", "two==3"]


def test_every_dependency_declares_its_lowest_version():
    lines = lowest.constraints(project())
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\d.]+(; python_version < '3.\d+')?", line)] == []
    assert len({line.partition("==")[0] for line in lines}) == len(lines), "one of them is declared with two versions"
