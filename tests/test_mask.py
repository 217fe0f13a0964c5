"""Secrets are masked in texts, in every encoding."""

from __future__ import annotations

import base64
import html
import json
import re
from urllib.parse import quote, quote_plus, urlencode

import pytest

from event._mask import Secrets, without_credentials

BASIC = "dTpzZWtyZXRPT08zMzM="  # u:sekretOOO333


@pytest.mark.parametrize(
    ("credential", "text", "shown"),
    [
        pytest.param("sekret&333", "a sekret&333", "a ***", id="plain"),
        pytest.param("sekret&333", "a SEKRET&333", "a ***", id="in another case"),
        pytest.param("sekret&333", "a sekret%26333 sekret&amp;333", "a *** ***", id="for URLs and HTML"),
        pytest.param('sekret"333', 'a sekret\\"333', "a ***", id="for JSON"),
        pytest.param("sekret%26333", "a sekret&333", "a ***", id="decoded"),
        pytest.param(f"Basic {BASIC}", f"Authorization: Basic {BASIC} x", "Authorization: *** x", id="a header"),
        pytest.param(f"Basic {BASIC}", f"token={BASIC}, sekretOOO333", "token=***, ***", id="parts of Basic"),
        pytest.param(f"Basic {BASIC}", "bad user u", "bad user u", id="the user is shown"),
        pytest.param("Basic \xe4", "bad", "bad", id="not base64"),
        pytest.param("Bearer abcdef-1", "no abcdef-1", "no ***", id="Bearer"),
        pytest.param("id=abcdef1; x=1", "id abcdef1, x 1", "id ***, x 1", id="a cookie"),
        pytest.param("abc", "abcd abc YWJj", "abcd *** ***", id="a short one only as a word"),
        pytest.param("", "text", "text", id="empty"),
        pytest.param("sekretOOO333", BASIC, "dT***", id="base64 with something before it"),
        pytest.param("s\udce4kret-333", "s\udce4kret-333", "***", id="not UTF-8"),
    ],
)
def test_echoed_credential_is_masked(credential, text, shown):
    assert without_credentials(text, [credential]) == shown


@pytest.mark.parametrize("before", [b"", b"u:", b"\0u\0", b"user:"])
@pytest.mark.parametrize("after", [b"", b"@", b"@h"])
def test_secret_is_masked_in_base64_of_any_text(before, after):
    secret = b"s3cret?>\x7f~~"
    secrets = Secrets([secret.decode()])
    plain = base64.b64encode(before + secret + after).decode()
    for encoded in (plain, plain.replace("/", r"\/"), base64.urlsafe_b64encode(before + secret + after).decode()):
        shown = secrets.without(f"x {encoded} y")
        assert secrets.may_be_in(encoded)
        assert shown.startswith("x ")
        assert len(shown.split("***")[0]) <= len("x ") + len(before) * 4 // 3
        assert len(shown.split("***")[1]) <= len("NoQGg== y")


def lower_escapes(text):
    return re.sub("%..|u....", lambda found: found[0].lower(), text)


def repeated(encode, text):
    return encode(encode(encode(text)))


def shell_escaped(text):
    return re.sub(r"([^\w\n])", r"\\\1", text)


ENCODERS = {
    "unchanged": str,
    "a URL's path": quote,
    "a URL's parameter": lambda text: quote(text, safe=""),
    "lower case": lambda text: lower_escapes(quote(text, safe="")),
    "a form": quote_plus,
    "urlencode": lambda text: urlencode({"": text})[1:],
    "encodeURIComponent": lambda text: quote(text, safe="!'()*~"),
    "encodeURI": lambda text: quote(text, safe=";,/?:@&=+$-_.!~*'()#"),
    "encoded tilde": lambda text: quote(text, safe="").replace("~", "%7E"),
    "a URL in a URL": lambda text: quote(quote(text)),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON of PHP": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON of .NET": lambda text: re.sub("['&<>+]", lambda c: f"\\u{ord(c[0]):04X}", json.dumps(text)[1:-1]),
    "JSON in JSON in JSON": lambda text: repeated(lambda inner: json.dumps(inner)[1:-1], text),
    "a URL in JSON of PHP": lambda text: json.dumps(quote(text))[1:-1].replace("/", "\\/"),
    "repr": lambda text: repr(text)[1:-1],
    "repr of bytes": lambda text: repr(text.encode())[2:-1],
    "ASCII": lambda text: ascii(text)[1:-1],
    "repr in repr in repr": lambda text: repeated(lambda inner: repr(inner)[1:-1], text),
    "HTML": html.escape,
    "HTML of PHP": lambda text: html.escape(text).replace("&#x27;", "&#039;"),
    "a shell": shell_escaped,
}


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize(
    "secret",
    [
        "pass/word",
        "pass word",
        "/p+a=s&s;w%2Fo@r d!'()*~<>\"$",
        "tab\tand\nline",
        r"C:\new\\two\"q\u002f\ ",
        "\\",
        "p\u00e4ss\u20acw\U0001f600rd",
        "?!?!?!?!",
    ],
)
def test_secret_is_masked_in_any_encoding(secret, encode):
    text = encode(secret.strip())
    secrets = Secrets([secret])
    assert secrets.may_be_in(f"a={text}=")
    assert secrets.without(f"a={text}=") == "a=***="


def test_base64_is_masked_in_any_encoding():
    secret = "s3cret?>\x7f~~"
    plain = base64.b64encode(f"{secret}??>".encode()).decode()
    assert "+" in plain or "/" in plain
    for encode in ENCODERS.values():
        assert Secrets([secret]).without(f"a={encode(plain)}=").startswith("a=***")


def test_longest_of_several_secrets_is_masked():
    secrets = Secrets(["pass/word", "my-pass/word+1", "pass"])
    assert secrets.without("my-pass/word+1 my-pass%2fword%2b1 pass\\/word pass & word") == "*** *** *** *** & word"


@pytest.mark.parametrize("text", ["pass/Word", "Pass%2Fword", "pass2fword", "pass%20word", "passnword%", "pass word+"])
def test_similar_text_is_no_secret(text):
    assert Secrets(["pass/word", "pass\nword"]).without(text) == text


@pytest.mark.parametrize("letters", [*"a/=+ ", "aGVsbG8", "YWFh"])
def test_megabyte_of_an_answer_is_masked_in_linear_time(letters):
    without_credentials(letters * (1_000_000 // len(letters)), [f"Basic {BASIC}", "aaaaaaaaa"])
