"""Text on one line."""

from __future__ import annotations

import pytest

from event._text import on_one_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("plain", "plain", id="plain"),
        pytest.param(" a\r\n\tb  c ", "a b c", id="white space"),
        pytest.param("a\x1b[1mb\x00", "a [1mb", id="control characters"),
        pytest.param("caf\udce9.c", "caf?.c", id="surrogate"),
    ],
)
def test_text_is_on_one_line_without_control_characters(text, expected):
    assert on_one_line(text) == expected
