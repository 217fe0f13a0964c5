"""The syntax of E3_EVENT_HANDLERS: values round-trip and are written as e3-core writes them."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from event import _handler_config
from event.error import EventError

# Texts with many special characters, so that escapes are next to each other.
TEXT = st.text(st.sampled_from("%%2257CcBb|,,= aé\n")) | st.text()
NAMES = st.text(st.characters(blacklist_characters="|=\0", blacklist_categories=["Cs"]), min_size=1).filter(
    lambda name: name == name.strip()
)
CONFIGS = st.text(st.characters(blacklist_characters="|\0", blacklist_categories=["Cs"]))
UNTIMED = settings(deadline=None, max_examples=5 * settings.default.max_examples)


@UNTIMED
@given(TEXT, st.booleans())
@example("%2", True)
@example("%%2C", True)
@example("%25%7c,", False)
@example("%2|", True)
@example("%,", True)
def test_quoted_value_round_trips(value, comma):
    quoted = _handler_config.quote(value, comma=comma)
    assert _handler_config.unquote(quoted) == value
    assert "|" not in quoted
    assert not comma or "," not in quoted


@UNTIMED
@given(st.text(st.sampled_from("%%2257CcBb= aé\n")) | st.text())
def test_value_without_separators_and_escapes_is_not_quoted(value):
    upper = value.upper()
    if not any(mark in upper for mark in ("|", ",", "%2C", "%7C", "%25")):
        assert _handler_config.quote(value) == value
    assert _handler_config.quote(_handler_config.quote(value), comma=False).count(",") == 0


@UNTIMED
@given(st.lists(TEXT, min_size=1))
def test_fields_round_trip(fields):
    assert _handler_config.split_fields(_handler_config.join_fields(fields)) == fields


@UNTIMED
@given(st.lists(TEXT, min_size=1, max_size=5))
def test_fields_with_commas_in_the_last_round_trip(fields):
    assert _handler_config.split_fields(_handler_config.join_fields(fields, last_whole=True), len(fields)) == fields


@UNTIMED
@given(st.lists(st.tuples(NAMES, CONFIGS)))
def test_pairs_round_trip(pairs):
    assert _handler_config.parse_handlers(_handler_config.format_handlers(pairs)) == pairs


@UNTIMED
@given(st.text())
def test_parsed_names_have_no_separators(value):
    for name, config in _handler_config.parse_handlers(value):
        assert name == name.strip()
        assert not {"|", "="} & {*name}
        assert "|" not in config


@pytest.mark.parametrize(
    ("value", "pairs"),
    [
        pytest.param("", [], id="empty"),
        pytest.param(" | ||\t", [], id="blank entries"),
        pytest.param("logging", [("logging", "")], id="a bare name"),
        pytest.param(" file = d ", [("file", " d ")], id="spaces are removed only around the name"),
        pytest.param("file=a=b", [("file", "a=b")], id="split at the first ="),
        pytest.param("a=1|b|a=2", [("a", "1"), ("b", ""), ("a", "2")], id="in order, twice the same"),
        pytest.param("file:nightly=d", [("file:nightly", "d")], id="a label"),
        pytest.param("=d", [("", "d")], id="no name"),
    ],
)
def test_parse_splits_the_variable(value, pairs):
    assert _handler_config.parse_handlers(value) == pairs


@pytest.mark.parametrize(
    ("name", "config"),
    [
        pytest.param("", "c", id="empty name"),
        pytest.param(" ", "c", id="blank name"),
        pytest.param("a ", "c", id="space after the name"),
        pytest.param("a|b", "c", id="bar in the name"),
        pytest.param("a=b", "c", id="equals in the name"),
        pytest.param("a\0", "c", id="NUL in the name"),
        pytest.param("a", "s3cr3t|", id="bar in the configuration"),
        pytest.param("a", "s3cr3t\0", id="NUL in the configuration"),
        pytest.param("a", b"s3cr3t", id="bytes"),
        pytest.param("a", None, id="None"),
    ],
)
def test_value_that_does_not_round_trip_is_an_error_without_secrets(name, config):
    with pytest.raises(ValueError, match=r"name|configuration") as caught:
        _handler_config.format_handlers([("ok", ""), (name, config)])
    assert repr(name)[1:-1] in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        pytest.param("a%20b", "a%20b", id="other escapes are unchanged"),
        pytest.param("100%", "100%", id="a percent at the end"),
        pytest.param("%2c%7c", ",|", id="lower case"),
        pytest.param("%252C", "%2C", id="an escaped escape"),
        pytest.param("%2525", "%25", id="read once, not twice"),
    ],
)
def test_unquote_reads_only_three_escapes(written, value):
    assert _handler_config.unquote(written) == value


@pytest.mark.parametrize(
    ("config", "most", "fields"),
    [
        pytest.param("a,b,c", -1, ["a", "b", "c"], id="all"),
        pytest.param("a,b,c", 2, ["a", "b,c"], id="the last takes the rest"),
        pytest.param("a,b", 1, ["a,b"], id="one"),
        pytest.param("", -1, [""], id="empty"),
        pytest.param("a%2Cb,c", 2, ["a,b", "c"], id="decoded after splitting"),
    ],
)
def test_split_fields_returns_unquoted_fields(config, most, fields):
    assert _handler_config.split_fields(config, most) == fields


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        ("file=a|logging=b|smtp=s,a@b,c@d,h,title=x=y|broker=amqp://h,q,s3=s3://b", []),
        ("s3=s3://b/events,s3://b/logs/year=2026", []),
        (
            "file=a|file=b|file=c",
            ["'file' appears twice, and the last one is used; add a label to use both: file:other=CONFIG"],
        ),
        ("file=a,logging:x=b", ["'file' seems to contain the handler 'logging:x'; separate handlers by '|'"]),
        ("http=u, s3=s3://b", ["'http' seems to contain the handler 's3'; separate handlers by '|'"]),
    ],
)
def test_doubtful_entries_are_reported(value, lines):
    assert _handler_config.likely_mistakes(_handler_config.parse_handlers(value)) == lines


def test_invalid_configuration_has_its_error_and_its_source():
    wrong = _handler_config.invalid_config("x is unknown", "/a/b.toml", "mail")
    with pytest.raises(EventError, match=r"^x is unknown$"):
        _handler_config.require_valid_config(wrong)
    assert _handler_config.source_of_invalid(wrong) == ("/a/b.toml", "mail")
    _handler_config.require_valid_config("x")
