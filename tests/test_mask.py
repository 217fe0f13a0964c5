"""Secrets are masked in texts, in every encoding."""

from __future__ import annotations

import base64

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
        assert secrets.are_in(encoded)
        assert shown.startswith("x ")
        assert len(shown.split("***")[0]) <= len("x ") + len(before) * 4 // 3
        assert len(shown.split("***")[1]) <= len("NoQGg== y")


@pytest.mark.parametrize("letters", [*"a/=+ ", "aGVsbG8", "YWFh"])
def test_megabyte_of_an_answer_is_masked_in_linear_time(letters):
    without_credentials(letters * (1_000_000 // len(letters)), [f"Basic {BASIC}", "aaaaaaaaa"])
