"""The manager: its handlers, their failures, dumped events, and E3_EVENT_HANDLERS."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import event
from event import EventError, EventManager
from helpers.plugins import DUCK, Site

VARIABLE = "E3_EVENT_HANDLERS"


class Recorder(event.EventHandler):
    """Handler that records events, and returns or raises its result."""

    def __init__(self, result=True):
        self.result = result
        self.events = []

    def send_event(self, event):
        self.events.append(event)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


class NoTruthError(Exception):
    pass


class NoTruth:
    def __bool__(self):
        raise NoTruthError


@pytest.fixture
def manager():
    return EventManager()


@pytest.fixture
def site(tmp_path, monkeypatch):
    return Site(tmp_path / "site", monkeypatch)


def add(manager, **results):
    for name, result in results.items():
        manager.handlers[name] = Recorder(result)
    return list(manager.handlers.values())


# Sending.


def test_new_manager_has_no_handlers_and_accepts_every_event(manager):
    assert manager.handlers == {}
    assert manager.send_event(event.Event("compile")) is True
    assert EventManager().handlers is not manager.handlers


def test_every_handler_gets_the_event_in_the_order_of_adding(manager):
    order = []
    for name in ("b", "a", "c"):
        manager.handlers[name] = Recorder()
        manager.handlers[name].send_event = lambda sent, name=name: order.append((name, sent)) or True
    e = event.Event("compile")
    assert manager.send_event(e) is True
    assert order == [("b", e), ("a", e), ("c", e)]


@pytest.mark.parametrize("result", [False, None, 0, "", []])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_false_result_makes_the_total_false_and_stops_no_handler(manager, result, position):
    handlers = add(manager, a=True, b=True, c=True)
    handlers[position].result = result
    assert manager.send_event(event.Event("compile")) is False
    assert [len(handler.events) for handler in handlers] == [1, 1, 1]


@pytest.mark.parametrize("result", [1, "yes", [0], object()])
def test_any_true_result_counts_as_delivered(manager, result):
    add(manager, a=result, b=True)
    assert manager.send_event(event.Event("compile")) is True


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(RuntimeError("no disk"), id="raises"),
        pytest.param(EventError("no disk"), id="raises EventError"),
        pytest.param(OSError(28, "no disk"), id="raises OSError"),
        pytest.param(NoTruth(), id="returns a value without a truth value"),
    ],
)
def test_a_raising_handler_does_not_stop_the_next_one(manager, result, caplog):
    _, second = add(manager, first=result, second=True)
    e = event.Event("compile")
    assert manager.send_event(e) is False
    assert second.events == [e]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("event", logging.ERROR)
    assert "handler first failed" in record.getMessage()
    assert record.exc_info[1] is result or isinstance(record.exc_info[1], NoTruthError)
    assert "Traceback" in caplog.text


def test_manager_logs_nothing_for_a_handler_that_returns_false(manager, caplog):
    add(manager, a=False)
    manager.send_event(event.Event("compile"))
    assert caplog.records == []


def test_interrupt_propagates(manager, caplog):
    _, second = add(manager, a=KeyboardInterrupt(), b=True)
    with pytest.raises(KeyboardInterrupt):
        manager.send_event(event.Event("compile"))
    assert second.events == []
    assert caplog.records == []


def test_handler_that_exits_does_not_end_the_script(manager, caplog):
    _, second = add(manager, a=SystemExit(0), b=True)
    assert not manager.send_event(event.Event("compile"))
    assert len(second.events) == 1
    assert "handler a failed" in caplog.text


def test_handlers_changed_during_a_send_do_not_affect_it(manager):
    late = Recorder()

    class Changes(Recorder):
        def send_event(self, event):
            manager.handlers["late"] = late
            manager.handlers.pop("gone", None)
            return super().send_event(event)

    manager.handlers["changes"] = Changes()
    (_, gone) = add(manager, gone=True)
    assert manager.send_event(event.Event("first")) is True
    assert len(gone.events) == 1
    assert late.events == []
    manager.send_event(event.Event("second"))
    assert len(gone.events) == 1
    assert [e.name for e in late.events] == ["second"]


def test_the_arguments_of_a_failed_handler_are_not_logged(manager, site, caplog, monkeypatch):
    site.plugin("acme", DUCK + "\n    def send_event(self, event):\n        raise RuntimeError('no')\n")
    caplog.set_level(logging.DEBUG)
    manager.add_handler("acme", "hunter2")
    monkeypatch.setenv(VARIABLE, "acme:b=hunter2")
    manager.load_handlers_from_env()
    assert manager.send_event(event.Event("compile", password="hunter2")) is False
    manager.handler_config_as_env()
    assert "handler acme failed" in caplog.text
    assert "handler acme:b failed" in caplog.text
    assert "hunter2" not in caplog.text


def test_dispatch_returns_the_result_of_each_handler(manager, caplog):
    error = RuntimeError("no disk")
    handlers = add(manager, a=True, b=False, c=error, d=NoTruth(), e=1)
    outcome = manager.dispatch(event.Event("compile"))
    assert isinstance(outcome, event.Outcome)
    assert not outcome
    assert [(d.handler, d.ok) for d in outcome] == [("a", True), ("b", False), ("c", False), ("d", False), ("e", True)]
    assert [type(d.error) for d in outcome] == [type(None), type(None), RuntimeError, NoTruthError, type(None)]
    assert all(d.seconds >= 0 for d in outcome)
    assert [len(handler.events) for handler in handlers] == [1] * 5
    assert caplog.records == []
    assert EventManager().dispatch(event.Event("compile"))


def test_dispatch_propagates_an_interrupt(manager):
    add(manager, a=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        manager.dispatch(event.Event("compile"))


# Sending dumped events.


@pytest.fixture
def dumped(tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"compiled\n")
    with event.Event("compile", target="arm") as e:
        e.attach_file(log, "first")
        e.attach_file(log, "log")
    return e.dump(tmp_path / "events")


@pytest.mark.parametrize("kind", [str, os.fsencode, lambda path: __import__("pathlib").Path(path)])
def test_a_dumped_event_is_loaded_and_sent(manager, dumped, kind):
    (handler,) = add(manager, a=True)
    assert manager.send_event_from_file(kind(dumped)) is True
    (sent,) = handler.events
    assert (sent.name, sent.target) == ("compile", "arm")
    assert list(sent.get_attachments()) == ["first", "log"]


def test_dumped_event_that_is_not_delivered_returns_false(manager, dumped):
    add(manager, a=False)
    assert manager.send_event_from_file(dumped) is False


def _remove(path):
    path.unlink()


def _change(path):
    path.write_bytes(b"Compiled\n")


def _directory(path):
    path.unlink()
    path.mkdir()


def _link_to_device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def _fifo(path):
    path.unlink()
    os.mkfifo(path)


POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: Windows has no FIFO and no /dev")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param((_remove, "no such file"), id="missing"),
        pytest.param((_change, "has changed"), id="changed"),
        pytest.param((_directory, "not a regular file"), id="a directory"),
        pytest.param((_link_to_device, "not a regular file"), id="a link to /dev/zero", marks=POSIX),
        pytest.param((_fifo, "not a regular file"), id="a FIFO", marks=POSIX),
    ],
)
def test_dumped_event_with_a_changed_attachment_is_not_sent(manager, dumped, tmp_path, caplog, case):
    damage, reason = case
    damage(tmp_path / "build.log")
    (handler,) = add(manager, a=True)
    assert manager.send_event_from_file(dumped) is False
    assert handler.events == []
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("event", logging.ERROR)
    assert dumped in record.getMessage()
    assert "'first'" in record.getMessage()
    assert reason in record.getMessage()


def test_changed_attachment_returns_false_even_without_handlers(manager, dumped, tmp_path):
    _change(tmp_path / "build.log")
    assert manager.send_event_from_file(dumped) is False


def test_a_dumped_event_without_attachments_is_sent(manager, tmp_path):
    (handler,) = add(manager, a=True)
    path = event.Event("n", uid="u").dump(tmp_path)
    assert manager.send_event_from_file(path)
    assert [e.uid for e in handler.events] == ["u"]


def test_a_file_that_is_no_event_is_an_error_that_names_it(manager, tmp_path):
    (handler,) = add(manager, a=True)
    path = tmp_path / "odd.json"
    path.write_text("{")
    with pytest.raises(EventError, match=r"odd\.json is not a dumped event"):
        manager.send_event_from_file(path)
    with pytest.raises(FileNotFoundError):
        manager.send_event_from_file(tmp_path / "none.json")
    assert handler.events == []


# Adding.


def test_a_handler_without_json_does_not_load_it(manager, monkeypatch):
    for name in ("event._json", "event._json_plain"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    manager.add_handler("logging")
    assert "event._json_plain" not in sys.modules


def test_add_handler_constructs_the_handler_with_its_arguments(manager, tmp_path):
    assert manager.add_handler("file", str(tmp_path)) is None
    manager.add_handler("logging", "builds", level=20)
    assert manager.handlers["file"].log_dir == str(tmp_path)
    assert (manager.handlers["logging"].logger_name, manager.handlers["logging"].level) == ("builds", 20)


def test_get_handler_returns_the_class(manager):
    from event.handler.file import FileHandler

    assert manager.get_handler("file") is FileHandler
    assert manager.get_handler("file:nightly") is FileHandler
    with pytest.raises(EventError, match="did you mean 'file'"):
        manager.get_handler("flie")


def test_adding_a_name_again_replaces_the_handler_in_its_place(manager):
    manager.add_handler("file", "one")
    manager.add_handler("logging")
    manager.add_handler("file", "two")
    assert list(manager.handlers) == ["file", "logging"]
    assert manager.handlers["file"].log_dir == "two"


def test_label_allows_two_handlers_of_one_kind(manager):
    manager.add_handler("file", "one")
    manager.add_handler("file:nightly", "two")
    assert {name: handler.log_dir for name, handler in manager.handlers.items()} == {
        "file": "one",
        "file:nightly": "two",
    }


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        pytest.param("file", (), TypeError, id="an argument is missing"),
        pytest.param("file", ("a", "b"), TypeError, id="an argument too many"),
        pytest.param("file", ("",), EventError, id="an argument that the handler refuses"),
        pytest.param("nosuch", (), EventError, id="no such handler"),
    ],
)
def test_a_constructor_that_fails_changes_nothing(manager, name, arguments, error):
    manager.add_handler("file", "one")
    before = dict(manager.handlers)
    with pytest.raises(error):
        manager.add_handler(name, *arguments)
    assert manager.handlers == before


def test_a_plugin_s_handler_is_added_and_sent_to(manager, site):
    site.plugin("acme")
    manager.add_handler("acme", where="there")
    e = event.Event("compile")
    assert manager.send_event(e) is True
    assert manager.handlers["acme"].events == [e]


# E3_EVENT_HANDLERS.


def test_the_variable_adds_handlers_in_order(manager, monkeypatch):
    monkeypatch.setenv(VARIABLE, "logging=builds,20|file=a=b|logging:again")
    manager.load_handlers_from_env()
    assert list(manager.handlers) == ["logging", "file", "logging:again"]
    assert (manager.handlers["logging"].logger_name, manager.handlers["logging"].level) == ("builds", 20)
    assert manager.handlers["file"].log_dir == "a=b"
    assert (manager.handlers["logging:again"].logger_name, manager.handlers["logging:again"].level) == ("", 10)


def test_handlers_can_be_read_from_another_variable(manager, monkeypatch):
    monkeypatch.setenv("OTHER", "file=a")
    monkeypatch.setenv(VARIABLE, "file=b")
    manager.load_handlers_from_env("OTHER")
    assert manager.handlers["file"].log_dir == "a"
    manager.load_handlers_from_env(var_name=VARIABLE)
    assert manager.handlers["file"].log_dir == "b"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(None, [], id="unset"),
        pytest.param("", [], id="empty"),
        pytest.param("  ", [], id="blank"),
        pytest.param("|", [], id="a bar"),
        pytest.param(" | |\t", [], id="blank entries"),
        pytest.param("|file=a||", ["file"], id="blank entries around one"),
        pytest.param("  file = a | logging ", ["file", "logging"], id="spaces around names"),
        pytest.param("file:x=a", ["file:x"], id="a label"),
        pytest.param("\nfile=a|\nlogging\n", ["file", "logging"], id="an entry a line"),
    ],
)
def test_blanks_in_the_variable_are_no_error(manager, monkeypatch, value, expected):
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    manager.load_handlers_from_env()
    assert list(manager.handlers) == expected


def test_later_entries_override_earlier_ones_and_keep_other_handlers(manager, monkeypatch):
    add(manager, mine=True)
    manager.add_handler("logging", "before")
    before = manager.handlers["logging"]
    monkeypatch.setenv(VARIABLE, "file=a|file=b|file:x=c")
    manager.load_handlers_from_env()
    assert list(manager.handlers) == ["mine", "logging", "file", "file:x"]
    assert manager.handlers["logging"] is before
    assert manager.handlers["file"].log_dir == "b"
    monkeypatch.setenv(VARIABLE, "logging=after,10")
    manager.load_handlers_from_env()
    assert manager.handlers["logging"].logger_name == "after"
    assert list(manager.handlers) == ["mine", "logging", "file", "file:x"]


@pytest.mark.parametrize("parameter", ["config_str", "_config_str", "config_str, /"])
def test_a_plugin_s_configuration_is_passed_by_position(manager, site, monkeypatch, parameter):
    site.plugin(
        "acme",
        DUCK.replace("cls, config_str", f"cls, {parameter}").replace(": config_str}", f": {parameter.split(',')[0]}}}"),
    )
    monkeypatch.setenv(VARIABLE, "acme=a,b=c")
    manager.load_handlers_from_env()
    assert manager.handlers["acme"].where == "a,b=c"
    monkeypatch.setenv("COPY", "")
    manager.handler_config_as_env("COPY")
    assert os.environ["COPY"] == "acme=a,b=c"


BROKEN = {
    "absent=1": "no handler is named 'absent'",
    "=1": "no handler is named ''",
    "logging=a,SHOUT": "there is no such level",
    "file=": "log directory",
    "file:x": "log directory",
    "unimportable=1": "unimportable_plugin:Handler of unimportable-plugin) fails to import: SystemExit: 3",
    "nothing=1": "is not a handler",
    "twice=1": "registered more than once",
    "refuses=1": "ValueError: refused",
    "odd=1": "TypeError",
    "bare=1": "decode_config",
    "fussy=1": "TypeError",
}


@pytest.fixture
def broken_plugins(site):
    site.plugin("unimportable", "import sys; sys.exit(3)")
    site.plugin("nothing", "class Handler: pass")
    site.plugin("twice", distribution="twice-one")
    site.plugin("twice", distribution="twice-two")
    site.plugin("refuses", DUCK.replace("return {", "raise ValueError('refused'); return {"))
    site.plugin("odd", DUCK.replace("return {", "return 1, {"))
    site.plugin("bare", "class Handler:\n    def send_event(self, event):\n        return True\n")
    site.plugin("fussy", DUCK.replace("return {", "return {'nowhere': 1, "))


@pytest.mark.usefixtures("broken_plugins")
@pytest.mark.parametrize("entry", BROKEN)
def test_unloadable_entry_is_an_error_and_others_are_loaded(manager, monkeypatch, entry):
    add(manager, mine=True)
    monkeypatch.setenv(VARIABLE, f"file:first=a|{entry}|file:last=b")
    with pytest.raises(EventError) as caught:
        manager.load_handlers_from_env()
    message = str(caught.value)
    assert message.startswith(f"{entry.partition('=')[0]}: ")
    assert BROKEN[entry] in message
    assert VARIABLE in message
    assert caught.value.__cause__ is not None
    assert list(manager.handlers) == ["mine", "file:first", "file:last"]


@pytest.mark.usefixtures("broken_plugins")
def test_error_names_each_entry_that_could_not_be_loaded(manager, monkeypatch):
    monkeypatch.setenv("OTHER", "|".join([*BROKEN, "file:last=b"]))
    with pytest.raises(EventError) as caught:
        manager.load_handlers_from_env("OTHER")
    messages = str(caught.value).split(";\n")
    assert [message.partition(": ")[0] for message in messages] == [e.partition("=")[0] for e in BROKEN]
    assert all(part in message for part, message in zip(BROKEN.values(), messages, strict=True))
    assert all("OTHER" in message and "\n" not in message for message in messages)
    assert list(manager.handlers) == ["file:last"]


def test_handler_is_kept_if_its_new_entry_cannot_be_loaded(manager, monkeypatch):
    manager.add_handler("file", "a")
    before = manager.handlers["file"]
    monkeypatch.setenv(VARIABLE, "file=")
    with pytest.raises(EventError):
        manager.load_handlers_from_env()
    assert manager.handlers == {"file": before}


def test_a_configuration_may_hold_an_argument_called_name(manager, site, monkeypatch):
    source = DUCK.replace('where="nowhere"', "name").replace("= where", "= name").replace('"where"', '"name"')
    site.plugin("acme", source)
    monkeypatch.setenv(VARIABLE, "acme=there")
    manager.load_handlers_from_env()
    assert manager.handlers["acme"].where == "there"


def test_all_handlers_are_written_into_the_variable(manager, monkeypatch):
    monkeypatch.setenv(VARIABLE, "file=old")
    manager.add_handler("file", "a")
    manager.add_handler("logging", "builds", 20)
    manager.add_handler("file:x", "b,c")
    add(manager, mine=True)
    assert manager.handler_config_as_env() is None
    assert os.environ[VARIABLE] == "file=a|logging=builds,20|file:x=b,c|mine="


def test_no_handlers_are_an_empty_variable(manager, monkeypatch):
    monkeypatch.setenv(VARIABLE, "file=old")
    manager.handler_config_as_env()
    assert os.environ[VARIABLE] == ""
    other = EventManager()
    other.load_handlers_from_env()
    assert other.handlers == {}


def test_handlers_can_be_written_to_another_variable(manager, monkeypatch):
    monkeypatch.setenv("OTHER", "")
    manager.add_handler("file", "a")
    manager.handler_config_as_env(var_name="OTHER")
    assert os.environ["OTHER"] == "file=a"
    assert VARIABLE not in os.environ


class Configured(Recorder):
    def __init__(self, config):
        super().__init__()
        self.config = config

    def encode_config(self):
        if isinstance(self.config, Exception):
            raise self.config
        return self.config


@pytest.mark.parametrize(
    ("name", "config"),
    [
        pytest.param("acme", "a|b", id="a bar in the configuration"),
        pytest.param("ac|me", "a", id="a bar in the name"),
        pytest.param("ac=me", "a", id="an equals sign in the name"),
        pytest.param("", "a", id="no name"),
        pytest.param(" acme", "a", id="a space before the name"),
        pytest.param("acme", "a\0b", id="a NUL in the configuration"),
        pytest.param("ac\0me", "a", id="a NUL in the name"),
        pytest.param("acme", None, id="a configuration that is no string"),
        pytest.param("acme", RuntimeError("no"), id="encode_config raises"),
        pytest.param("acme", "\ud800", id="a lone surrogate"),
    ],
)
def test_unencodable_handler_is_an_error_with_its_name(manager, monkeypatch, name, config):
    monkeypatch.setenv(VARIABLE, "file=old")
    manager.add_handler("file", "a")
    manager.handlers[name] = Configured(config)
    with pytest.raises(EventError) as caught:
        manager.handler_config_as_env()
    assert repr(name).strip("'") in str(caught.value) or config == "\ud800"
    assert "a|b" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert os.environ[VARIABLE] == "file=old"


@pytest.mark.parametrize("var_name", ["", "A=B", "A\0B"])
def test_invalid_variable_name_is_an_error(manager, var_name):
    manager.add_handler("file", "a")
    with pytest.raises(EventError):
        manager.handler_config_as_env(var_name)


def test_bar_in_a_configuration_is_an_error_under_python_o():
    script = """
import os, event
class Acme(event.EventHandler):
    def send_event(self, event): return True
    def encode_config(self): return "a|b"
assert False, "-O removes this line"
event.default_manager.handlers["acme"] = Acme()
try:
    event.handler_config_as_env()
except event.EventError as error:
    print("acme" in str(error), "E3_EVENT_HANDLERS" in os.environ)
"""
    done = subprocess.run([sys.executable, "-O", "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"]


def test_a_child_process_has_the_parent_s_handlers(manager, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    target = tmp_path / "100%2C, done"
    manager.add_handler("file", target)
    manager.add_handler("file:other", tmp_path / "a|b%7Cc")
    manager.handler_config_as_env()
    script = "import event; event.load_handlers_from_env(); print(event.send_event(event.Event('compile')))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "True"
    if os.name != "nt":
        assert len(list((tmp_path / "a|b%7Cc").glob("compile-*.json"))) == 1
    assert len(list(target.glob("compile-*.json"))) == 1


TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), st.sampled_from(",|%2C7=25 "))
)
FILLED = TEXT.filter(bool)
URL = TEXT.map(lambda text: f"s3://bucket/x{text.replace('/', '')}x")
BUILT_IN = {
    "file": st.tuples(FILLED),
    "logging": st.tuples(TEXT, st.integers(0, 60)),
    "smtp": st.tuples(TEXT, st.just("ci@example.com"), st.just("dev@example.com"), st.just(["a.example", "[::1]:25"])),
    "s3": st.tuples(URL, URL, st.sampled_from(["AES256", "aws:kms", ""]), TEXT),
}


@pytest.mark.parametrize("kind", BUILT_IN)
@settings(deadline=None)
@given(data=st.data())
def test_built_in_handler_round_trips_through_the_environment(kind, data):
    one, other = EventManager(), EventManager()
    for label in ("", ":x"):
        one.add_handler(kind + label, *data.draw(BUILT_IN[kind]))
    one.handler_config_as_env()
    written = os.environ[VARIABLE]
    try:
        other.load_handlers_from_env()
        other.handler_config_as_env()
        assert os.environ[VARIABLE] == written
    finally:
        del os.environ[VARIABLE]
    assert list(other.handlers) == list(one.handlers)
    assert [*map(public_attributes, other.handlers.values())] == [*map(public_attributes, one.handlers.values())]


def public_attributes(handler):
    return {name: value for name, value in vars(handler).items() if not name.startswith("_")}


def test_duplicate_name_in_the_variable_is_a_warning(manager, monkeypatch, caplog):
    monkeypatch.setenv("E3_EVENT_HANDLERS", "file=one|file=two")
    manager.load_handlers_from_env()
    assert manager.handlers["file"].log_dir == "two"
    assert caplog.messages[0].startswith("E3_EVENT_HANDLERS: 'file' appears twice, and the last one is used; ")


@pytest.mark.parametrize("name", ["none", "NONE", "None", ""])
def test_none_in_any_case_is_no_outbox(name):
    assert EventManager(outbox=name).outbox is None


def test_tilde_of_an_outbox_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("USERPROFILE" if os.name == "nt" else "HOME", str(tmp_path))
    monkeypatch.setenv("E3_EVENT_OUTBOX", "~/ob")
    assert EventManager().outbox == str(tmp_path / "ob")
