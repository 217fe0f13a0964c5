"""The file handler: the layout of its directory, safe file names, and separate directories for events."""

from __future__ import annotations

import enum
import hashlib
import json
import os
import pathlib
import re
import stat
import tempfile
import threading
import unicodedata
import uuid

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import event
from event import Event, EventError, _files
from event._event_copies import with_sending
from event.handler.file import FileHandler

UNTIMED = settings(deadline=None)
DATA = pathlib.Path(__file__).parent.parent / "data"
POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: POSIX only")
UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


class Kind(enum.Enum):
    BUILD = "build"


@pytest.fixture
def attach(tmp_path):
    """Return a function that creates an event with attachments: name -> content."""

    def make(name, uid, contents):
        e = Event(name, uid)
        for number, (attachment, content) in enumerate(contents.items()):
            source = tmp_path / "sources" / f"{name}{uid}{number}".encode().hex()
            source.parent.mkdir(exist_ok=True)
            source.write_bytes(content)
            e.attach_file(source, attachment)
        return e

    return make


def jsons(directory):
    return sorted(path for path in directory.iterdir() if path.suffix == ".json")


def attachment_contents(directory):
    """Return the contents of all stored attachments, sorted."""
    return sorted(path.read_bytes() for path in directory.glob("*/*"))


# The layout.


def test_event_is_a_json_file_and_a_directory_of_attachments(tmp_path, attach):
    log_dir = tmp_path / "not" / "there"
    e = attach("compile", "u-1", {"log": b"one", "result.tar.gz": b"two"})
    assert FileHandler(str(log_dir)).send_event(e) is True
    (path,) = jsons(log_dir)
    assert re.fullmatch(rf"compile-u-1-{UUID4}\.json", path.name)
    assert json.loads(path.read_bytes()) == e.as_dict()
    assert {p.name: p.read_bytes() for p in (log_dir / "compile-u-1").iterdir()} == {
        "log": b"one",
        "result.tar.gz": b"two",
    }
    assert len(os.listdir(log_dir)) == 2


def test_json_is_indented_and_sorted_as_in_e3(tmp_path):
    loaded = Event.load(DATA / "e3-dump.json")
    loaded._attachments.clear()
    FileHandler(tmp_path / "d").send_event(loaded)
    (path,) = jsons(tmp_path / "d")
    assert path.read_text("ascii") == (DATA / "e3-file.json").read_text("ascii")


def test_directory_is_created_for_an_event_without_attachments(tmp_path):
    FileHandler(tmp_path / "d").send_event(Event("a", "u"))
    assert os.listdir(tmp_path / "d" / "a-u") == []


def test_read_only_attachment_keeps_mode_and_time_when_sent_twice(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"one")
    source.chmod(0o400)
    os.utime(source, ns=(10**18, 10**18 + 5))
    e = Event("a", "u")
    e.attach_file(source)
    handler = FileHandler(tmp_path / "d")
    assert handler.send_event(e)
    source.chmod(0o600)
    source.write_bytes(b"changed")
    source.chmod(0o400)
    os.utime(source, ns=(10**18, 10**18 + 5))
    assert handler.send_event(e)
    copied = tmp_path / "d" / "a-u" / "log"
    assert copied.read_bytes() == b"changed"
    assert stat.S_IMODE(copied.stat().st_mode) == stat.S_IMODE(source.stat().st_mode)
    assert copied.stat().st_mtime_ns == source.stat().st_mtime_ns
    assert len(jsons(tmp_path / "d")) == 2


def test_glob_characters_in_a_path_are_literal(tmp_path):
    source = tmp_path / "[a]*.log"
    try:
        source.write_bytes(b"starred")
    except OSError:
        pytest.skip("platform: no such names here")
    (tmp_path / "a1.log").write_bytes(b"other")
    e = Event("a[b]", "u")
    e.attach_file(source, "x[1]")
    FileHandler(tmp_path / "[d]").send_event(e)
    assert (tmp_path / "[d]" / "a[b]-u" / "x[1]").read_bytes() == b"starred"


# Failures.


def test_missing_attachment_is_an_error_and_writes_no_json(tmp_path, attach):
    e = attach("a", "u", {"first": b"one", "second": b"two"})
    os.unlink(e.get_attachments()["second"][0])
    with pytest.raises(FileNotFoundError):
        FileHandler(tmp_path / "d").send_event(e)
    assert jsons(tmp_path / "d") == []


def test_unwritable_data_leaves_no_file(tmp_path):
    e = Event("a", outer=[])
    e.outer.append(e.outer)
    with pytest.raises(EventError, match="'outer'"):
        FileHandler(tmp_path / "d").send_event(e)
    assert not (tmp_path / "d").exists()


def test_file_instead_of_the_log_directory_is_an_oserror(tmp_path):
    (tmp_path / "d").write_bytes(b"mine")
    with pytest.raises(OSError, match="d"):
        FileHandler(tmp_path / "d").send_event(Event("a"))
    assert (tmp_path / "d").read_bytes() == b"mine"


# Names.

NAMES = [
    "..",
    ".",
    "",
    "/",
    "../../x",
    "/etc/x",
    "a\0b",
    "a\nb",
    "x" * 300,
    "é" * 200,
    "\ud800",
    "~" + "0" * 16,
    "a\\b",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("uid", ["u", "../..", "x" * 300, ""])
def test_unusual_names_are_stored_inside_the_directory(tmp_path, attach, name, uid):
    e = attach(
        "a",
        "u",
        {
            attachment: attachment.encode("utf-8", "replace")
            for attachment in NAMES
            if "\0" not in attachment and attachment
        },
    )
    e.name, e.uid = name, uid
    log_dir = tmp_path / "deep" / "d"
    assert FileHandler(log_dir).send_event(e)
    assert os.listdir(tmp_path / "deep") == ["d"]
    (path,) = jsons(log_dir)
    assert json.loads(path.read_bytes())["name"] == name.encode("utf-8", "backslashreplace").decode()
    assert attachment_contents(log_dir) == sorted(a.encode("utf-8", "replace") for a in e.get_attachments())
    assert len(os.listdir(log_dir)) == 2


@UNTIMED
@given(
    st.lists(
        st.tuples(st.text(st.sampled_from("a-./\0")), st.text(st.sampled_from("a-./\0"))),
        min_size=1,
        max_size=6,
        unique=True,
    )
)
@example([("a-b", "c"), ("a", "b-c")])
@example([("a", "b-c"), ("a-b", "c"), ("a-b-c", "")])
@example([("a-12345678", "1234-1234-1234-123456789012"), ("a", "12345678-1234-1234-1234-123456789012")])
@example([("a", "12345678-1234-1234-1234-123456789012"), ("a-12345678", "1234-1234-1234-123456789012")])
def test_files_of_another_event_are_not_overwritten(identities):
    with tempfile.TemporaryDirectory() as directory:
        log_dir = pathlib.Path(directory, "d")
        handler = FileHandler(log_dir)
        for number, (name, uid) in enumerate(identities):
            source = pathlib.Path(directory, "source")
            source.write_bytes(b"%d" % number)
            e = Event(name, uid)
            e.attach_file(source)
            for _ in range(2):
                assert handler.send_event(e)
        assert sorted(os.listdir(directory)) == ["d", "source"]
        assert attachment_contents(log_dir) == sorted(b"%d" % number for number in range(len(identities)))
        assert len(jsons(log_dir)) == 2 * len(identities)


@pytest.mark.parametrize(
    ("name", "uid"),
    [
        pytest.param("a", "b-c", id="strings"),
        pytest.param(Kind.BUILD, "u", id="an Enum as the name"),
        pytest.param("a", pathlib.PurePosixPath("u"), id="a path as the uid"),
        pytest.param("a", uuid.UUID(int=5), id="a UUID"),
        pytest.param(("a", 1), 7, id="a tuple and a number"),
    ],
)
def test_event_sent_twice_has_one_directory(tmp_path, attach, name, uid):
    e = attach("a", "u", {"log": b"x"})
    e.name, e.uid = name, uid
    for _ in range(3):
        assert FileHandler(tmp_path / "d").send_event(e)
    assert len(jsons(tmp_path / "d")) == 3
    assert attachment_contents(tmp_path / "d") == [b"x"]


def test_event_with_a_common_uid_prefix_has_its_own_directory(tmp_path, attach):
    handler = FileHandler(tmp_path / "d")
    handler.send_event(attach("build", "1-retry", {"log": b"retry"}))
    e = attach("build", "1", {"log": b"first"})
    for _ in range(2):
        handler.send_event(e)
    assert sorted(path.name for path in (tmp_path / "d").iterdir() if path.is_dir()) == ["build-1", "build-1-retry"]


@pytest.mark.parametrize("content", ['{"name": [], "uid": "u"}', '{"name": {"a": 1}, "uid": [2]}'])
def test_json_file_of_another_program_does_not_stop_the_send(tmp_path, attach, content):
    log_dir = tmp_path / "d"
    e = attach("a", "u", {"log": b"x"})
    FileHandler(log_dir).send_event(e)
    (log_dir / f"a-u-{event.unique_id()}.json").write_text(content)
    assert FileHandler(log_dir).send_event(e)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"5"])
def test_malformed_json_file_does_not_stop_the_send(tmp_path, attach, content):
    log_dir = tmp_path / "d"
    e = attach("a", "u", {"log": b"x"})
    FileHandler(log_dir).send_event(e)
    (log_dir / f"a-u-{event.unique_id()}.json").write_bytes(content)
    FileHandler(log_dir).send_event(e)
    assert attachment_contents(log_dir) == [b"x"]


@POSIX
def test_symbolic_link_among_the_json_files_is_not_read(tmp_path, attach):
    log_dir = tmp_path / "d"
    e = attach("a", "u", {"log": b"x"})
    FileHandler(log_dir).send_event(e)
    (tmp_path / "other").write_text('{"name": "other", "uid": "one"}')
    (log_dir / f"a-u-{event.unique_id()}.json").symlink_to(tmp_path / "other")
    FileHandler(log_dir).send_event(e)
    assert attachment_contents(log_dir) == [b"x"]


def test_json_file_removed_meanwhile_does_not_stop_the_send(tmp_path, monkeypatch):
    read = _files.read_regular

    def remove_and_read(path, **options):
        os.unlink(path)
        return read(path, **options)

    assert FileHandler(tmp_path).send_event(Event("a", "u"))
    monkeypatch.setattr(_files, "read_regular", remove_and_read)
    assert FileHandler(tmp_path).send_event(Event("a", "u"))
    assert len(jsons(tmp_path)) == 1


def test_event_with_a_custom_uid_sent_twice_has_one_directory(tmp_path, attach):
    e = attach("a", event.unique_id(), {"log": b"x"})
    for _ in range(2):
        FileHandler(tmp_path / "d").send_event(e)
    assert attachment_contents(tmp_path / "d") == [b"x"]


def test_attachments_that_differ_only_in_case_have_different_files(tmp_path, attach):
    e = attach("a", "u", {"log": b"1", "LOG": b"2", "caf\u00e9": b"3", "cafe\u0301": b"4"})
    FileHandler(tmp_path / "d").send_event(e)
    assert attachment_contents(tmp_path / "d") == [b"1", b"2", b"3", b"4"]
    names = [unicodedata.normalize("NFC", path.name).casefold() for path in (tmp_path / "d").glob("*/*")]
    assert len({*names}) == 4


def test_file_instead_of_the_event_directory_is_kept(tmp_path, attach):
    log_dir = tmp_path / "d"
    log_dir.mkdir()
    (log_dir / "a-u").write_bytes(b"mine")
    e = attach("a", "u", {"log": b"x"})
    for _ in range(2):
        FileHandler(log_dir).send_event(e)
    assert (log_dir / "a-u").read_bytes() == b"mine"
    assert attachment_contents(log_dir) == [b"x"]


@POSIX
def test_symbolic_links_of_other_users_are_not_followed(tmp_path, attach):
    log_dir, outside = tmp_path / "d", tmp_path / "outside"
    outside.mkdir()
    log_dir.mkdir()
    (outside / "log").write_bytes(b"safe")
    e = attach("a", "u", {"log": b"x"})
    (log_dir / "a-u").symlink_to(outside)
    FileHandler(log_dir).send_event(e)
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"log": b"safe"}
    (own,) = [path for path in log_dir.iterdir() if path.is_dir() and not path.is_symlink()]
    (own / "log").unlink()
    (own / "log").symlink_to(outside / "log")
    FileHandler(log_dir).send_event(e)
    assert (outside / "log").read_bytes() == b"safe"
    assert (own / "log").read_bytes() == b"x"
    assert not (own / "log").is_symlink()


@POSIX
def test_symbolic_links_at_both_places_are_an_error(tmp_path, home):
    log_dir = tmp_path / "d"
    log_dir.mkdir()
    (log_dir / "a-u").symlink_to(home)
    (log_dir / _files.hashed_name("a\0u", 213)).symlink_to(home)
    with pytest.raises(FileExistsError, match="is not a directory of this user"):
        FileHandler(log_dir).send_event(Event("a", "u"))
    assert os.listdir(home) == []
    assert jsons(log_dir) == []


# Concurrency.


def test_two_threads_can_send_to_one_directory(tmp_path, attach):
    handler = FileHandler(tmp_path / "d" / "e")
    shared = attach("shared", "one", {"log": b"shared"})
    own = [[attach("own", f"{thread}.{n}", {"log": b"%d" % n}) for n in range(50)] for thread in range(2)]
    barrier = threading.Barrier(2)
    failures = []

    def send(events):
        barrier.wait()
        for e in events:
            try:
                assert handler.send_event(e)
                assert handler.send_event(shared)
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=send, args=(events,)) for events in own]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    sent = [json.loads(path.read_bytes()) for path in jsons(tmp_path / "d" / "e")]
    assert sum(data["name"] == "shared" for data in sent) == 100
    assert {data["uid"] for data in sent} == {e.uid for events in own for e in events} | {"one"}
    for thread in range(2):
        for n in range(50):
            assert (tmp_path / "d" / "e" / f"own-{thread}.{n}" / "log").read_bytes() == b"%d" % n


# Configuration.


def test_log_dir_is_shown_as_a_string(tmp_path):
    assert FileHandler(str(tmp_path)).log_dir == str(tmp_path)
    assert FileHandler(log_dir=tmp_path).log_dir == str(tmp_path)


@pytest.mark.parametrize("log_dir", ["", "a\0b"])
def test_invalid_directory_is_an_error_with_what_is_expected(log_dir):
    with pytest.raises(EventError, match=f"{log_dir!r}.*file=DIR".replace("\\", r"\\")):
        FileHandler(log_dir)


@pytest.mark.parametrize("log_dir", ["/var/log", "a,b", "100%", "C:\\log", "a=b", " a "])
def test_configuration_equals_that_of_e3(log_dir):
    assert FileHandler(log_dir).encode_config() == log_dir
    assert FileHandler.decode_config(log_dir) == {"log_dir": log_dir}


@UNTIMED
@given(
    st.text(st.characters(blacklist_characters="\0"), min_size=1) | st.text(st.sampled_from("%257Cc2|,="), min_size=1)
)
def test_configuration_round_trips(log_dir):
    written = FileHandler(log_dir).encode_config()
    assert "|" not in written
    assert FileHandler(**FileHandler.decode_config(written)).log_dir == log_dir


def test_handler_round_trips_through_the_environment(monkeypatch):
    monkeypatch.delenv("E3_EVENT_HANDLERS", raising=False)
    event.add_handler("file", "a|b,%7C")
    event.handler_config_as_env()
    again = event.EventManager()
    again.load_handlers_from_env()
    assert again.handlers["file"].log_dir == "a|b,%7C"
    monkeypatch.delenv("E3_EVENT_HANDLERS")


def test_handler_name_without_configuration_is_an_error(monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", "file")
    with pytest.raises(EventError, match="file=DIR"):
        event.load_handlers_from_env()


def test_dumped_event_is_sent_with_its_attachments(tmp_path, attach):
    event.add_handler("file", str(tmp_path / "d"))
    dumped = attach("a", "u", {"log": b"x"}).dump(tmp_path / "dumps")
    assert event.send_event_from_file(dumped)
    assert (tmp_path / "d" / "a-u" / "log").read_bytes() == b"x"
    assert hashlib.sha1(b"x").hexdigest() in pathlib.Path(dumped).read_text("ascii")


def test_only_a_retry_of_the_same_sending_replaces_files(tmp_path, attach):
    handler = FileHandler(tmp_path / "events")
    e = attach("build", "u", {"log": b"compiled"})
    for _ in range(3):
        assert handler.send_event(with_sending(e, "0b4d8f1c-6b0e-4d53-9d3a-6c4e2f9f3a10"))
    (path,) = jsons(tmp_path / "events")
    assert path.name == "build-u-0b4d8f1c-6b0e-4d53-9d3a-6c4e2f9f3a10.json"
    assert attachment_contents(tmp_path / "events") == [b"compiled"]
    assert handler.send_event(with_sending(e, event.unique_id()))
    assert handler.send_event(e)
    assert len(jsons(tmp_path / "events")) == 3
    assert attachment_contents(tmp_path / "events") == [b"compiled"]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="platform: only root gives files to another user"
)
def test_directory_of_another_user_is_not_used(tmp_path, attach):
    foreign = tmp_path / "events" / "a-b"
    foreign.mkdir(parents=True)
    os.chown(foreign, 12345, 12345)
    assert FileHandler(tmp_path / "events").send_event(attach("a", "b", {"log": b"x"}))
    assert list(foreign.iterdir()) == []


def test_huge_json_file_of_another_program_is_not_read(tmp_path):
    sent = Event("a", "b")
    FileHandler(tmp_path).send_event(sent)
    huge = tmp_path / "a-b-00000000-0000-4000-8000-000000000000.json"
    huge.touch()
    os.truncate(huge, 1 << 33)
    assert FileHandler(tmp_path).send_event(sent)


def test_huge_dump_is_an_error(tmp_path):
    (tmp_path / "dump.json").touch()
    os.truncate(tmp_path / "dump.json", 1 << 33)
    with pytest.raises(OSError, match="8589934592 bytes; expected 67108864 at most"):
        Event.load(tmp_path / "dump.json")


@pytest.mark.skipif(os.chmod not in os.supports_fd, reason="platform: permission bits are set by path")
def test_permission_bits_and_time_are_set_by_descriptor(tmp_path, attach, monkeypatch):
    """Another user could replace the path by a link."""
    sent = attach("a", "b", {"log": b"x"})
    set_attributes = _files.set_attributes
    monkeypatch.setattr(_files, "set_attributes", lambda fd, _path, *args: set_attributes(fd, "missing", *args))
    assert FileHandler(tmp_path / "events").send_event(sent)
    assert attachment_contents(tmp_path / "events") == [b"x"]
