"""Encode host names in ASCII with IDNA 2008; refuse names that could become those of other hosts."""

from __future__ import annotations

import idna
import pytest

from event._net.hostname import to_ascii


@pytest.mark.parametrize(
    "host",
    [
        *("straße.test", "Straße.test", "\u1e9ex.test", "faß.de", "βόλος.com", "ΒΌΛΟΣ.com", "e\u0301ß.test"),
        *("bücher.example", "Bücher。example.", "日本語.jp", "пример.рф", "ü.", "xn--strae-oqa.test", "a.test."),
    ],
)
def test_host_name_is_encoded_with_idna_2008(host):
    assert to_ascii(host) == idna.encode(host, uts46=True).decode()


def test_ascii_host_name_is_unchanged():
    assert to_ascii("Mail.Example.com.") == "Mail.Example.com."
    assert to_ascii("") == ""


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("a\u200db.test", id="zero-width joiner"),
        pytest.param("a\u200cß.test", id="zero-width non-joiner"),
        pytest.param("x\uff20evil.test", id="becomes an at-sign"),
        pytest.param("x\u2100.test", id="becomes a slash"),
        pytest.param("a\u2024b.test", id="becomes a dot"),
        pytest.param("ü..test", id="empty label"),
        pytest.param("ü" * 80, id="too long"),
        pytest.param("ß" * 80, id="too long with a kept letter"),
        pytest.param("\udcff.test", id="half of a surrogate pair"),
    ],
)
def test_invalid_host_name_is_an_error(host):
    with pytest.raises(ValueError, match=r"."):
        to_ascii(host)
