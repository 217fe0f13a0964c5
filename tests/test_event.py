"""Events: data, attachments, closing, files, copies and sending IDs."""

from __future__ import annotations

import copy
import datetime
import hashlib
import inspect
import json
import logging
import math
import multiprocessing
import os
import pathlib
import pickle
import random
import re
import subprocess
import sys
import tempfile
import time
import uuid

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import event
from event import Event, EventError
from event._event_copies import with_attachments, with_delivered, with_sending
from event.handler.file import FileHandler

UNTIMED = settings(deadline=None)
DATA = pathlib.Path(__file__).parent / "data"
POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: POSIX only")
UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
METHODS = pytest.mark.parametrize("method", multiprocessing.get_all_start_methods() if os.name != "nt" else ["spawn"])


class Build(Event):
    """Subclass of a user, with its own constructor and date format."""

    def __init__(self, target):
        super().__init__("build", target=target)

    def format_date(self, key, value):
        return {f"{type(self).__name__}.{key}": value and "then"}


@pytest.fixture
def log_file(tmp_path):
    path = tmp_path / "build.log"
    path.write_bytes(b"all good\n")
    return path


# The identifier.


def test_an_identifier_is_a_random_uuid():
    ids = {event.unique_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(UUID4, one) for one in ids)
    parsed = uuid.UUID(next(iter(ids)))
    assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)
    varying = [{one[place] for one in ids} for place in range(36)]
    assert [len(seen) for place, seen in enumerate(varying) if place not in {8, 13, 14, 18, 19, 23}] == [16] * 30


def test_a_script_that_seeds_its_random_numbers_gets_new_identifiers():
    random.seed(1)
    first = event.unique_id()
    random.seed(1)
    assert event.unique_id() != first


FORK = """
import os, event
event.unique_id()
reading, writing = os.pipe()
for _ in range(8):
    if os.fork() == 0:
        os.write(writing, "".join(event.unique_id() + "\\n" for _ in range(20)).encode())
        os._exit(0)
os.close(writing)
with open(reading) as file:
    print(len(set(file.read().split())))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")
def test_forked_processes_draw_different_identifiers():
    run = subprocess.run([sys.executable, "-c", FORK], check=True, capture_output=True, text=True)
    assert int(run.stdout) == 160


# Data.


def test_new_event_has_four_values_then_the_keyword_arguments():
    before = time.time()
    e = Event("compile", target="arm", jobs=8)
    assert [*e._data] == ["uid", "name", "begin_time", "end_time", "target", "jobs"]
    assert re.fullmatch(UUID4, e.uid)
    assert before <= e.begin_time <= time.time()
    assert (e.name, e.end_time, e.target, e.jobs) == ("compile", None, "arm", 8)
    assert (e._closed, e._attachments) == (False, {})
    assert {*e._formatters} == {"begin_time", "end_time"}


def test_the_names_and_kinds_of_parameters_are_those_of_e3():
    assert str(inspect.signature(Event.__init__)).startswith(
        "(self, /, name: 'str', uid: 'str | None' = None, **kwargs"
    )
    assert [*inspect.signature(Event.attach_file).parameters] == ["self", "path", "name"]
    assert inspect.signature(Event.attach_file).parameters["name"].default == "log"
    assert [*inspect.signature(Event.set_formatter).parameters] == ["self", "key", "fun"]
    assert [*inspect.signature(Event.format_date).parameters] == ["key", "value"]
    assert [*inspect.signature(Event.dump).parameters] == ["self", "event_dir"]
    assert [*inspect.signature(Event.load).parameters] == ["json_filename"]


def test_keyword_arguments_can_replace_these_values_and_keep_the_order():
    e = Event("a", "u", end_time=2.0, begin_time=1.0, x=0)
    assert e._data == {"uid": "u", "name": "a", "begin_time": 1.0, "end_time": 2.0, "x": 0}
    assert [*e._data] == ["uid", "name", "begin_time", "end_time", "x"]
    assert Event(uid="u", name="a", self=1).as_dict()["self"] == 1


def test_values_are_read_in_the_order_they_were_set():
    e = Event("a", b=1)
    e.z, e.y, e.b = 1, 2, 3
    assert [*e.as_dict()][4:] == ["b", "z", "y"]
    assert (e.z, e.y, e.b) == (1, 2, 3)


def test_missing_attribute_is_an_error_with_class_and_name():
    with pytest.raises(AttributeError, match=r"'Build'.*'colour'"):
        _ = Build("arm").colour
    assert getattr(Event("a"), "colour", None) is None
    assert not hasattr(Event.__new__(Event), "_data")


def test_a_value_can_be_deleted_while_the_event_is_open():
    e = Event("a", x=1)
    del e.x
    assert not hasattr(e, "x")
    with pytest.raises(AttributeError, match=r"'Event'.*'x'"):
        del e.x
    with pytest.raises(AttributeError, match="'_data'"):
        del e._data
    e.y = None
    del e.y
    e.close()
    with pytest.raises(EventError, match="closed"):
        del e.name


def test_dir_lists_data_and_methods():
    assert {"colour", "uid", "attach_file"} <= {*dir(Event("a", colour=1))}


def test_repr_shows_the_state_but_no_values(log_file):
    e = Event("compile", "u1", password="s3cr3t")
    e.attach_file(log_file)
    assert repr(e) == "<Event 'compile' u1; open; data: password; attachments: log>"
    e.close()
    assert repr(e).startswith("<Event 'compile' u1; closed")
    assert repr(Event("a", "u")) == "<Event 'a' u; open>"
    del (bare := Event("a")).name
    assert "None" in repr(bare)


# Closing.


def test_a_closed_event_is_frozen(log_file):
    e = Event("a", "u", x=1)
    e.close()
    for change in (lambda: setattr(e, "x", 2), lambda: setattr(e, "new", 2), lambda: e.attach_file(log_file)):
        with pytest.raises(EventError) as caught:
            change()
        assert str(caught.value) == "event a (u) closed"
    assert e.x == 1
    assert "new" not in e.as_dict()
    assert e.get_attachments() == {}


def test_closing_sets_the_end_and_closing_again_changes_nothing():
    e = Event("a")
    e.close()
    end = e.end_time
    assert e.begin_time <= end <= time.time()
    e.close()
    assert e.end_time == end


def test_with_block_closes_the_event_and_exceptions_propagate():
    with Event("a") as e:
        assert not e._closed
        e.x = 1
    assert e._closed
    with pytest.raises(KeyError, match="k"), Event("a") as e:
        raise KeyError("k")
    assert e._closed
    with Event("a") as e:
        e.close()
        end = e.end_time
    assert e.end_time == end


# as_dict and formatters.


@pytest.mark.parametrize(
    ("value", "written"),
    [
        pytest.param(0.0, "1970-01-01T00:00:00", id="the epoch"),
        pytest.param(1700000000.9, "2023-11-14T22:13:20", id="a float"),
        pytest.param(1700000000, 1700000000, id="an int"),
        pytest.param("yesterday", "yesterday", id="a string"),
        pytest.param(None, None, id="None"),
        pytest.param(math.inf, math.inf, id="infinity"),
        pytest.param(1e300, 1e300, id="beyond the calendar"),
        pytest.param(-62135596800.0, "0001-01-01T00:00:00", id="year 1", marks=POSIX),
    ],
)
def test_float_date_is_formatted_in_utc_and_other_values_unchanged(monkeypatch, value, written):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    if hasattr(time, "tzset"):
        time.tzset()
    assert Event.format_date("k", value) == {"k": written}
    assert Event("a").format_date("k", value) == {"k": written}
    e = Event("a", begin_time=value, end_time=value)
    assert (e.as_dict()["begin_time"], e.as_dict()["end_time"]) == (written, written)
    monkeypatch.undo()
    if hasattr(time, "tzset"):
        time.tzset()


def test_nan_date_is_unchanged():
    assert math.isnan(Event.format_date("k", math.nan)["k"])


@UNTIMED
@given(st.floats(0, 4e9))
def test_date_format_equals_datetime(value):
    expected = datetime.datetime.fromtimestamp(math.floor(value), datetime.timezone.utc)
    assert Event.format_date("k", value)["k"] == f"{expected:%Y-%m-%dT%H:%M:%S}"


def test_as_dict_is_a_fresh_dict():
    e = Event("a", x=1)
    e.as_dict()["x"] = 2
    assert e.as_dict()["x"] == 1
    assert e.as_dict() is not e.as_dict()


def test_formatter_result_is_merged_in_place():
    e = Event("a", x=1, y=2)
    seen = []
    e.set_formatter("x", lambda key, value: seen.append((key, value)) or {"x1": value, "x2": value})
    e.set_formatter("y", lambda key, value: {})
    e.set_formatter("absent", lambda key, value: {"never": 1})
    assert [*e.as_dict()] == ["uid", "name", "begin_time", "end_time", "x1", "x2"]
    assert seen == [("x", 1)]
    assert "x1" not in Event("b", x=1).as_dict(), "another event got the formatter"


def test_formatter_can_be_set_after_closing():
    e = Event("a", begin_time=1.0)
    e.close()
    e.set_formatter("begin_time", lambda key, value: {key: f"t{value}"})
    assert e.as_dict()["begin_time"] == "t1.0"
    assert e.begin_time == 1.0


def test_exception_of_a_formatter_propagates(tmp_path):
    def fail(key, value):
        raise ZeroDivisionError(key)

    e = Event("a", x=1)
    e.set_formatter("x", fail)
    with pytest.raises(ZeroDivisionError, match="x"):
        e.as_dict()
    with pytest.raises(ZeroDivisionError):
        e.dump(tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_subclass_can_format_dates():
    assert Build("arm").as_dict()["Build.begin_time"] == "then"


# Attachments.


def as_bytes(path):
    return os.fsencode(path)


@pytest.mark.parametrize("kind", [str, pathlib.Path, as_bytes])
def test_an_attachment_is_recorded_with_its_checksum(log_file, kind):
    e = Event("a")
    e.attach_file(kind(log_file))
    e.attach_file(path=kind(log_file), name="again")
    expected = (str(log_file), hashlib.sha1(b"all good\n").hexdigest())
    assert e.get_attachments() == {"log": expected, "again": expected}


def test_relative_attachment_survives_a_change_of_directory(log_file, home, monkeypatch):
    monkeypatch.chdir(log_file.parent)
    e = Event("a")
    e.attach_file("build.log")
    monkeypatch.chdir(home)
    assert e.get_attachments()["log"][0] == str(log_file)


def test_last_attachment_of_a_name_replaces_the_first_with_a_warning(log_file, tmp_path, caplog):
    other = tmp_path / "other"
    other.write_bytes(b"other")
    e = Event("a", "u")
    e.attach_file(log_file)
    assert caplog.records == []
    e.attach_file(other)
    assert e.get_attachments() == {"log": (str(other), hashlib.sha1(b"other").hexdigest())}
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("event", logging.WARNING)
    assert "'log'" in record.getMessage()


@pytest.mark.parametrize("name", ["..", "/etc/passwd", "a/b", "\n", " ", "x" * 300, "\ud800", "CON", "a|b"])
def test_any_name_without_nul_is_accepted(log_file, name):
    e = Event("a")
    e.attach_file(log_file, name)
    assert [*e.get_attachments()] == [name]


@pytest.mark.parametrize("name", ["", "a\0b", None, 5])
def test_an_empty_name_and_a_nul_are_attach_error(log_file, name):
    e = Event("a")
    with pytest.raises(EventError, match=re.escape(repr(name))):
        e.attach_file(log_file, name)
    assert e.get_attachments() == {}


def attach_error(path, **kwargs):
    e = Event("a", "u")
    with pytest.raises(EventError) as caught:
        e.attach_file(path, **kwargs)
    assert e.get_attachments() == {}
    assert isinstance(caught.value.__cause__, (OSError, ValueError))
    return str(caught.value)


def test_unattachable_path_is_an_error_with_the_path(tmp_path, log_file):
    assert "none' to event a (u): no such file" in attach_error(tmp_path / "none")
    assert f"{str(tmp_path)!r} is not a regular file" in attach_error(tmp_path)
    assert "not a regular file" in attach_error("")
    assert "Not a directory" in attach_error(log_file / "x") or os.name == "nt"
    assert "null" in attach_error("a\0b")
    assert "x'" in attach_error(tmp_path / ("x" * 300))


@POSIX
def test_a_fifo_a_device_and_a_dangling_link_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("nowhere")
    assert "not a regular file" in attach_error(tmp_path / "fifo")
    assert "not a regular file" in attach_error("/dev/zero")
    assert "no such file" in attach_error(tmp_path / "link")


# dump.


def test_dump_makes_the_directories_and_returns_the_file_s_path(tmp_path, log_file):
    e = Event("a", "u", x=1)
    e.attach_file(log_file)
    path = e.dump(tmp_path / "d" / "e")
    assert re.fullmatch(re.escape(str(tmp_path / "d" / "e" / "u-")) + UUID4 + r"\.json", path)
    content = json.loads(pathlib.Path(path).read_text("ascii"))
    sha1 = hashlib.sha1(b"all good\n").hexdigest()
    assert content == {"data": e.as_dict(), "attachments": {"log": [str(log_file), sha1]}, "closed": False}
    assert [*content] == ["data", "attachments", "closed"]
    assert os.listdir(tmp_path / "d" / "e") == [os.path.basename(path)]
    assert e.dump(str(tmp_path / "d" / "e")) != path
    assert e.dump(event_dir=os.fsencode(tmp_path)).startswith(str(tmp_path))


@pytest.mark.parametrize("uid", ["../../x", "..", "/etc/x", "", "a\0b", "x" * 300, "a\nb", "\ud800", "é" * 200])
def test_dump_stays_inside_the_directory_for_any_uid(tmp_path, uid):
    directory = tmp_path / "d" / "e"
    path = Event("a", uid).dump(directory)
    assert [str(directory / name) for name in os.listdir(directory)] == [path]
    assert Event.load(path).uid == uid
    assert os.listdir(tmp_path / "d") == ["e"]


def test_a_cycle_leaves_no_file(tmp_path):
    e = Event("a", outer=[])
    e.outer.append(e.outer)
    with pytest.raises(EventError, match=r"'.*outer' contains itself"):
        e.dump(tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_too_deep_a_nesting_names_its_key(tmp_path):
    e = Event("a", deepest=1)
    for _ in range(100_000):
        e.deepest = [e.deepest]
    with pytest.raises(EventError, match=r"deepest.*too deeply"):
        e.dump(tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_system_error_stays_an_oserror(tmp_path, log_file):
    with pytest.raises(OSError, match=r"build\.log"):
        Event("a").dump(log_file)
    with pytest.raises(FileNotFoundError):
        Event.load(tmp_path / "none")
    with pytest.raises(OSError, match=tmp_path.name):
        Event.load(tmp_path)


# load.

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@UNTIMED
@given(st.text(), st.text(), st.dictionaries(st.text(), PLAIN), st.booleans())
@example("..", "\0", {"_data": 1, "end_time": 1.5, "name": ["x"]}, True)
@example("a", "\ud800", {"_closed": "x", "dump": 1, "\udcff": "\udcff"}, False)
def test_dump_and_load_round_trip(name, uid, data, close):
    e = Event(name, uid)
    for key, value in data.items():
        setattr(e, key, value)
    with tempfile.TemporaryDirectory() as directory:
        source = os.path.join(directory, "source")
        with open(source, "wb") as file:
            file.write(b"x")
        for key in data:
            if key and "\0" not in key:
                e.attach_file(source, key)
        if close:
            e.close()
        path = e.dump(os.path.join(directory, "d"))
        assert os.path.dirname(path) == os.path.join(directory, "d")
        loaded = Event.load(path)
    assert loaded.as_dict() == e.as_dict()
    assert [*loaded._data] == [*e.as_dict()]
    assert loaded.get_attachments() == e.get_attachments()
    assert loaded._closed is close


def test_loaded_event_continues_in_its_state(tmp_path, log_file):
    e = Event("a", begin_time=0.0)
    e.attach_file(log_file)
    loaded = Event.load(json_filename=pathlib.Path(e.dump(tmp_path)))
    assert loaded.begin_time == "1970-01-01T00:00:00"
    assert loaded.get_attachments() == e.get_attachments()
    assert all(type(value) is tuple for value in loaded.get_attachments().values())
    loaded.x = 1
    loaded.close()
    again = Event.load(os.fsencode(loaded.dump(tmp_path)))
    assert again.x == 1
    with pytest.raises(EventError, match="closed"):
        again.x = 2


def test_load_returns_an_instance_of_its_class(tmp_path):
    loaded = Build.load(Event("a", "u").dump(tmp_path))
    assert type(loaded) is Build
    assert "Build.begin_time" in loaded.as_dict()


def test_further_keys_of_the_file_are_ignored(tmp_path):
    path = tmp_path / "f.json"
    path.write_text('{"data": {"uid": "u", "name": "a"}, "attachments": {}, "closed": false, "version": 2}')
    assert Event.load(path).as_dict() == {"uid": "u", "name": "a"}


def dumped(data='{"uid": "u", "name": "a"}', attachments="{}", closed="true"):
    return f'{{"data": {data}, "attachments": {attachments}, "closed": {closed}}}'.encode()


def test_dump_that_the_next_test_damages_is_valid(tmp_path):
    (tmp_path / "f").write_bytes(dumped(attachments='{"log": ["/p", "s"]}'))
    assert Event.load(tmp_path / "f").get_attachments() == {"log": ("/p", "s")}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "Expecting value", id="empty"),
        pytest.param(dumped()[:-5], "line 1", id="incomplete"),
        pytest.param(b"\xff\xfe\xfa", "decode", id="not text"),
        pytest.param(b"[" * 500_000, "nested too deeply", id="nested too deeply"),
        pytest.param(b"[]", "not a JSON object", id="a list"),
        pytest.param(b"{}", "'data'", id="empty object"),
        pytest.param(dumped(data="[]"), "'data'", id="data is a list"),
        pytest.param(dumped(data='{"name": "a"}'), "'uid'", id="no uid"),
        pytest.param(dumped(data='{"uid": "a"}'), "'name'", id="no name"),
        pytest.param(dumped(attachments="[]"), "'attachments'", id="attachments are a list"),
        pytest.param(dumped(attachments="null"), "'attachments'", id="attachments are null"),
        pytest.param(dumped(attachments='{"log": "p"}'), "'attachments'", id="attachment is a string"),
        pytest.param(dumped(attachments='{"log": ["p"]}'), "'attachments'", id="no checksum"),
        pytest.param(dumped(attachments='{"log": ["p", 1]}'), "'attachments'", id="checksum is a number"),
        pytest.param(dumped(attachments='{"log": ["", "s"]}'), "'attachments'", id="empty path"),
        pytest.param(dumped(attachments='{"": ["p", "s"]}'), "'attachments'", id="empty name"),
        pytest.param(dumped(attachments='{"log": ["p\\u0000", "s"]}'), "'attachments'", id="NUL"),
        pytest.param(dumped(closed='"yes"'), "'closed'", id="closed is a string"),
        pytest.param(dumped(closed="null"), "'closed'", id="closed is null"),
    ],
)
def test_malformed_file_is_an_error_with_path_and_reason(tmp_path, content, reason):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(EventError, match=r"bad\.json") as caught:
        Event.load(path)
    assert reason in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


@UNTIMED
@given(PLAIN | st.fixed_dictionaries({"data": PLAIN, "attachments": PLAIN, "closed": PLAIN}))
def test_any_json_is_an_event_or_an_event_error(content):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "f")
        with open(path, "w", encoding="ascii") as file:
            json.dump(content, file)
        try:
            loaded = Event.load(path)
        except EventError as error:
            assert path in str(error)  # noqa: PT017  # most content is malformed
        else:
            assert loaded.as_dict() == content["data"]


# The format on disk.


def golden():
    e = Event(
        "compile",
        "5f7b1c1e-0d0a-4a2b-8f3e-2c9d6b1a7e40",
        begin_time=1700000000.0,
        target="arm",
        jobs=8,
        flags=["-O2", "-g"],
        cached=None,
    )
    e._attachments["build.log"] = ("/builds/42/build.log", hashlib.sha1(b"all good\n").hexdigest())
    e.close()
    e._data["end_time"] = 1700000060.5
    return e


def test_the_format_on_disk_is_that_of_e3(tmp_path):
    e3 = (DATA / "e3-dump.json").read_text("ascii")
    assert pathlib.Path(golden().dump(tmp_path)).read_text("ascii") == e3


def test_a_dump_of_e3_is_loaded():
    loaded = Event.load(DATA / "e3-dump.json")
    assert loaded.as_dict() == golden().as_dict()
    assert loaded.get_attachments() == golden().get_attachments()
    assert loaded._closed


def test_values_unknown_to_e3_keep_their_format_on_disk(tmp_path):
    e = golden()
    e._data.update(
        path=pathlib.PurePosixPath("src/main.adb"), tags={"b", "a"}, note="caf\u00e9", raw=b"\xff", rate=math.nan
    )
    assert pathlib.Path(e.dump(tmp_path)).read_text("ascii") == (DATA / "dump.json").read_text("ascii")


# Copies.


def through_pickle(protocol):
    return lambda e: pickle.loads(pickle.dumps(e, protocol))


COPIES = pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, *(pytest.param(through_pickle(p), id=f"pickle {p}") for p in range(2, 6))],
)


@COPIES
@pytest.mark.parametrize("make", [lambda: Event("a", "u", x=[1]), lambda: Build("arm")], ids=["Event", "subclass"])
def test_copied_event_is_equal_and_independent(duplicate, make, log_file):
    e = make()
    e.attach_file(log_file)
    e.set_formatter("name", Event.format_date)
    other = duplicate(e)
    assert type(other) is type(e)
    assert other.as_dict() == e.as_dict()
    assert other.get_attachments() == e.get_attachments()
    other.new = 1
    other.attach_file(log_file, "second")
    other.set_formatter("uid", Event.format_date)
    other.close()
    assert not hasattr(e, "new")
    assert [*e.get_attachments()] == ["log"]
    assert "uid" not in e._formatters
    assert not e._closed
    with pytest.raises(EventError):
        duplicate(other).x = 1


def test_deepcopy_copies_the_values():
    e = Event("a", x=[1])
    copy.deepcopy(e).x.append(2)
    assert e.x == [1]


@METHODS
def test_events_can_be_passed_between_processes(method, log_file):
    e = Event("a", x={"y": (1, 2)})
    e.attach_file(log_file)
    e.close()
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.apply(Event.as_dict, (e,)) == e.as_dict()
        back = pool.apply(copy.copy, (e,))
        pool.close()
        pool.join()
    assert (back._data, back._attachments, back._closed) == (e._data, e._attachments, True)


@METHODS
def test_processes_send_pickled_events(method, tmp_path, log_file):
    events = [Event("a", str(number)) for number in range(8)]
    for e in events:
        e.attach_file(log_file)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(FileHandler(str(tmp_path / "d")).send_event, events) == [True] * 8
        pool.close()
        pool.join()
    assert len(list((tmp_path / "d").glob("*.json"))) == 8
    assert {path.read_bytes() for path in (tmp_path / "d").glob("*/log")} == {b"all good\n"}


# The sending ID.


def test_each_sending_without_an_outbox_has_its_own_id():
    e = Event("build")
    assert event.sending_id(e) != event.sending_id(e)
    assert re.fullmatch(UUID4, event.sending_id(e))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_the_id_of_a_sending_stays_with_the_event_and_its_copies(duplicate):
    e = Event("build", target="arm")
    sent = with_attachments(with_sending(e, "an-id"), {"log": ("path", "digest")})
    assert event.sending_id(duplicate(sent)) == event.sending_id(sent) == "an-id"
    assert (sent.uid, sent.target, sent.get_attachments()) == (e.uid, "arm", {"log": ("path", "digest")})
    assert e.get_attachments() == {}
    assert event.sending_id(e) != "an-id"


# Parts that are already delivered.


def test_nothing_is_delivered_before_the_first_attempt():
    assert event.already_delivered(Event("build", _delivered={"ann"})) == frozenset()
    assert event.already_delivered(object()) == frozenset()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_delivered_parts_stay_with_the_event_and_its_copies(duplicate):
    e = Event("build", target="arm")
    again = with_delivered(with_sending(e, "an-id"), ["ann"])
    assert event.already_delivered(duplicate(again)) == event.already_delivered(again) == frozenset({"ann"})
    assert (event.sending_id(again), again.target) == ("an-id", "arm")
    assert event.already_delivered(e) == frozenset()
