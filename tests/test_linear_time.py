"""Functions that read external text take linear time."""

from __future__ import annotations

import logging
import tempfile
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from event import Event, _handler_config, _json, _secrets, error
from event._broker import decode_message
from event._broker.url import BrokerURL
from event._config_file import read_config_file
from event._formats import cloudevents
from event._formats.address import parse_mailbox, parse_mailboxes
from event._formats.mentions import without_mentions
from event._formats.notice import chat_text, notice_of, text_of
from event._formats.notice_html import chat_html, html_of
from event._formats.template import fill
from event._mask import Secrets
from event._net import apprise_service, hostname, proxies, s3, smtp, webhook
from event._net.connection import Response
from event._net.mail_server import MailServer
from event._net.url import Target
from event._outbox import entry
from event._process import junit
from event._process.tail import as_shown, last_lines
from event._redact import redact_text, without_secrets
from event._text import on_one_line
from event._trace_context import parse_traceparent
from event.error import EventError
from event.handler import apprise

QUICK = (1 << 12, 1 << 18)  # characters
MEGABYTE = (1 << 14, 1 << 20)
MAX_RATIO = 512  # eight times the ratio of linear time and an eighth of quadratic time: a slow machine does not matter
MIN_SECONDS = 6e-7  # of CPU time for a character of the short text; a shorter time counts as this


def notice(text):
    found = notice_of({"name": text, "error": text, "output_tail": text, "build_url": f"http://{text}", "by": text})
    return [text_of(found), html_of(found), chat_text(found, [text], 2000), chat_html(found, [text], 2000)]


def in_file(read):
    """Return a reader of text that calls a reader of files."""

    def read_file(text):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "file"
            path.write_bytes(text.encode("utf-8", "replace"))
            return read(str(path))

    return read_file


def masked_by_apprise(text):
    with apprise_service.Listener("slack://aB1/x2y3z4w5/longer-token") as listener:
        logging.getLogger("apprise").warning("%s", text)
        return listener.reason()


ENCODABLE = ["/a/ b", r"\\\"\"\x", "%2%25&amp;", r"\\\\", "a\u00e4:@a", "////++++"]

READERS = {
    "a line": on_one_line,
    "a visible text": error.visible,
    "an error on one line": lambda text: error.one_line(ValueError(text)),
    "secrets of a text": redact_text,
    "secrets of an error": lambda text: without_secrets(text, {"acme": "hunter2"}),
    "encoded secrets": lambda text: Secrets(ENCODABLE).without(f"{text} {' '.join(ENCODABLE)} {text}"),
    "secrets in a URL of S3": lambda text: s3.s3_reason(ValueError(text)),
    "secrets in the log of Apprise": masked_by_apprise,
    "mentions": without_mentions,
    "a notice": notice,
    "a template": lambda text: fill(text, {"a": "b"}),
    "the output of a command": as_shown,
    "the end of an output": lambda text: last_lines([text.encode()], 10, redact_text),
    "JSON": _json.loads,
    "a text in JSON": lambda text: _json.loads(_json.dumps(text)),
    "a message": lambda text: decode_message(text.encode()),
    "an entry": lambda text: entry.decode_entry(text.encode()),
    "a trace": lambda text: parse_traceparent(text, text, text),
    "E3_EVENT_HANDLERS": _handler_config.parse_handlers,
    "fields": lambda text: [*map(_handler_config.unquote, _handler_config.split_fields(text))],
    "conditions": _handler_config.split_conditions,
    "a reference": lambda text: _secrets.resolve_secret(f"env:{text}", "x"),
    "mail addresses": parse_mailboxes,
    "a mail address": parse_mailbox,
    "a mail server": MailServer.parse,
    "the URL of a mail server": lambda text: MailServer.parse(f"smtps://{text}"),
    "a reply of a mail server": lambda text: smtp.Refusal.answered(550, text.encode()),
    "a URL": lambda text: Target.parse(f"https://{text}", "x"),
    "a host": hostname.to_ascii,
    "a URL of S3": lambda text: s3.location(f"s3://{text}"),
    "an access point": lambda text: s3.location(f"s3://arn:{text}"),
    "the URL of a broker": lambda text: BrokerURL(f"amqp://{text}"),
    "URLs for Apprise": lambda text: apprise._split_urls([text, f"a://{text}"]),
    "NO_PROXY": lambda text: proxies.bypasses(text.replace(" ", ","), "host.test", 80),
    "Retry-After": lambda text: Response(429, {"Retry-After": text}).retry_after,
    "a webhook's secret": lambda text: webhook.keys(f"whsec_{text}"),
    "a JUnit report": in_file(lambda path: junit.summary(path, 0, print)),
    "the values of a JUnit report": lambda text: in_file(lambda path: junit.summary(path, 0, print))(
        f'<testsuite><testcase name="{text}"><failure/></testcase></testsuite>'
    ),
    "a configuration file": in_file(read_config_file),
    "the values of a configuration file": lambda text: in_file(read_config_file)(f"timeout = '{text}'"),
    "a dump": in_file(Event.load),
    "a CloudEvent": lambda text: cloudevents.as_cloudevent(Event(text, source=text, a=text), "id", text, text),
}

LETTERS = "a/@ :"
OTHER_LETTERS = [
    *"\"'\\()<>[]{},;.%=&#?!*|-_\n\t\r\b\x1b\0\ud800\u00df",
    *("://", "a:", "a@", ", ", "a ", "(a", '"a', "<a", "{a", "a.", "\x1b["),
]


def cpu_seconds(read, text):
    begin = time.process_time()
    with suppress(EventError, ValueError):
        read(text)
    return time.process_time() - begin


def assert_linear(read, letters, sizes):
    """Check that a text 64 times as long takes at most MAX_RATIO times as long to read."""
    short, long = (letters * (size // len(letters)) for size in sizes)
    seconds = max(cpu_seconds(read, short), MIN_SECONDS * len(short))
    assert cpu_seconds(read, long) <= MAX_RATIO * seconds, repr(letters)


@pytest.mark.parametrize("letters", LETTERS)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_long_text_is_read_in_linear_time(read, letters):
    assert_linear(read, letters, QUICK)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_megabyte_of_any_letters_is_read_in_linear_time(read):
    for letters in (*LETTERS, *OTHER_LETTERS):
        # tomllib takes quadratic time for a key of many parts. The file comes from the user.
        if (read, letters) != (READERS["a configuration file"], "a."):
            assert_linear(read, letters, MEGABYTE)


@pytest.mark.parametrize(("power", "is_found"), [(1, False), (2, True)], ids=["linear", "quadratic"])
def test_reader_that_takes_quadratic_time_is_detected(monkeypatch, power, is_found):
    clock = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: clock[0])

    def read(text):
        clock[0] += (len(text) / QUICK[0]) ** power

    with pytest.raises(AssertionError) if is_found else nullcontext():
        assert_linear(read, "a", QUICK)
