"""Functions that parse external input return the documented type or raise the documented error.

The profile ``thorough`` tries more inputs; see tests/conftest.py.
"""

from __future__ import annotations

import json
import re
import ssl
from contextlib import suppress
from email.message import Message
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from event import Event, EventError, _handler_config, _json
from event._broker import EventMessage, decode_message
from event._broker.url import BrokerURL
from event._config_file import ConfigFile, read_config_file
from event._formats.address import format_mailboxes, parse_mailboxes
from event._formats.chat import message_about
from event._formats.mentions import without_mentions
from event._formats.template import Templates
from event._net import connection, hostname, http, proxies, s3, smtp, webhook
from event._net.mail_server import MailServer
from event._net.url import Target
from event._outbox import entry
from event._process import junit
from event._process.tail import last_lines
from event._redact import redact_text, without_secrets
from event._trace_context import Span, from_data, parse_traceparent
from event.error import visible
from event.handler.apprise import AppriseHandler
from event.handler.http import HTTPHandler
from event.handler.s3 import S3Handler
from event.handler.smtp import SMTPHandler

TEXTS = st.text(st.characters(exclude_categories=()))  # lone surrogates, too
# Texts with characters and words that parsers treat specially.
WORDS = st.sampled_from(
    [*":/@,;|%=&?#[]<>\"'\\ \n\0", "://", "env:", "file:", "smtp", "amqp", "https", "localhost", "::1"]
)
LIKELY = st.lists(WORDS | TEXTS, max_size=8).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
SECRET = "hunter2hunter2"
SLOW = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def mutations(valid):
    """Return a strategy for a valid object with one value changed or missing, and for any other JSON."""
    keys = st.sampled_from(sorted(valid))
    changed = st.builds(lambda key, value: {**valid, key: value}, keys, JSON)
    return changed | st.builds(lambda key: {name: value for name, value in valid.items() if name != key}, keys) | JSON


DUMP = {"data": {"uid": "u", "name": "n"}, "attachments": {"log": ["log", "0" * 40]}, "closed": True}
ENTRY = {
    "version": entry.ENTRY_VERSION,
    "id": "a",
    "created": 1.5,
    "event": DUMP,
    "handlers": [{"name": "file", "config": "d"}],
    "trace": {},
}


# Stored events and messages.


@SLOW
@given(mutations(DUMP))
def test_mutated_dump_is_loaded_or_refused(tmp_path, content):
    (tmp_path / "dump.json").write_text(json.dumps(content), encoding="ascii")
    with suppress(EventError):
        loaded = Event.load(tmp_path / "dump.json")
        assert isinstance(loaded.as_dict(), dict)
        assert all(isinstance(name, str) for name in loaded.get_attachments())


@SLOW
@given(st.binary() | LIKELY.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_random_bytes_as_a_dump_are_refused(tmp_path, content):
    (tmp_path / "dump.json").write_bytes(content)
    with pytest.raises(EventError):
        Event.load(tmp_path / "dump.json")


@given(
    mutations(ENTRY).map(lambda content: json.dumps(content).encode()) | st.binary(), st.lists(st.binary(), max_size=3)
)
def test_mutated_outbox_entry_is_read_or_refused(first, journal):
    with suppress(ValueError):
        decoded = entry.decode_entry(b"\n".join([first, *journal]))
        assert isinstance(decoded, entry.Entry)
        assert isinstance(decoded.pending, dict)


@given(st.binary() | JSON.map(lambda content: json.dumps(content).encode()))
def test_any_journal_line_is_read_or_skipped(line):
    decoded = entry.decode_entry(json.dumps(ENTRY).encode())
    decoded.add(line)
    assert decoded.pending in ({}, {"file": "d"})


@given(st.binary() | JSON.map(lambda content: json.dumps(content).encode()))
def test_mutated_broker_message_is_read_or_refused(body):
    with suppress(ValueError, EventError):
        assert isinstance(decode_message(body), EventMessage)


@given(LIKELY, LIKELY, LIKELY)
@example("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "", "\n")
def test_any_trace_context_is_parsed_or_ignored(parent, parent_id, state):
    for span in (parse_traceparent(parent, parent_id, state), from_data({"traceparent": parent, "tracestate": state})):
        assert span is None or (isinstance(span, Span) and parse_traceparent(span.traceparent) is not None)


# Configurations.


@pytest.mark.parametrize("handler", [AppriseHandler, HTTPHandler, S3Handler, SMTPHandler])
@given(config=LIKELY)
def test_any_handler_configuration_round_trips_or_is_refused(handler, config):
    with suppress(EventError):
        again = handler(**handler.decode_config(config))
        encoded = again.encode_config()
        assert handler(**handler.decode_config(encoded)).encode_config() == encoded


@given(LIKELY)
def test_any_handlers_variable_round_trips_or_is_refused(text):
    pairs = _handler_config.parse_handlers(text)
    with suppress(ValueError):  # a name that is only valid in the API
        again = _handler_config.format_handlers(pairs)
        assert _handler_config.format_handlers(_handler_config.parse_handlers(again)) == again
    for name, _ in pairs:
        with suppress(EventError):
            _handler_config.split_conditions(name)


@SLOW
@given(st.dictionaries(LIKELY, LIKELY | st.integers() | st.booleans(), max_size=3), st.binary())
def test_any_configuration_file_is_read_or_refused(tmp_path, values, rest):
    lines = [f"{_json.dumps(key)} = {_json.dumps(value)}\n" for key, value in values.items()]
    path = tmp_path / "e3-event.toml"
    for content in ("".join(lines).encode("utf-8", "replace"), b"[handlers]\n" + "".join(lines).encode(), rest):
        path.write_bytes(content)
        with suppress(EventError):
            assert isinstance(read_config_file(str(path)), ConfigFile)


@given(LIKELY)
def test_any_url_is_parsed_or_refused(text):
    for read in (Target.parse, lambda url, _: MailServer.parse(url), lambda url, _: BrokerURL(url)):
        with suppress(EventError):
            repr(read(text, "x"))
    with suppress(EventError):
        bucket, key = s3.location(f"s3://{text}")
        assert bucket
        assert not {".", ".."} & {*key.split("/")}


@given(LIKELY)
def test_any_host_name_is_ascii_or_refused(text):
    with suppress(ValueError):
        assert hostname.to_ascii(text).isascii()


@given(LIKELY, LIKELY)
def test_any_no_proxy_value_is_accepted(no_proxy, host):
    assert proxies.bypasses(no_proxy, host, 80) in {True, False}
    assert proxies.bypasses(f"{no_proxy},host.test", "a.host.test", 80)


@given(LIKELY | st.binary(min_size=24, max_size=64).map(lambda key: key.hex()))
def test_any_webhook_secret_is_valid_or_refused(text):
    with suppress(EventError):
        assert all(24 <= len(key) <= 64 for key in webhook.keys(text))


@given(LIKELY)
def test_any_address_list_round_trips_or_is_refused(text):
    with suppress(EventError):
        boxes = parse_mailboxes(text)
        assert parse_mailboxes(format_mailboxes(boxes)) == boxes


# Responses of servers.


@given(st.binary())
def test_any_http_response_is_read_or_an_expected_failure(answer):
    import io

    sock = SimpleNamespace(makefile=lambda *_args: io.BytesIO(answer))
    with suppress(*http.FAILURES), connection._Response(sock, method="POST") as response:
        response.begin()
        assert 200 <= response.status <= 999
        response.read(1000)


@given(LIKELY)
def test_any_retry_after_header_is_ignored_or_not_negative(text):
    headers = Message()
    headers["Retry-After"] = text.replace("\n", " ").replace("\r", " ").encode("ascii", "replace").decode()
    pause = connection.Response(503, headers).retry_after
    assert pause is None or pause >= 0


@given(st.integers(), LIKELY | st.binary(), st.sampled_from([OSError, ssl.SSLError, ValueError]))
def test_any_mail_server_reply_is_shown_as_printable_text(code, text, kind):
    for reason in (smtp.Refusal.answered(code, text).reason, smtp.smtp_reason(kind(str(text)))):
        assert reason.isprintable()


# Texts for recipients.


@given(LIKELY, LIKELY)
def test_no_secret_is_left_in_a_text(before, after):
    text = f"{before}{SECRET}{after}"
    assert SECRET not in without_secrets(text, {"acme": SECRET})
    assert SECRET not in redact_text(text, [SECRET])
    assert SECRET not in s3.s3_reason(ValueError(f"https://u:{SECRET}@h.test"))
    assert visible(text).isprintable()


@given(JSON)
def test_mentions_are_removed_and_other_data_unchanged(value):
    found = json.dumps(without_mentions(value))
    assert "@everyone" not in found
    assert json.dumps(without_mentions(json.loads(found))).count("@") == found.count("@")


@given(
    st.dictionaries(st.sampled_from(["name", "outcome", "error", "ci", "tests", "output_tail"]) | TEXTS, JSON), LIKELY
)
def test_any_event_data_makes_a_chat_message(data, template):
    made = Event("n", uid="u")
    for name, value in data.items():
        made._data[name] = value
    for templates in (Templates(), Templates(template, template)):
        message = message_about(made, templates)
        assert message.notice.title
        assert message.notice.title.isprintable()
        for kind in ("TEXT", "MARKDOWN", "HTML"):
            assert message.body(kind, 2000)[1].encode() or template


@SLOW
@given(LIKELY, st.binary())
def test_any_junit_report_is_summarized(tmp_path, name, content):
    report = tmp_path / "report.xml"
    quoted = json.dumps(name).replace("<", "&lt;").encode()
    for text in (b"<testsuite><testcase name=" + quoted + b"><failure/></testcase></testsuite>", content):
        report.write_bytes(text)
        remarks = []
        assert isinstance(junit.summary(str(report), 0, remarks.append), dict)


@given(st.lists(st.binary(), max_size=3))
def test_any_output_tail_has_no_control_characters(ends):
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f]", last_lines(ends, 10, redact_text))
