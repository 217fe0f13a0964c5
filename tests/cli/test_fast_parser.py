"""The fast parser for common command lines returns the same as argparse, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event._cli import completion
from event._cli._support import fast_parser, parser

COMMANDS = ["send", "run", "check"]
COMPLETIONS = completion.words_by_command(parser.build_parser(COMMANDS))
LONG_OPTIONS = {word for command in COMMANDS for word in COMPLETIONS[command] if word.startswith("-")}
OPTIONS = sorted(LONG_OPTIONS | {"-h", "-q", "-v"})
WORDS = st.one_of(
    st.sampled_from([*OPTIONS, *(f"{option}=x" for option in OPTIONS), "--timeout=3", "--", "-x", "--from-file", "-"]),
    st.sampled_from(["n", "a=1", "a:=2", "", "x y", "3", "0", "--help", "E3_EVENT_HANDLERS", "é"]),
)


def parse_with_argparse(argv):
    try:
        return parser.parse(argv)
    except SystemExit:
        return None


@given(st.sampled_from(COMMANDS), st.lists(WORDS, max_size=8))
def test_fast_parser_agrees_with_argparse(command, words):
    fast = fast_parser.parse_fast([command, *words])
    if fast is None:
        return
    slow = parse_with_argparse([command, *words])
    assert slow is not None
    names = {name for name in vars(slow) if name not in {"parser", "run", "version"}}
    assert {name: getattr(fast, name) for name in names} == {name: getattr(slow, name) for name in names}
    assert fast.parser.prog == slow.parser.prog


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(
            ["send", "n", "a=1", "--attach", "f", "--uid=u", "--handler", "file=d", "--timeout", "3"], id="send"
        ),
        pytest.param(["send", "n", "--env", "V", "--outbox", "o", "--", "-c=3"], id="words after --"),
        pytest.param(["run", "n", "--start", "--strict", "--arguments", "--log", "l", "--", "make", "-j"], id="run"),
        pytest.param(["check", "--send", "--handler", "file=d"], id="check"),
    ],
)
def test_common_command_lines_are_parsed_without_argparse(argv):
    assert fast_parser.parse_fast(argv) is not None


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["send", "n", "--help"], id="help"),
        pytest.param(["send", "--from-file", "f"], id="several values"),
        pytest.param(["send", "n", "--uid"], id="no value"),
        pytest.param(["send", "n", "--uid", "--attach"], id="an option as a value"),
        pytest.param(["send", "n", "--timeout", "0"], id="a wrong value"),
        pytest.param(["send", "n", "--handler", "a", "--env", "V"], id="options that exclude each other"),
        pytest.param(["check", "n"], id="an unexpected word"),
        pytest.param(["run", "n", "--start=1"], id="a value for a flag"),
    ],
)
def test_wrong_or_rare_command_lines_are_left_to_argparse(argv):
    assert fast_parser.parse_fast(argv) is None
