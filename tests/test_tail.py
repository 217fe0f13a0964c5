"""The end of a command's output, as readable text."""

from __future__ import annotations

import os
import select

import pytest

from event._process import tail
from event._process.output import Tee
from event._process.tail import FileEnd, Ring, as_shown, last_lines

POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: select takes no pipe there")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        pytest.param("plain text, ü and 漢字", "plain text, ü and 漢字", id="plain"),
        pytest.param("a\tb", "a\tb", id="a tab"),
        pytest.param("trailing \r", "trailing", id="a line end of Windows"),
        pytest.param(" 10%\r 50%\r100%\rdone", "done", id="a progress bar"),
        pytest.param("abcdef\rxyz", "xyzdef", id="a text that overwrites a longer one"),
        pytest.param("downloading\r\x1b[Kdone", "done", id="a line that is erased"),
        pytest.param("downloading\x1b[2K\rdone", "done", id="a whole line that is erased"),
        pytest.param("abc\x1b[2Kd", "   d", id="an erased line keeps the column"),
        pytest.param("abcdef\rxy\x1b[1K", "   def", id="the beginning of a line that is erased"),
        pytest.param("abcdef\rxy\x9b0K", "xy", id="eight-bit control sequences"),
        pytest.param("abc\b\b\b\bx", "xbc", id="backspaces"),
        pytest.param("\x1b[1;31merror:\x1b[0m no", "error: no", id="colours"),
        pytest.param(
            "\x1b]0;title\x07a\x1b]8;;https://x.test\x1b\\link\x1b]8;;\x1b\\", "alink", id="a title and a link"
        ),
        pytest.param("\x1bPquery\x1b\\a\x1b(Bb\x1b7c\x1b[?25l", "abc", id="other sequences"),
        pytest.param("a\0b\x07c\x7fd\x85e", "abcde", id="control characters"),
        pytest.param("x = \u202e1\u202c", "x = 1", id="reversed text"),
        pytest.param("\x1b[31", "", id="a sequence without an end"),
    ],
)
def test_line_is_shown_as_a_terminal_finally_shows_it(line, shown):
    assert as_shown(line) == shown


@pytest.mark.parametrize(
    "letters", ["a", "\r", "\b", "\x1b", "\x1b[", "\x1b]", "\x1bP", "\x1b[K", "a\r", "\x1b[1K", "1;"]
)
def test_repeated_control_sequences_are_resolved_in_linear_time(letters):
    """Quadratic time would exceed pytest's timeout."""
    as_shown("\x1b[" + letters * (100_000 // len(letters)))


def test_a_ring_keeps_the_end_from_the_beginning_of_a_line():
    ring = Ring()
    for number in range(100_000):
        ring.append(b"%07d\n" % number)
    lines = ring.content().split()
    assert lines == [b"%07d" % number for number in range(100_000 - len(lines), 100_000)]
    assert tail.KEPT - 8 <= len(ring.content()) <= 2 * tail.KEPT


def test_a_ring_keeps_the_end_of_a_line_without_a_newline():
    ring = Ring()
    ring.append(b"x" * 3 * tail.KEPT)
    assert ring.content() == b"x" * tail.KEPT


def test_the_last_lines_of_both_streams_are_one_text():
    ends = [b"one\ntwo\nthree\n\n", b"\nfour\n"]
    assert last_lines(ends, 3, str) == "three\n\nfour"
    assert last_lines(ends, 9, str) == "one\ntwo\nthree\n\nfour"
    assert last_lines([b"", b"\n \n"], 3, str) == ""


def test_long_line_is_cut_and_invalid_utf_8_is_replaced():
    text = last_lines([b"caf\xe9\n" + b"x" * 2000], 9, str)
    assert text == "caf\ufffd\n" + "x" * 497 + "..."


def test_a_secret_is_replaced_before_lines_are_cut():
    assert last_lines([b"a\nsec\nret\nb"], 2, lambda text: text.replace("sec\nret", "***")) == "***\nb"
    assert last_lines([b"s\x1b[0mecret"], 2, lambda text: text.replace("secret", "***")) == "***"


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        pytest.param("secret\rzz", "zz*", id="from the beginning of the line"),
        pytest.param("my-secret\b\bzz", "my-*zz", id="after backspaces"),
        pytest.param("a\n\x1b[1m\x1b[Ksec\x1b[0mret\rzz", "a\nzz*", id="with colours"),
        pytest.param("my-sec\b\b\bsecret", "my-***", id="completed after backspaces"),
        pytest.param("10%\r20%\nmy-secret", "20%\nmy-***", id="after another line"),
        pytest.param("word\rzz", "zzrd", id="no secret"),
    ],
)
def test_secret_that_is_overwritten_in_part_is_replaced(output, shown):
    assert last_lines([output.encode()], 9, lambda text: text.replace("secret", "***")) == shown


if os.name != "nt":  # platform: Windows cannot open a file for reading by its descriptor

    @pytest.fixture
    def opened(tmp_path):
        """Return a function that opens a file with one line."""
        path = tmp_path / "log"
        path.write_bytes(b"before\n")
        opened = []

        def open_it(flags):
            opened.append(os.open(path, os.O_WRONLY | flags))
            return opened[-1]

        yield open_it
        for fd in opened:
            os.close(fd)

    @pytest.mark.parametrize("flags", [os.O_APPEND, os.O_TRUNC])
    def test_end_of_a_file_is_the_text_written_since(opened, flags):
        fd = opened(flags)
        end = FileEnd(fd)
        os.write(fd, b"one\ntwo\n")
        assert end.content() == b"one\ntwo\n"

    def test_a_file_that_shrinks_is_read_from_its_beginning(opened):
        fd = opened(os.O_APPEND)
        end = FileEnd(fd)
        os.truncate(fd, 0)
        os.write(fd, b"one\n")
        assert end.content() == b"one\n"

    def test_end_of_a_long_file_begins_at_the_start_of_a_line(opened):
        fd = opened(os.O_APPEND)
        end = FileEnd(fd)
        os.write(fd, b"line\n" * tail.KEPT)
        assert end.content() == b"line\n" * (tail.KEPT // 5)

    def test_end_of_an_unreadable_file_is_empty(opened):
        end = FileEnd(opened(os.O_APPEND))
        os.close(end._reader)
        assert end.content() == b""

    def test_renamed_file_is_not_mistaken_for_the_original(opened, tmp_path, monkeypatch):
        (tmp_path / "other").touch()
        monkeypatch.setattr(tail, "_path_of", lambda _: tmp_path / "other")
        with pytest.raises(FileNotFoundError):
            FileEnd(opened(os.O_APPEND))


@POSIX
def test_last_output_is_shown_before_the_event_is_sent():
    reader, target = os.pipe()
    tee = Tee([(target,)], None)
    (stream,) = tee.streams
    os.write(stream.writer, b"last\n")
    os.close(stream.writer)
    tee.end(0.0)  # the event is sent next
    assert select.select([reader], [], [], 60)[0]
    assert os.read(reader, 10) == b"last\n"
    tee.finish()
    os.close(target)
    assert os.read(reader, 10) == b""


@POSIX
def test_output_is_shown_at_the_end_if_no_thread_can_be_started(monkeypatch):
    def fail(*_args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("event._process.output.start_new_thread", fail)
    reader, target = os.pipe()
    tee = Tee([(target,)], None)
    (stream,) = tee.streams
    os.write(stream.writer, b"last\n")
    os.close(stream.writer)
    tee.end(0.0)
    tee.finish()
    os.close(target)
    assert os.read(reader, 10) == b"last\n"
