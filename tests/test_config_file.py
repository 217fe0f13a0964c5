"""The configuration file: its settings, its errors, and how it is found."""

from __future__ import annotations

import json
import os
import sys
import textwrap

import pytest

import event
from event import _config_file, _places, _registry
from event._config_file import fixed_handlers, read_config_file
from event._handler_config import is_invalid_config, require_valid_config
from event._outbox import Outbox
from event.error import EventError
from event.handler import broker, http

POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: Windows has other permissions")
ROOT = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="platform: only root gives files to another user"
)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a file and returns its path."""
    place = tmp_path / "project"
    place.mkdir()
    monkeypatch.chdir(place)

    def make(text, name="e3-event.toml"):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), "utf-8")
        path.chmod(0o644)
        return str(path)

    return make


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    """Replace the installed plugins by a set of names, which a test can change."""
    installed = {"acme", "bare"}
    monkeypatch.setattr(_registry, "is_installed", lambda kind: kind in installed | {*_registry.BUILTINS})
    return installed


# Its settings.

EXAMPLES = {
    "file": ('directory = "events"', {"log_dir": "{here}/events"}),
    "logging": ('logger = "build"\nlevel = "ERROR"', {"logger_name": "build", "level": 40}),
    "smtp": (
        'subject = "Nightly, again"\nfrom = "ci@x.test"\nto = ["a@x.test", "b@x.test"]\nserver = ["one", "file:two"]\n'
        'title = "{name}, done"\nbody = "x"',
        {
            "subject": "Nightly, again",
            "from_addr": "ci@x.test",
            "to_addr": "a@x.test, b@x.test",
            "smtp_servers": ["one", "file:{here}/two"],
            "title": "{name}, done",
            "body": "x",
        },
    ),
    "s3": (
        'event_url = "s3://a/b"\nlog_url = "s3://c/d"\nprofile = "ci,x"',
        {"event_s3_url": "s3://a/b", "log_s3_url": "s3://c/d", "sse": "AES256", "profile": "ci,x"},
    ),
    "http": (
        'url = "file:hook"\nevent_type = "test.build"\ntimeout = 5',
        {"url": "file:{here}/hook", "type": "test.build", "timeout": "5"},
    ),
    "apprise": (
        'urls = ["env:A", "file:b"]\nbody = "x, y"',
        {"urls": "env:A file:{here}/b", "title": "", "body": "x, y"},
    ),
    "otel": (
        'endpoint = "http://x"\nheaders = ["a=1", "b=2"]',
        {"endpoint": "http://x", "service": "", "headers": "a=1,b=2"},
    ),
    "broker": (
        'url = "env:B"\nlimit = 100\nprofile = "p"',
        {"url": "env:B", "limit": "100", "profile": "p"},
    ),
}


def test_every_option_of_a_handler_has_a_named_key():
    for kind, module in (("http", http), ("broker", broker)):
        options = {_config_file.HANDLER_NAMES.get(key, key) for key in _config_file.BUILTIN_KEYS[kind].options}
        (known,) = (value for name, value in vars(module).items() if name.endswith("_OPTIONS"))
        assert options == set(known)


def test_every_built_in_has_named_keys():
    assert set(_config_file.BUILTIN_KEYS) == set(EXAMPLES) == set(_registry.BUILTINS)


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_the_named_keys_are_the_arguments_of_the_handler(write, kind):
    keys, expected = EXAMPLES[kind]
    path = write(f"[handlers.{kind}]\n{keys}\n")
    ((name, config),) = read_config_file(path).handlers
    decoded = _registry.get_handler(name).decode_config(config)
    here = os.path.dirname(path)
    assert json.dumps(decoded) == json.dumps(expected).replace("{here}", here)


def test_omitted_keys_add_nothing_to_the_configuration(write):
    assert read_config_file(write('[handlers.http]\nurl = "http://x"\n')).handlers == [("http", "http://x")]


def test_table_with_a_type_adds_a_label(write):
    path = write('[handlers.mail]\ntype = "file"\ndirectory = "/x"\non = ["failure", "fixed"]\n')
    assert read_config_file(path).handlers == [("file:mail@failure+fixed", "/x")]


def test_plugin_is_configured_by_one_text(write):
    content = read_config_file(write('[handlers.acme]\nconfig = "a=1"\non = "failure"\n[handlers.bare]\n'))
    assert content.handlers == [("acme@failure", "a=1"), ("bare", "")]


def test_built_in_handler_can_have_its_configuration_as_one_text(write):
    assert read_config_file(write('[handlers.file]\nconfig = "/x"\n')).handlers == [("file", "/x")]


def test_other_settings_are_read(write):
    path = write('outbox = "box"\ntimeout = 2.5\nredact = ["env:X"]\n')
    content = read_config_file(path)
    assert content.outbox == os.path.join(os.path.dirname(path), "box")
    assert (content.timeout, content.redact) == (2.5, ["env:X"])
    assert repr(content) == f"<ConfigFile {path}: no handlers>"


def test_outbox_and_redaction_can_be_disabled(write):
    content = read_config_file(write('outbox = "None"\nredact = false\n'))
    assert (content.outbox, content.redact, content.timeout) == ("None", False, None)


@pytest.mark.parametrize(
    ("when", "used"),
    [
        pytest.param('"CI"', True, id="set"),
        pytest.param('"!CI"', False, id="not set"),
        pytest.param('"GONE"', False, id="missing"),
        pytest.param('"BRANCH=rel-*"', True, id="pattern"),
        pytest.param('"!BRANCH=rel-*"', False, id="not the pattern"),
        pytest.param('["CI", "BRANCH=main"]', False, id="all of them"),
    ],
)
@pytest.mark.parametrize("place", ["top", "handler"])
def test_handler_is_used_if_its_environment_condition_is_met(write, monkeypatch, when, used, place):
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("BRANCH", "rel-1")
    monkeypatch.delenv("GONE", raising=False)
    line = f"when = {when}\n"
    path = write(f"{line if place == 'top' else ''}[handlers.acme]\n{line if place == 'handler' else ''}")
    content = read_config_file(path)
    assert (content.handlers, content.unused) == (([("acme", "")], []) if used else ([], ["acme"]))


def test_table_in_pyproject_is_read(write):
    path = write('[project]\nname = "x"\n[tool.e3-event.handlers.acme]\n', "pyproject.toml")
    assert read_config_file(path).handlers == [("acme", "")]
    assert _places.config_file() == path


# Its errors.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('outbx = "x"', "outbx: is unknown; did you mean 'outbox'?", id="unknown key"),
        pytest.param(
            "zzz = 1", "zzz: is unknown; expected one of handlers, outbox, redact, timeout, when", id="no similar key"
        ),
        pytest.param(
            '[handlers.smtp]\nsever = "x"',
            "handlers.smtp.sever: is unknown; did you mean 'server'",
            id="unknown key of a handler",
        ),
        pytest.param(
            '[handlers.acme]\nurl = "x"',
            "handlers.acme.url: is unknown; expected one of config, on",
            id="unknown key of a plugin",
        ),
        pytest.param("[handlers.file]", "handlers.file.directory: is missing", id="missing"),
        pytest.param(
            '[handlers.file]\ndirectory = ["x"]',
            "handlers.file.directory: expected a text or a n",
            id="list instead of text",
        ),
        pytest.param(
            '[handlers.smtp]\nsubject = "x"\nfrom = "f"\nto = [1]\nserver = "s"',
            "smtp.to: expected",
            id="list of numbers",
        ),
        pytest.param(
            '[handlers.smtp]\nsubject = true\nfrom = "f"\nto = "t"\nserver = "s"', "smtp.subject: exp", id="bool"
        ),
        pytest.param(
            '[handlers.file]\nconfig = "x"\ndirectory = "y"',
            "expected either config or named keys",
            id="config and named keys",
        ),
        pytest.param('[handlers.acme]\non = "weekly"', "handlers.acme.on: 'weekly' is not a condition", id="condition"),
        pytest.param('[handlers.acme]\nconfig = "a|b"', "handlers.acme: acme: its configuration must be", id="a bar"),
        pytest.param("[handler.file]", "handler: is unknown; did you mean 'handlers'?", id="unknown table"),
        pytest.param("[[handler]]", "handler: is unknown; did you mean 'handlers'?", id="unknown array of tables"),
        pytest.param(
            '[handlers.mail]\ntype = "fil"\ndirectory = "x"',
            "handlers.mail.type: no handler is named 'fil', did you mean 'file'? There are: apprise, broker, file, ",
            id="type",
        ),
        pytest.param("[handlers.fiel]", "handlers.fiel: no handler is named 'fiel', did you mean 'file'?", id="kind"),
        pytest.param("[handlers.acme]\non = []", "handlers.acme.on: expected at least one condition", id="empty on"),
        pytest.param("[handlers.acme]\nwhen = []", "handlers.acme.when: expected at least one", id="empty when"),
        *(
            pytest.param(
                f"[handlers.acme]\nwhen = '{when}'",
                f"handlers.acme.when: {when!r} is not a condition; expected NAME, !NAME, NAME=PATTERN or !NAME=PATTERN",
                id=when,
            )
            for when in ("CI==1", "CI!=2", "$CI", "CI and X", "CI,X", "! CI", "!!CI", "=", "!", "É", "CI ")
        ),
        pytest.param("when = '!'", "when: '!' is not a condition; expected NAME", id="when of the file"),
        pytest.param("handlers = 1", "handlers: expected tables, as in [handlers.mail]", id="handlers as a number"),
        pytest.param(
            "[handlers]\nmail = 1", "handlers.mail: expected a table, as in [handlers.mail]", id="handler as a number"
        ),
        pytest.param("timeout = 0", "timeout: is 0; expected a positive number", id="zero timeout"),
        pytest.param("timeout = true", "timeout: is True; expected a positive number", id="boolean timeout"),
        pytest.param('timeout = "5"', "timeout: is '5'; expected a positive number", id="text timeout"),
        pytest.param('outbox = ""', "outbox: expected a text that is not empty", id="empty outbox"),
        pytest.param("redact = 1", "redact: expected a text or a list of texts", id="redact"),
        pytest.param("when = [1]", "when: expected a text or a list of texts", id="when"),
        pytest.param("= 1", "is not TOML: ", id="not TOML"),
        pytest.param('[handlers."a|b"]\nx = 1', "handlers.a|b: no handler is named 'a|b'", id="invalid name"),
        pytest.param('[handlers."a|b"]\ntype = "acme"', "a|b: 'acme:a|b': a name must not", id="invalid label"),
        pytest.param('[handlers]\n"a|b" = 1', "handlers.a|b: expected a table", id="invalid name without a table"),
    ],
)
def test_error_is_reported_with_the_file_and_the_key(write, text, message):
    path = write(text)
    (reason,) = mistakes_in(path)
    assert reason.startswith(f"{path}: ")
    assert message in reason


def mistakes_in(path):
    """Return all errors of a file: its problems and those of its handlers."""
    content = read_config_file(path)
    return [*content.problems, *(reason_of(config) for _, config in content.handlers if is_invalid_config(config))]


def reason_of(config):
    with pytest.raises(EventError) as info:
        require_valid_config(config)
    return str(info.value)


def test_mistake_does_not_disable_the_rest_of_the_file(write, plugins):
    plugins |= {"good", "late", "none"}
    path = write(
        'outbx = "x"\ntimeout = -1\noutbox = "o"\n[handlers.good]\n[handlers.mail]\ntype = "smtp"\nsever = 1\n'
        'on = "failure"\n[handlers.late]\nwhen = 1\n[handlers]\nnone = 1\n'
    )
    content = read_config_file(path)
    assert content.outbox == os.path.join(os.path.dirname(path), "o")
    assert [problem.partition(": ")[2].partition(":")[0] for problem in content.problems] == ["outbx", "timeout"]
    assert [(name, is_invalid_config(config)) for name, config in content.handlers] == [
        ("good", False),
        ("smtp:mail@failure", True),
        ("late", True),
        ("none", True),
    ]


def test_each_unknown_key_is_named(write):
    path = write('aaa = 1\nbbb = 2\n[xxx]\n[handlers."a|b"]\n[handlers.acme]\nq1 = 1\nq2 = 2\n')
    assert [text.count("is unknown") for text in mistakes_in(path)] == [1, 1, 2, 1]


def test_mistakes_that_hide_handlers_become_one_invalid_handler(write):
    path = write('[handler.x]\n[handlers."a|b"]\ntype = "acme"\n[handlers.bare]\n')
    ((name, config), (other, hidden)) = read_config_file(path).handlers
    assert (name, config, other) == ("bare", "", "e3-event.toml")
    assert reason_of(hidden).startswith(f"{path}: handler: is unknown; did you mean 'handlers'?; handlers.a|b: ")


@POSIX
def test_name_of_the_file_becomes_a_valid_name_of_a_handler(write):
    ((name, _),) = read_config_file(write("= 1", "a|b=c@d.toml")).handlers
    assert name == "a?b?c?d.toml"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('when = "GONE"\n[handlers.acme]\nx = 1\n', id="when of the file"),
        pytest.param('[handlers.acme]\nwhen = "GONE"\nx = 1\n', id="when of the handler"),
        pytest.param('when = "GONE"\n[handler.acme]\nx = 1\n', id="unknown table"),
    ],
)
def test_mistake_in_an_unused_handler_is_a_problem_without_a_handler(write, monkeypatch, text):
    monkeypatch.delenv("GONE", raising=False)
    content = read_config_file(write(text))
    assert (content.handlers, len(content.problems)) == ([], 1)


@pytest.mark.parametrize(
    ("name", "text", "outbox"),
    [
        pytest.param("e3-event.toml", 'x\noutbox = "box" # x\n', "box", id="syntax"),
        pytest.param("e3-event.toml", '# \xe9\noutbox="box"\n[x]\noutbox = "y"\n', "box", id="bytes"),
        pytest.param("e3-event.toml", 'outbox = "b\xe9"\n', None, id="its own bytes"),
        pytest.param("e3-event.toml", "outbox = x\n", None, id="its own syntax"),
        pytest.param("e3-event.toml", "x\noutbox = 1\n", None, id="its own type"),
        pytest.param("pyproject.toml", 'x\noutbox = "y"\n[tool.e3-event]\noutbox = "box"\n', "box", id="pyproject"),
    ],
)
def test_outbox_is_read_from_a_file_that_is_not_toml(write, name, text, outbox):
    path = write("", name)
    with open(path, "wb") as file:
        file.write(text.encode("latin-1"))
    content = read_config_file(path)
    assert content.outbox == (outbox and os.path.join(os.path.dirname(path), outbox))
    assert content.hiding


@pytest.mark.parametrize(
    ("text", "redact"),
    [
        pytest.param('redact = ["env:X"]\nx\n', ["env:X"], id="syntax"),
        pytest.param('redact = ["env:X", ""]\nx\n', ["env:X"], id="another item is wrong"),
        pytest.param('x\nredact = [\n"env:X"]\n', None, id="several lines"),
    ],
)
def test_redaction_is_read_from_a_file_that_is_not_toml(write, text, redact):
    assert read_config_file(write(text)).redact == redact


def test_invalid_item_of_redact_does_not_remove_the_others(write):
    path = write('redact = ["env:X", "", 1, "file:pin", "file:/pin"]\n')
    content = read_config_file(path)
    assert content.redact == ["env:X", f"file:{os.path.join(os.path.dirname(path), 'pin')}", "file:/pin"]
    assert content.problems == [f"{path}: redact: expected a text or a list of texts, none of them empty"]


def test_file_whose_when_is_invalid_uses_no_handler(write):
    content = read_config_file(write('when = "!!CI"\n[handlers.acme]\n'))
    assert [name for name, _ in content.handlers] == ["e3-event.toml"]


def test_fixed_handlers_are_those_of_the_table_or_of_the_file(write, plugins):
    wrong = '[handlers.mail]\ntype = "fil"\n[handlers.bare]\nwhen = "GONE"\n'
    (kept,) = [config for name, config in read_config_file(write(wrong)).handlers if name == "fil:mail"]
    assert fixed_handlers(kept) is None
    write('redact = ["env:X"]\n= 1')
    assert fixed_handlers(kept) is None
    write('[handlers.mail]\ntype = "fil"\nx = 1\n')
    plugins.add("fil")
    ((name, config),), redact = fixed_handlers(kept)
    assert redact == []
    assert (name, is_invalid_config(config)) == ("fil:mail", True)
    write("redact = false\n" + wrong.replace("fil", "acme"))
    assert fixed_handlers(kept) == ([("acme:mail", "")], [])
    write('redact = ["env:X"]\n' + wrong.replace("fil", "acme").replace("mail", "post"))
    assert fixed_handlers(kept) == ([("acme:post", ""), ("bare", "")], ["env:X"])


def test_value_instead_of_the_table_in_pyproject_is_an_error(write):
    assert_unreadable(write('[tool]\ne3-event = "x"\n', "pyproject.toml"), "tool.e3-event: expected a table")
    assert read_config_file(write("tool = 1\n", "pyproject.toml")).handlers == []


def assert_unreadable(path, reason):
    """Check that the file has one invalid handler, with the file's name and the reason."""
    content = read_config_file(path)
    ((name, config),) = content.handlers
    assert (name, content.problems) == (os.path.basename(path), [])
    assert reason_of(config) == content.hiding
    assert content.hiding.startswith(f"{path}: ")
    assert reason in content.hiding


def test_a_file_that_cannot_be_read_is_an_error(write, tmp_path):
    assert_unreadable(str(tmp_path / "gone.toml"), "cannot be read: No such file")
    assert_unreadable(str(tmp_path), "is a directory; expected a file")
    path = write("")
    with open(path, "wb") as file:
        file.write(b"\xff")
    assert_unreadable(path, "is not UTF-8")
    with open(path, "wb") as file:
        file.write(b"#" * (_config_file.MAX_SIZE + 1))
    assert_unreadable(path, "is larger than")


@POSIX
def test_path_that_is_not_a_file_is_found_and_named(write, tmp_path, monkeypatch):
    path = os.path.realpath("e3-event.toml")
    os.symlink("gone", path)
    assert _places.config_file() == path
    assert_unreadable(path, "is a symbolic link to 'gone', which does not exist")
    os.unlink(path)
    os.symlink("e3-event.toml", path)
    assert_unreadable(path, "is a symbolic link to 'e3-event.toml', which does not exist")
    os.unlink(path)
    os.mkfifo(path)
    assert _places.config_file() == path
    assert_unreadable(path, "is not a regular file")


def test_any_error_of_the_parser_is_reported(write, monkeypatch):
    monkeypatch.setattr(_config_file, "_toml", lambda: 1 / 0)
    assert_unreadable(write(""), "ZeroDivisionError: division by zero")


@pytest.mark.parametrize("name", ["e3-event.toml", "pyproject.toml"])
def test_byte_order_mark_is_accepted(write, name):
    path = write("\ufeff[tool.e3-event]\ntimeout = 5\n" if name == "pyproject.toml" else "\ufefftimeout = 5\n", name)
    assert _places.config_file() == path
    content = read_config_file(path)
    assert (content.timeout, content.hiding) == (5, "")


@POSIX
@pytest.mark.parametrize("mode", [0o666, 0o646], ids=oct)
def test_file_writable_by_others_is_refused(write, mode):
    path = write("")
    os.chmod(path, mode)
    assert_unreadable(path, "can be changed by other users; run chmod go-w on it")


@ROOT
def test_group_writable_file_is_accepted_only_for_the_own_group(write):
    path = write("")
    os.chmod(path, 0o664)
    assert read_config_file(path).hiding == ""
    os.chown(path, 0, 12345)
    assert_unreadable(path, "can be changed by other users")


@ROOT
def test_a_file_of_another_user_is_refused(write):
    path = write("")
    os.chown(path, 12345, -1)
    assert_unreadable(path, "belongs to user 12345; expected user 0 or root to own it")


def test_python_without_a_toml_parser_is_an_error_with_the_package(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    assert_unreadable(write(""), 'run: pip install "e3-event[toml]"')


# How it is found.


def test_file_is_found_in_the_working_directory_or_above(write, tmp_path, monkeypatch):
    assert _places.config_file() is None
    path = write("")
    write("[tool.e3-event]\n", "pyproject.toml")
    assert _places.config_file() == path
    os.makedirs("a/b")
    monkeypatch.chdir("a/b")
    assert _places.config_file() == path
    nearest = write("[tool.e3-event]\n", "a/pyproject.toml")
    assert _places.config_file() == nearest


def test_pyproject_without_the_table_is_skipped(write):
    write('[project]\ndependencies = ["e3-event"]\n', "pyproject.toml")
    assert _places.config_file() is None


@POSIX
def test_unreadable_pyproject_is_skipped(write, monkeypatch):
    write("", "pyproject.toml")
    monkeypatch.setattr("builtins.open", lambda *_args: (_ for _ in ()).throw(PermissionError()))
    assert _places.config_file() is None


@POSIX
def test_removed_working_directory_has_no_file(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert _places.config_file() is None


def test_environment_variable_sets_or_disables_the_file(write, monkeypatch):
    write("")
    for none in ("none", "NONE"):
        monkeypatch.setenv("E3_EVENT_CONFIG", none)
        assert _places.config_file() is None
    monkeypatch.setenv("E3_EVENT_CONFIG", "~/x.toml")
    assert _places.config_file() == os.path.join(os.path.expanduser("~"), "x.toml")
    monkeypatch.setenv("E3_EVENT_CONFIG", "/etc/x.toml")
    assert _places.config_file() == "/etc/x.toml"


# The API.


def test_api_uses_the_handlers_and_the_other_settings(write, tmp_path):
    path = write('outbox = "box"\ntimeout = 9\nredact = false\n[handlers.file]\ndirectory = "d"\n')
    event.load_handlers_from_config()
    manager = event.default_manager
    assert [*manager.handlers] == ["file"]
    assert manager.outbox == os.path.join(os.path.dirname(path), "box") or os.environ["E3_EVENT_OUTBOX"] == "none"
    assert (manager.timeout, manager.redact) == (9, None)


def test_environment_variables_override_the_file(write, monkeypatch, tmp_path):
    write('outbox = "box"\ntimeout = 9\n[handlers.file]\ndirectory = "d"\n')
    monkeypatch.setenv("E3_EVENT_HANDLERS", "logging=x")
    monkeypatch.setenv("E3_EVENT_TIMEOUT", "3")
    monkeypatch.setenv("E3_EVENT_OUTBOX", str(tmp_path))
    manager = event.EventManager()
    manager.load_handlers_from_config()
    assert ([*manager.handlers], manager.timeout, manager.outbox) == (["logging"], 3, str(tmp_path))


def test_outbox_of_the_file_is_used_if_no_variable_is_set(write, monkeypatch):
    path = write('outbox = "box"\n')
    monkeypatch.delenv("E3_EVENT_OUTBOX")
    event.load_handlers_from_config(path)
    assert event.default_manager.outbox == os.path.join(os.path.dirname(path), "box")


def test_only_the_variable_is_used_without_a_file(write, monkeypatch):
    event.load_handlers_from_config()
    assert event.default_manager.handlers == {}
    monkeypatch.setenv("E3_EVENT_HANDLERS", "logging=x")
    event.load_handlers_from_config()
    assert [*event.default_manager.handlers] == ["logging"]


def test_unloadable_handler_is_an_error_with_the_file(write):
    path = write("[handlers.acme]\n")
    with pytest.raises(EventError) as info:
        event.load_handlers_from_config()
    assert str(info.value).endswith(f"(in {path})")


def test_child_processes_get_the_handlers_and_the_file(write, monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", "")
    monkeypatch.setenv("E3_EVENT_CONFIG", "")
    path = write('[handlers.mail]\ntype = "file"\ndirectory = "/d"\non = "failure"\n')
    event.load_handlers_from_config()
    event.handler_config_as_env()
    assert os.environ["E3_EVENT_HANDLERS"] == "file:mail@failure=/d"
    assert os.environ["E3_EVENT_CONFIG"] == path


def test_api_stores_events_for_an_invalid_handler_of_the_file(write, tmp_path, monkeypatch):
    monkeypatch.delenv("E3_EVENT_OUTBOX")
    path = write(
        f'outbox = "{tmp_path.as_posix()}/ob"\ntimeuot = 1\n[handlers.logging]\n[handlers.file]\ndirectry = "x"\n'
    )
    manager = event.EventManager()
    with pytest.raises(EventError) as info:
        manager.load_handlers_from_config(path)
    assert [message.removeprefix(f"{path}: ").partition(":")[0] for message in str(info.value).split(";\n")] == [
        "timeuot",
        "handlers.file.directry",
    ]
    assert [*manager.handlers] == ["logging"]
    assert manager.dispatch(event.Event("n"))
    ((_, entry),) = Outbox(manager.outbox).entries("waiting")
    assert [*entry.pending] == ["file"]


def test_each_invalid_handler_is_named(write):
    write("[handlers.logging]\nx = 1\n[handlers.file]\ny = 1\n[handlers.acme]\n")
    with pytest.raises(EventError) as info:
        event.load_handlers_from_config()
    shown = str(info.value)
    assert [word in shown for word in ("handlers.logging.x", "handlers.file.y", "'acme'")] == [True, True, True]


def test_api_stores_events_until_an_unreadable_file_is_fixed(write, tmp_path):
    path = write("= 1")
    manager = event.EventManager(outbox=tmp_path / "ob")
    with pytest.raises(EventError, match="is not TOML"):
        manager.load_handlers_from_config(path)
    manager.send_event(event.Event("n"))
    box = Outbox(tmp_path / "ob")
    write(f'[handlers.file]\ndirectory = "{tmp_path.as_posix()}/events"\n')
    (candidate,) = box.candidates(everything=True)
    assert [*box.claim(candidate).entry.pending] == ["file"]


def test_mistakes_in_the_file_are_errors_after_the_handlers_of_the_variable_are_loaded(write, monkeypatch):
    write("= 1")
    monkeypatch.setenv("E3_EVENT_HANDLERS", "logging")
    with pytest.raises(EventError, match="is not TOML"):
        event.load_handlers_from_config()
    assert [*event.default_manager.handlers] == ["logging"]
