"""The architecture: what an import loads, the order of the modules, and complete lists of handlers."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import event
import lowest
from event import _registry

PACKAGE = Path(event.__path__[0])
CHECKOUT = Path(__file__).parent.parent

# What an import loads.

# `import event` loads CORE. Python itself loads STARTUP in every process.
CORE = {
    "event",
    "event._event",
    "event._handler",
    "event._log",
    "event._manager",
    "event._outcome",
    "event.error",
}
STARTUP = {
    "__future__",
    "_collections_abc",
    "_stat",
    "abc",
    "genericpath",
    "io",
    "nt",
    "ntpath",
    "os",
    "os.path",
    "posix",
    "posixpath",
    "stat",
    "time",
    "winreg",
}
# Modules that take noticeable time to import, and that other modules often import.
HEAVY = {
    "collections",
    "contextlib",
    "dataclasses",
    "email",
    "enum",
    "functools",
    "hashlib",
    "importlib.metadata",
    "inspect",
    "json",
    "logging",
    "pathlib",
    "re",
    "shutil",
    "tempfile",
    "typing",
    "typing_extensions",
    "uuid",
}
SEND_TO_FILE = """
import os
directory = sys.argv[1]
os.environ["E3_EVENT_HANDLERS"] = f"file={directory}"
event.load_handlers_from_env()
event.add_handler("file", directory)
with event.Event("compile", target="arm", count=1, ok=True) as e:
    e.attach_file(sys.argv[2])
assert event.send_event(e)
assert event.Event.load(e.dump(directory)).uid == e.uid
event.handler_config_as_env()
"""


def printed_words(code, *arguments):
    """Run code in a new process, and return the words that it prints.

    -I ignores the user's environment. -S ignores .pth files, whose imports would hide those of the package.
    """
    code = f"import sys\nsys.path.insert(0, {str(PACKAGE.parent)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def loaded(script, *arguments, before=""):
    """Return the modules that `script` loads in a new process, without those that `before` loads."""
    code = f"{before}\nearlier = set(sys.modules)\n{script}\nprint(*set(sys.modules) - earlier)"
    return printed_words(code, *arguments)


def test_new_process_has_loaded_no_heavy_module():
    assert not HEAVY & printed_words("print(*sys.modules)")


def test_import_event_loads_only_its_core():
    names = loaded("import event")
    assert names - STARTUP == CORE


def test_logger_loads_only_logging():
    assert loaded("event.logger", before="import event, logging") == set()


def test_send_to_a_file_loads_only_json_hashlib_and_its_handler(tmp_path):
    log = tmp_path / "build.log"
    log.write_text("compiled")
    names = loaded(SEND_TO_FILE, tmp_path / "events", log, before="import event, json, hashlib, errno, collections.abc")
    assert names == {
        "event._handler_config",
        "event._files",
        "event._json",
        "event._json_plain",
        "event._mask",
        "event._redact",
        "event._registry",
        "event.handler",
        "event.handler.file",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="platform: elsewhere the worker is a new interpreter")
@pytest.mark.parametrize("arguments", [["send", "n", "target=arm"], ["run", "n", "--", "true"]], ids=["send", "run"])
def test_the_command_sends_an_event_without_heavy_modules(tmp_path, arguments):
    program = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); from event._cli import main; sys.exit(main())"
    options = ["--handler", f"file={tmp_path / 'events'}", "--outbox", str(tmp_path / "ob")]
    command = [sys.executable, "-I", "-S", "-X", "importtime", "-c", program, arguments[0], *options, *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # both processes print to stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"event._outbox.writer", "event.handler.file", f"event._cli.{arguments[0]}"} <= imported
    assert not imported & HEAVY


def test_s3_modules_load_no_client_before_use():
    names = loaded("import event._net.s3", before="import event, hashlib, errno, re")
    assert names == {"event._files", "event._mask", "event._net", "event._net.s3"}


def test_custom_handler_loads_no_heavy_module_but_importlib_metadata(tmp_path):
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[e3.event.handler]\nacme = acme_handler:Handler\n")
    (tmp_path / "acme_handler.py").write_text("class Handler:\n    def send_event(self, event):\n        return True\n")
    names = loaded(
        "event.add_handler('acme'); assert event.send_event(event.Event('compile'))",
        tmp_path,
        before="sys.path.append(sys.argv[1]); import event, importlib.metadata as m; m.entry_points(group='x')",
    )
    assert names == {"acme_handler", "event._handler_config", "event._mask", "event._redact", "event._registry"}


# The order of the modules.

# A module may import from earlier rows and, without a cycle, from its own row.
ORDER = [
    {"error", "_log", "_version", "_backoff", "_fast_signal", "_text"},
    {
        *(
            "_json",
            "_json_plain",
            "_files",
            "_handler_config",
            "_mask",
            "_outcome",
            "_places",
            "_redact",
            "_registry",
            "_secrets",
        ),
        "_trace_context",
        "config",
    },
    {"_event", "_handler"},
    {"_event_copies"},
    {"_dispatch", "_tracking", "_verified"},
    {"_lazy_handler"},
    {"_config_file", "_config_values"},
    {"_outbox"},
    {"_conditions"},
    {"_manager"},
    {""},  # event/__init__.py
    {"_formats", "_net"},  # used by the handlers
    {"_broker"},  # used by the broker handler and the relay
    {"_process"},  # used by `run`
    {"_worker"},
    {"handler"},
    {"_cli", "testing"},
    {"__main__", "_pyinstaller"},
]
FOR_HANDLERS = {
    *("", "config", "error"),
    *("_handler_config", "_dispatch", "_files", "_handler", "_json", "_log", "_secrets", "_trace_context"),
    *(
        "_formats.address",
        "_formats.cloudevents",
        "_formats.chat",
        "_formats.digest",
        "_formats.mail",
        "_formats.notice",
        "_formats.notice_html",
        "_formats.template",
        "_text",
    ),
    *(
        "_net.apprise_service",
        "_net.deadline",
        "_net.http",
        "_net.mail_server",
        "_net.otlp",
        "_net.s3",
        "_net.smtp",
        "_net.webhook",
    ),
    "_broker",
}


def module_name(path):
    """Return the name of a file's module within the package: "" is event/__init__.py, "handler.file" a handler."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


FILES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def targets(node):
    """Return the modules of the package that an import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute here"
        submodules = [f"{node.module}.{alias.name}" for alias in node.names]
        names = [name if relative_name(name) in FILES else node.module for name in submodules]
    else:
        return set()
    return {relative_name(name) for name in names} - {None}


def relative_name(name):
    return name[6:] if name.startswith("event.") else "" if name == "event" else None


@cache
def imports():
    """Return the modules that each module imports, including lazy imports and those for type checkers."""
    graph = {}
    for module, path in FILES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[module] = set().union(*map(targets, ast.walk(tree)))
    return graph


def row(module):
    """Return the row of a module, or of the package that contains it, in ORDER; None if it is missing."""
    top = module.partition(".")[0]
    return next((i for i, names in enumerate(ORDER) if top in names), None)


def cycle(graph):
    """Return the modules that are in a cycle or lead to one."""
    graph = {module: set(others) for module, others in graph.items()}
    while free := {module for module, others in graph.items() if not others & graph.keys()}:
        for module in free:
            del graph[module]
    return sorted(graph)


def test_the_graph_is_read_from_the_sources():
    graph = imports()
    assert graph["error"] == set()
    assert graph["_registry"] == {"error", "_log", "_text"}
    assert {"_event", "_handler", "_manager", "error"} <= graph[""]
    assert "" in graph["handler.file"]
    assert "_files" in graph["handler.file"]


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        pytest.param({"a": {"b"}, "b": {"c"}, "c": set()}, [], id="a chain"),
        pytest.param({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["a", "b", "c"], id="a cycle and a module that leads to it"),
        pytest.param({"a": {"a"}}, ["a"], id="itself"),
    ],
)
def test_import_cycle_is_detected(graph, expected):
    assert cycle(graph) == expected


def test_every_module_has_its_place_in_the_order():
    assert [module for module in FILES if row(module) is None] == []


def test_no_import_goes_against_the_order():
    violations = [
        f"event.{module} imports event.{other}"
        for module, others in imports().items()
        for other in others
        if row(other) > row(module)
    ]
    assert violations == []


def test_no_import_cycle_exists():
    assert cycle(imports()) == []


def test_handlers_import_only_allowed_modules_and_never_each_other():
    wrong = {m: others - FOR_HANDLERS for m, others in imports().items() if m.startswith("handler.")}
    assert {module: others for module, others in wrong.items() if others} == {}


def test_the_package_of_the_handlers_imports_nothing():
    assert loaded("import event.handler", before="import event") == {"event.handler"}


# Completeness: every list has every handler.

BUILTINS = set(_registry.BUILTINS)


def requirement(name):
    return getattr(_registry.get_handler(name), "requires", None)


def stems(directory, pattern):
    return {path.stem for path in (CHECKOUT / directory).glob(pattern)}


def test_every_handler_with_references_lists_them():
    resolving = {
        path.stem for path in (PACKAGE / "handler").glob("*.py") if "resolve_secret(" in path.read_text("utf-8")
    } | {"smtp"}  # _net.mail_server resolves its passwords
    assert {name for name in BUILTINS if getattr(_registry.get_handler(name), "references", ())} == resolving


def test_every_built_in_has_a_file_and_every_file_is_a_built_in():
    assert {path.stem for path in (PACKAGE / "handler").glob("*.py")} - {"__init__"} == BUILTINS
    assert {module for module, _ in _registry.BUILTINS.values()} == {f"event.handler.{name}" for name in BUILTINS}


def test_every_built_in_is_an_entry_point_of_pyproject():
    points = lowest.project()["entry-points"]
    assert points["event.handler"] == {name: ":".join(place) for name, place in _registry.BUILTINS.items()}
    # Not e3.event.handler: e3-core declares four of the names there, and refuses a name that is declared twice.
    assert set(points) == {"event.handler", "pyinstaller40"}


def test_every_built_in_is_an_entry_point_of_the_installed_distribution():
    from importlib.metadata import distribution

    points = [p for p in distribution("e3-event").entry_points if p.group in _registry.GROUPS]
    assert {p.name: p.value for p in points} == {n: ":".join(place) for n, place in _registry.BUILTINS.items()}
    assert {p.group for p in points} == {"event.handler"}
    assert all(p.load() is _registry.get_handler(p.name) for p in points)


@pytest.mark.parametrize("name", sorted(BUILTINS))
def test_every_handler_that_needs_an_extra_declares_it(name):
    source = FILES[f"handler.{name}"].read_text(encoding="utf-8")
    assert any(load in source for load in ("import_extra", "load_client", "s3.Store(")) == bool(requirement(name))


def test_every_built_in_has_a_page_in_the_docs():
    assert stems("docs/reference/handlers", "*.md") - {"index"} == BUILTINS


def test_every_built_in_has_a_test_file_or_a_folder_of_tests():
    folders = {path.parent.name for path in (CHECKOUT / "tests" / "handler").glob("*/test_*.py")}
    files = {stem.removeprefix("test_") for stem in stems("tests/handler", "test_*.py")}
    assert sorted([*folders, *files]) == sorted(BUILTINS)


def test_typing_names_are_only_imported_for_type_checkers():
    """`from typing import Any` outside of `if TYPE_CHECKING:` would double the time of `import event`."""
    for module, path in FILES.items():
        if module.startswith("_broker."):
            continue  # loaded with a client library, which imports typing anyway
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module} if isinstance(node, ast.ImportFrom) else set()
            assert not names & {"typing", "typing_extensions"}, module


def test_wheel_is_marked_as_typed():
    assert (PACKAGE / "py.typed").is_file()
