"""Texts without secrets."""

from __future__ import annotations

import pytest

from event._redact import without_secrets


@pytest.mark.parametrize(
    ("text", "configs", "shown"),
    [
        pytest.param("no hunter2", {"acme": "hunter2"}, "no ***", id="the configuration"),
        pytest.param("token abcd1234", {"acme": "https://h/T00/abcd1234?x=1"}, "token ***", id="a part of it"),
        pytest.param("a,b|c", {"acme": "a%2Cb%7Cc"}, "***", id="decoded"),
        pytest.param(r"it is 'a\\b\\c'", {"acme": r"a\b\c"}, "it is '***'", id="as a repr shows it"),
        pytest.param("no abc", {"acme": "abc"}, "no abc", id="too short to be a secret"),
        pytest.param("no events", {"file": "events"}, "no events", id="a built-in handler's directory"),
        pytest.param("amqp://u:s3cret@h", {}, "amqp://u:***@h", id="a URL's password"),
        pytest.param("amqp://u:p@s3cret@h", {}, "amqp://u:***@h", id="a URL's password with an at sign"),
        pytest.param("no p@s3cret", {"acme": "https://u:p%40s3cret@h"}, "no p@***", id="a URL's password, decoded"),
        pytest.param("x" * 30_000, {}, "x" * 20_000, id="very long"),
    ],
)
def test_a_text_holds_no_secret(text, configs, shown):
    assert without_secrets(text, configs) == shown


@pytest.mark.parametrize("letter", ["a", "/", "@", " ", ":", "://", "://a:"])
def test_a_megabyte_of_anything_takes_no_time(letter):
    without_secrets(letter * (1_000_000 // len(letter)), {"acme": "hunter2"})
