"""Entries and directories of other users, planted links, forged and damaged entries: none stops the other entries."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from event import Event
from event._outbox import Outbox
from helpers.entries import (
    POSIX,
    ROOT,
    STATES,
    candidate_of,
    claimed_ids,
    dead_owner,
    journal_of,
    make_delivery,
    names_by_state,
    path_in,
    path_of,
    put,
    put_waiting,
    snapshot,
)

# Files that do not belong to an outbox.


@pytest.fixture
def project(tmp_path):
    """Return a directory with a file, and an old file in a directory that has the name of one of an outbox."""
    path = tmp_path / "project"
    for name in ("README", "tmp/build", "tmp/claimed"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("precious")
        os.utime(path / name, (0, 0))
    return path


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(put, id="put"),
        pytest.param(claimed_ids, id="deliver"),
        pytest.param(Outbox.exists, id="look"),
        pytest.param(Outbox.require_writable, id="check"),
    ],
)
def test_directory_with_other_files_is_not_used_as_an_outbox(project, use):
    before = snapshot(project)
    with pytest.raises(OSError, match=r"it is not an outbox, and not empty: it has 'README'; choose another directory"):
        use(Outbox(project))
    assert snapshot(project) == before


def test_old_files_with_other_names_in_tmp_are_not_removed(box, project):
    put(box).discard()
    (project / "tmp").rename(path_in(box, "tmp", "x.12345"))
    os.utime(path_in(box, "tmp", "x.12345"), (0, 0))
    claimed_ids(box)
    assert names_by_state(box)["tmp"] == ["x.12345"]


def test_files_with_other_names_are_not_entries(box):
    for name in ("claimed/notes.txt", "failed/notes and plans", "corrupt/.notes"):
        put(box).discard()
        Path(path_in(box, name)).write_text("precious")
    assert claimed_ids(box, everything=True) == []
    assert list(box.entries()) == []
    assert not any(box.summary().counts.values())


# Owners and permissions.


@ROOT
@pytest.mark.parametrize("state", ["", *STATES])
def test_an_outbox_of_another_user_is_refused(box, state):
    put_waiting(box)
    before = snapshot(box.path)
    os.chown(path_in(box, state), 12345, -1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        claimed_ids(box, everything=True)
    assert snapshot(box.path) == before
    if state in ("", "tmp", "claimed"):
        with pytest.raises(PermissionError, match="belongs to another user"):
            put(box)
        assert snapshot(box.path) == before


@ROOT
@pytest.mark.parametrize("state", ["waiting", "failed", "corrupt"])
def test_entry_is_not_moved_into_a_directory_of_another_user(box, state, caplog):
    claim = put(box)
    os.chown(path_in(box, state), 12345, -1)
    if state == "corrupt":
        Path(claim.path).write_text("{")
        assert box.adopt(claim.name) is None
    else:
        claim.entry.created = 0 if state == "failed" else claim.entry.created
        claim.entry.attempts = 10
        assert claim.release() == "claimed"
    assert "belongs to another user" in caplog.text
    assert list(names_by_state(box)) == ["claimed"]


@POSIX
@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_an_outbox_that_others_can_write_to_is_refused(box, mode):
    """Another user could have created the outbox, and could later rename its entries."""
    put_waiting(box)
    os.chmod(box.path, mode)
    before = snapshot(box.path)
    for use in (put, claimed_ids, Outbox.exists, Outbox.require_writable):
        with pytest.raises(PermissionError, match="can be changed by other users; run chmod go-w on it"):
            use(box)
    assert snapshot(box.path) == before
    os.chmod(box.path, 0o755)
    assert len(claimed_ids(box)) == 1


@ROOT
def test_entry_of_another_user_is_ignored(box, caplog):
    _, path = put_waiting(box)
    os.chown(path, 12345, -1)
    before = snapshot(box.path)
    assert claimed_ids(box) == []
    assert snapshot(box.path) == before
    assert "belongs to another user" in caplog.text
    ((_, reason),) = box.entries("waiting")
    assert "belongs to another user" in reason


# Symbolic links.


@POSIX
@pytest.mark.parametrize("state", STATES)
def test_symbolic_link_instead_of_a_state_directory_is_not_followed(box, tmp_path, state):
    put_waiting(box)
    other = Outbox(tmp_path / "other")
    other_id, _ = put_waiting(other)
    os.rename(path_in(box, state), tmp_path / "moved")
    os.symlink(path_in(other, "waiting"), path_in(box, state))
    before = snapshot(other.path)
    with pytest.raises(NotADirectoryError, match="is not a directory"):
        claimed_ids(box, everything=True)
    assert other_id not in [candidate.id for candidate, _ in box.entries(*STATES[1:])]
    assert box.find(other_id[:8]) == []
    if state in ("tmp", "claimed"):
        with pytest.raises(NotADirectoryError, match="is not a directory"):
            put(box)
    else:
        claim = put(box)
        assert claim.release() == ("claimed" if state == "waiting" else "waiting")
    assert snapshot(other.path) == before


@POSIX
@pytest.mark.parametrize("state", ["tmp", "waiting", "claimed"])
def test_symbolic_link_instead_of_an_entry_is_not_followed(box, tmp_path, state, attached):
    put_waiting(box)
    other = Outbox(tmp_path / "other")
    _, path = put_waiting(other, e=attached)
    os.utime(path, (0, 0))
    name = (
        path_in(box, "waiting", "0", "planted")
        if state == "waiting"
        else path_in(box, state, f"planted.{dead_owner()}")
    )
    os.symlink(path, name)
    before = snapshot(other.path)
    assert len(claimed_ids(box, everything=True)) == 1
    assert snapshot(other.path) == before
    assert os.path.islink(name) == (state != "tmp")


@POSIX
@pytest.mark.parametrize("name", ["entry", "0"])
def test_a_symbolic_link_within_an_entry_is_not_followed(box, attached, tmp_path, name, caplog):
    entry_id, path = put_waiting(box, e=attached)
    file = os.path.join(path, name)
    (tmp_path / "planted").write_bytes(Path(file).read_bytes())
    os.unlink(file)
    os.symlink(tmp_path / "planted", file)
    before = (tmp_path / "planted").read_bytes()
    assert claimed_ids(box) == []
    assert names_by_state(box) == {"corrupt": [entry_id]}
    assert "is moved to corrupt/" in caplog.text
    assert (tmp_path / "planted").read_bytes() == before


@POSIX
def test_symbolic_link_planted_between_two_checks_is_not_followed(box, attached, tmp_path, monkeypatch):
    entry_id, path = put_waiting(box, e=attached)
    (tmp_path / "planted").write_bytes(Path(path, "entry").read_bytes())
    open_ = os.open

    def plant_and_open(target, *args, **kwargs):
        if target.endswith("/entry") and not os.path.islink(target):
            os.unlink(target)
            os.symlink(tmp_path / "planted", target)
        return open_(target, *args, **kwargs)

    monkeypatch.setattr(os, "open", plant_and_open)
    assert claimed_ids(box) == []
    assert names_by_state(box) == {"corrupt": [entry_id]}


@POSIX
def test_symbolic_link_planted_instead_of_a_journal_is_not_followed(box, tmp_path, caplog):
    claim = put(box)
    (tmp_path / "planted").write_bytes(b"precious")
    os.unlink(claim.path)
    os.symlink(tmp_path / "planted", claim.path)
    claim.record(make_delivery("file", ok=False))
    assert (tmp_path / "planted").read_bytes() == b"precious"
    assert "its journal cannot be written" in caplog.text


def edit(path, change):
    """Change the content of the entry at a path, but not its journal."""
    first, *journal = journal_of(path).read_bytes().split(b"\n")
    content = json.loads(first)
    change(content)
    journal_of(path).write_bytes(b"\n".join([json.dumps(content).encode(), *journal]))


def test_forged_entry_cannot_attach_a_file_outside_the_entry(box, attached, tmp_path):
    entry_id, path = put_waiting(box, e=attached)
    edit(path, lambda content: content["event"]["attachments"]["log"].__setitem__(0, str(tmp_path / "build.log")))
    assert claimed_ids(box) == []
    assert names_by_state(box) == {"corrupt": [entry_id]}


def test_entry_id_with_a_path_to_another_directory_is_refused(box):
    entry_id, path = put_waiting(box)
    edit(path, lambda content: content.update(id="../../elsewhere"))
    assert claimed_ids(box) == []
    assert names_by_state(box) == {"corrupt": [entry_id]}


# Damaged entries.


def remove_text(path):
    os.unlink(journal_of(path))


def tear_text(path):
    os.truncate(journal_of(path), 20)


def empty_text(path):
    os.truncate(journal_of(path), 0)


def replace_by_directory(path):
    remove_text(path)
    os.mkdir(Path(path, "entry"))


def replace_by_fifo(path):
    remove_text(path)
    os.mkfifo(Path(path, "entry"))


def make_huge(path):
    """Make the file 8 GB long, without using disk space."""
    os.truncate(journal_of(path), 8 << 30)


DAMAGES = [tear_text, empty_text, make_huge]
DAMAGES_OF_A_DIRECTORY = [*DAMAGES, remove_text, replace_by_directory, pytest.param(replace_by_fifo, marks=POSIX)]


def check_damage(box, e, damage, caplog):
    entry_id, path = put_waiting(box, e=e)
    good = {put_waiting(box)[0], put_waiting(box)[0]}
    damage(path)
    assert {*claimed_ids(box)} == good
    assert names_by_state(box)["corrupt"] == [entry_id]
    assert f"outbox entry {entry_id} is moved to corrupt/" in caplog.text
    ((candidate, reason),) = box.entries("corrupt")
    assert candidate.id == entry_id
    assert isinstance(reason, str)
    assert reason
    assert box.drop(candidate)
    assert "corrupt" not in names_by_state(box)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entry_moves_to_corrupt_and_others_are_delivered(box, damage, caplog):
    check_damage(box, Event("build"), damage, caplog)


@pytest.mark.parametrize("damage", DAMAGES_OF_A_DIRECTORY)
def test_damaged_entry_with_attachments_moves_to_corrupt_and_others_are_delivered(box, attached, damage, caplog):
    check_damage(box, attached, damage, caplog)


def test_entry_text_above_the_size_limit_is_not_read(box, monkeypatch):
    _, path = put_waiting(box)
    make_huge(path)
    sizes = []
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: (sizes.append(size), read(fd, size))[1])
    assert claimed_ids(box) == []
    assert sum(sizes) < 1000
    ((_, reason),) = box.entries("corrupt")
    assert f"the file has {8 << 30} bytes; expected {64 << 20} at most" in reason


@pytest.mark.parametrize("state", ["waiting", "claimed", "failed"])
def test_entry_of_a_newer_version_is_unchanged(box, state):
    entry_id, path = put_waiting(box)
    Path(path).write_text('{"version": 2, "secret": "of a newer release"}\n')
    name = {"waiting": f"0/{entry_id}", "claimed": f"{entry_id}.{dead_owner()}", "failed": entry_id}[state]
    os.rename(path, path_in(box, state, name))
    os.utime(path_in(box, state, name), (1e9, 1e9))
    before, modified = snapshot(box.path), os.stat(path_in(box, state, name)).st_mtime
    assert claimed_ids(box) == claimed_ids(box, everything=True) == []
    assert not box.retry(candidate_of(box, entry_id, state))
    assert snapshot(box.path) == before
    assert os.stat(path_in(box, state, name)).st_mtime == modified
    ((_, reason),) = box.entries(state)
    assert reason == "its version is 2; this release reads 1"


def test_entry_text_with_another_beginning_is_read(box):
    entry_id, path = put_waiting(box)
    content = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps(dict(reversed(content.items()))))
    assert claimed_ids(box) == [entry_id]


@POSIX
def test_file_in_a_state_directory_that_is_no_entry_is_ignored(box, caplog):
    put_waiting(box)
    os.mkfifo(path_in(box, "waiting", "0", "planted"))
    assert len(claimed_ids(box)) == 1
    assert "is neither a file nor a directory" in caplog.text
    assert os.path.exists(path_of(box, "planted"))
