"""Files: safe names, atomic writes, and reads of regular files only."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import stat
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from event import _files

UNTIMED = settings(deadline=None, max_examples=3 * settings.default.max_examples)
POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: POSIX only")
NAMES = st.text(st.characters()) | st.text(st.sampled_from("./\\~ aA0f:\0é\u0301"))


@pytest.fixture
def windows(monkeypatch):
    monkeypatch.setattr(_files, "_WINDOWS", True)
    monkeypatch.setattr(_files, "_FORBIDDEN", frozenset('/\\:*?"<>|'))


def check_component(name, limit):
    assert name not in {"", ".", ".."}
    assert not {"/", "\\", "\0"} & {*name}
    assert len(name.encode()) <= limit
    assert name.isprintable()


@UNTIMED
@given(NAMES, st.integers(60, 255))
@example("..", 255)
@example("../../etc/passwd", 255)
@example("a" * 300 + ".log", 255)
@example("é" * 200, 213)
@example("\ud800", 255)
@example("x." + "e" * 300, 60)
def test_a_safe_name_is_one_component_within_the_limit(name, limit):
    safe = _files.safe_name(name, limit)
    check_component(safe, limit)
    assert _files.safe_name(name, limit) == safe


@UNTIMED
@given(st.sets(NAMES, max_size=20))
def test_different_names_stay_different(names):
    names |= {_files.safe_name(name) for name in names}  # a name that looks like another's safe form
    assert len({_files.safe_name(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    "name", ["log", "build.log", "a b", ".hidden", "café", "a~b", "x~0123456789abcdeg", "tar.gz~", "日本"]
)
def test_safe_name_is_unchanged(name):
    assert _files.safe_name(name) == name


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        pytest.param("", r"~[0-9a-f]{16}", id="empty"),
        pytest.param(".", r"\.~[0-9a-f]{16}", id="dot"),
        pytest.param("..", r"\.\.~[0-9a-f]{16}", id="two dots"),
        pytest.param("../x.log", r"\.\._x~[0-9a-f]{16}\.log", id="path"),
        pytest.param("a\nb", r"a_b~[0-9a-f]{16}", id="line break"),
        pytest.param("\0", r"_~[0-9a-f]{16}", id="NUL"),
        pytest.param("a" * 300 + ".log", r"a{234}~[0-9a-f]{16}\.log", id="long"),
        pytest.param("a/." + "e" * 20, r"a_\.e{20}~[0-9a-f]{16}", id="no extension that long"),
        pytest.param("x~0123456789abcdef", r"x~0123456789abcdef~[0-9a-f]{16}", id="looks hashed"),
        pytest.param("x~0123456789abcdef.log", r"x~0123456789abcdef~[0-9a-f]{16}\.log", id="looks hashed, extension"),
    ],
)
def test_unsafe_name_is_cleaned_and_gets_a_hash(name, pattern):
    assert re.fullmatch(pattern, _files.safe_name(name))


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize(
    "name",
    [
        *("a:b", "a*", "a?", 'a"', "a<", "a>", "a|", "a.", "a ", "CON", "con", "Nul.txt", "COM1.tar.gz", "LPT9 .x"),
        # "Naming Files, Paths, and Namespaces", Microsoft Learn, lists these too.
        *("COM¹", "lpt³.log"),
    ],
)
def test_device_names_and_forbidden_characters_are_replaced_on_windows(name):
    safe = _files.safe_name(name)
    assert safe != name
    assert not {*':*?"<>|'} & {*safe}
    assert safe[-1] not in " ."
    assert not re.match(r"(?i)(con|prn|aux|nul|com.|lpt.) *(\.|$)", safe)


@UNTIMED
@given(NAMES)
def test_name_is_a_valid_component_on_windows(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_files, "_WINDOWS", True)
        patch.setattr(_files, "_FORBIDDEN", frozenset('/\\:*?"<>|'))
        safe = _files.safe_name(name)
    check_component(safe, 255)
    assert safe[-1] not in " ."
    assert not {*':*?"<>|'} & {*safe}


def folded(name):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


@UNTIMED
@given(st.lists(NAMES, unique=True, max_size=20))
@example(["log", "LOG", "Log"])
@example(["caf\u00e9", "cafe\u0301", "CAFE\u0301"])
@example(["stra\u00dfe", "strasse"])
def test_names_stay_different_without_case_and_normal_form(names):
    safe = _files.safe_names(names)
    assert [*safe] == names
    assert len({folded(name) for name in safe.values()}) == len(names)
    for name in safe.values():
        check_component(name, 255)


def test_upper_case_name_does_not_collide_with_a_hash():
    hashed = _files.hashed_name("x/y")
    rival = hashed[:-16] + hashed[-16:].upper()
    for names in ([rival, "x/y"], ["x/y", rival]):
        assert len({folded(name) for name in _files.safe_names(names).values()}) == 2


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, (1 << 20) + 1, 3 << 20])
def test_sha1_is_that_of_the_whole_file(tmp_path, size):
    path = tmp_path / "f"
    path.write_bytes(os.urandom(size))
    assert _files.sha1(str(path)) == hashlib.sha1(path.read_bytes()).hexdigest()


def make_directory(path):
    path.mkdir()


def make_fifo(path):
    os.mkfifo(path)


def make_device(path):
    path.symlink_to(os.devnull)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


NOT_REGULAR = pytest.mark.parametrize(
    "make",
    [
        make_directory,
        pytest.param(make_fifo, marks=POSIX),
        pytest.param(make_device, marks=POSIX),
        pytest.param(make_socket, marks=POSIX),
    ],
)


@NOT_REGULAR
def test_only_a_regular_file_is_opened(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    make(tmp_path.joinpath("odd").relative_to(tmp_path) if make is make_socket else tmp_path / "odd")
    with pytest.raises(_files.NotRegularError, match="'odd' is not a regular file"):
        _files.open_regular("odd")
    with pytest.raises(_files.NotRegularError):
        _files.copy_atomically("odd", "target")
    assert not os.path.lexists("target")


@POSIX
def test_fifo_that_replaces_the_file_does_not_block(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "odd")
    (tmp_path / "file").touch()
    regular = os.stat(tmp_path / "file")
    opened = len(os.listdir("/dev/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(_files.os, "stat", lambda path, **_: regular)
        with pytest.raises(_files.NotRegularError):
            _files.open_regular(str(tmp_path / "odd"))
    assert len(os.listdir("/dev/fd")) == opened


def test_a_missing_file_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        _files.sha1(str(tmp_path / "none"))


@POSIX
def test_file_without_data_for_now_is_an_error(tmp_path, monkeypatch):
    """Some regular files of /proc act like this pipe."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    monkeypatch.setattr(_files, "open_regular", lambda path, follow: reading)
    with pytest.raises(BlockingIOError):
        _files.sha1("kmsg")
    os.close(writing)


def test_unreadable_source_and_existing_target_are_different_errors(tmp_path, monkeypatch):
    source, target = str(tmp_path / "source"), str(tmp_path / "target")
    with pytest.raises(_files.UnreadableError) as missing:
        _files.copy_and_hash(source, target)
    assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, source)
    with pytest.raises(_files.UnreadableError, match="is not a regular file"):
        _files.copy_and_hash(str(tmp_path), target)
    (tmp_path / "source").write_bytes(b"x")
    (tmp_path / "target").write_bytes(b"")
    with pytest.raises(FileExistsError):
        _files.copy_and_hash(source, target)


@POSIX
def test_a_link_to_a_file_is_read(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "l").symlink_to("f")
    assert _files.sha1(str(tmp_path / "l")) == hashlib.sha1(b"x").hexdigest()


def test_atomic_write_creates_directories_and_replaces_the_file(tmp_path):
    path = tmp_path / "a" / "b" / "f"
    _files.write_atomically(str(path), b"one")
    _files.write_atomically(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["f"]


@POSIX
def test_atomic_write_respects_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        _files.write_atomically(str(tmp_path / "f"), b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


@POSIX
def test_a_link_at_the_target_is_replaced_not_followed(tmp_path):
    (tmp_path / "victim").write_bytes(b"safe")
    (tmp_path / "source").write_bytes(b"new")
    for name, write in {
        "written": lambda path: _files.write_atomically(path, b"new"),
        "copied": lambda path: _files.copy_atomically(str(tmp_path / "source"), path),
    }.items():
        link = tmp_path / name
        link.symlink_to("victim")
        write(str(link))
        assert not link.is_symlink()
        assert link.read_bytes() == b"new"
    assert (tmp_path / "victim").read_bytes() == b"safe"


@pytest.mark.parametrize("size", [0, 5, (1 << 20) + 1])
@pytest.mark.parametrize("system", [sys.platform, "another"])
def test_atomic_copy_keeps_content_mode_and_time(tmp_path, monkeypatch, size, system):
    monkeypatch.setattr(_files.sys, "platform", system)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    source.chmod(0o444)
    os.utime(source, ns=(10**18 + 100, 10**18 + 200))
    _files.copy_atomically(str(source), str(target))
    _files.copy_atomically(str(source), str(target))
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode == source.stat().st_mode
    assert target.stat().st_mtime_ns == source.stat().st_mtime_ns
    assert sorted(os.listdir(tmp_path)) == ["source", "target"]


@POSIX
def test_copy_reads_a_descriptor_that_sendfile_refuses(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, b"through a pipe")
    os.close(writing)
    target = os.open(tmp_path / "target", os.O_WRONLY | os.O_CREAT)
    _files._copy_content(reading, target)
    os.close(target)
    os.close(reading)
    assert (tmp_path / "target").read_bytes() == b"through a pipe"


def test_partial_writes_are_continued(monkeypatch):
    written = []

    def write_three(_fd, data):
        written.append(bytes(data[:3]))
        return len(written[-1])

    monkeypatch.setattr(_files.os, "write", write_three)
    _files.write_all(1, b"0123456789")
    assert b"".join(written) == b"0123456789"


def test_directory_at_the_target_is_kept_and_no_file_is_left(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(OSError, match="d"):
        _files.write_atomically(str(tmp_path / "d"), b"x")
    assert sorted(os.listdir(tmp_path)) == ["d"]


def test_missing_source_keeps_the_target(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        _files.copy_atomically(str(tmp_path / "none"), str(tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["target"]


def replace_as_windows_does(source, target, replace=os.replace):
    if os.path.exists(target) and not os.stat(target).st_mode & stat.S_IWRITE:
        raise PermissionError(errno.EACCES, "Access is denied", target)
    replace(source, target)


def test_windows_replaces_a_read_only_file(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "_WINDOWS", True)
    monkeypatch.setattr(_files.os, "replace", replace_as_windows_does)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    source.chmod(0o444)
    for _ in range(2):
        _files.copy_atomically(str(source), str(target))
    assert target.read_bytes() == b"new"


def test_refused_replacement_propagates_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "_WINDOWS", False)
    monkeypatch.setattr(_files.os, "replace", replace_as_windows_does)
    target = tmp_path / "target"
    target.write_bytes(b"old")
    target.chmod(0o444)
    with pytest.raises(PermissionError):
        _files.write_atomically(str(target), b"new")
    assert target.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["target"]


def test_missing_temporary_file_does_not_hide_the_error(tmp_path, monkeypatch):
    def lose(source, _target):
        os.unlink(source)
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(_files.os, "replace", lose)
    with pytest.raises(OSError, match="lost"):
        _files.write_atomically(str(tmp_path / "f"), b"x")


def test_make_directory_returns_whether_it_was_created(tmp_path):
    path = tmp_path / "a" / "b"
    assert _files.make_directory(str(path))
    assert not _files.make_directory(str(path))
    assert _files.is_directory(str(path))


def test_directory_that_cannot_exist_is_an_error(tmp_path, monkeypatch):
    """For example, below /proc/self."""
    monkeypatch.setattr(_files.os, "mkdir", lambda path, _mode: (_ for _ in ()).throw(FileNotFoundError(path)))
    with pytest.raises(FileNotFoundError):
        _files.make_directory(str(tmp_path / "a"))


@POSIX
def test_a_link_to_a_directory_is_no_directory(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "l").symlink_to("d")
    assert not _files.is_directory(str(tmp_path / "l"))


HASH = """
import resource, sys
from event import Event, _files
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Event("warm").attach_file(sys.argv[1])
before = used()
Event("big").attach_file(sys.argv[2])
_files.copy_atomically(sys.argv[2], sys.argv[3])
print(used() - before)
"""


@POSIX
@pytest.mark.skipif(sys.platform == "darwin", reason="platform: ru_maxrss counts bytes there")
def test_large_file_is_attached_and_copied_with_little_memory(tmp_path):
    small, big = tmp_path / "small", tmp_path / "big"
    small.write_bytes(b"x")
    with open(big, "wb") as file:
        file.truncate(256 << 20)
    run = subprocess.run(
        [sys.executable, "-c", HASH, small, big, tmp_path / "copy"], check=True, capture_output=True, text=True
    )
    (tmp_path / "copy").unlink()
    assert int(run.stdout) < 8 << 10  # KiB


# Syncing to disk.


def test_only_requested_files_are_synced(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), fsync(fd)))
    source = tmp_path / "source"
    source.write_bytes(b"x")
    _files.write_atomically(str(tmp_path / "a"), b"a")
    _files.copy_atomically(str(source), str(tmp_path / "b"))
    assert synced == []
    _files.write_new(str(tmp_path / "c"), b"c")
    assert synced == [(tmp_path / "c").stat().st_ino]
    _files.sync_directory(str(tmp_path))
    assert synced[1:] == ([tmp_path.stat().st_ino] if os.name == "posix" else [])


def test_windows_opens_no_directory(tmp_path, windows):
    _files.sync_directory(str(tmp_path / "none"))


@POSIX
def test_symbolic_link_is_not_followed_on_request(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "l").symlink_to("f")
    with pytest.raises(OSError, match="l'"):
        _files.open_regular(str(tmp_path / "l"), follow=False)
    assert _files.read_regular(str(tmp_path / "f"), follow=False) == b"x"
    assert _files.read_regular(str(tmp_path / "l")) == b"x"
    assert _files.is_directory(str(tmp_path))
    assert not _files.is_directory(str(tmp_path / "l"))


@POSIX
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_file_system_without_directory_sync_is_accepted(tmp_path, monkeypatch, code):
    def refuse(fd):
        raise OSError(code, "refused")

    monkeypatch.setattr(os, "fsync", refuse)
    _files.sync_directory(str(tmp_path))


@POSIX
def test_a_directory_that_cannot_be_synced_is_an_error(tmp_path, monkeypatch):
    def fail(fd):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="broken"):
        _files.sync_directory(str(tmp_path))


def test_path_is_absolute_if_a_working_directory_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _files.absolute("a") == str(tmp_path / "a")

    def gone():
        raise FileNotFoundError

    monkeypatch.setattr(os, "getcwd", gone)
    assert _files.absolute("a") == "a"
    assert _files.absolute("/a") == "/a"
