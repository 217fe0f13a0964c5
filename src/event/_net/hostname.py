"""Convert a host name to its ASCII form, for DNS and TLS.

The standard library's codec ``idna`` is IDNA 2003. It turns ``straße`` into ``strasse``, which may belong to another
owner. IDNA 2008 (RFC 5891) keeps the four characters that differ (RFC 5894, 7.2).
"""

from __future__ import annotations

import re
from encodings.idna import ToASCII, nameprep

_KEPT = re.compile("([ßς])")
_JOINERS = re.compile("[\u200c\u200d]")
_DOTS = re.compile("[.\u3002\uff0e\uff61]")
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")


def to_ascii(host: str) -> str:
    """Return a host name in its ASCII form; a trailing dot stays.

    :raises ValueError: no host has that name, or the name contains a zero-width joiner
    """
    if host.isascii():
        return host
    if _JOINERS.search(host):
        raise ValueError("a zero-width joiner is not allowed in a host name; give the name in its form with xn--")
    *labels, last = _DOTS.split(host)
    return ".".join([*map(_label, labels), _label(last) if last else ""])


def _label(label: str) -> str:
    # IDNA 2008 lowers the capital ẞ, which is younger than the tables of IDNA 2003, to ß.
    parts = _KEPT.split(label.replace("\u1e9e", "ß"))
    if len(parts) == 1:
        text = ToASCII(label).decode("ascii")
    else:
        text = "xn--" + "".join(map(_prepared, parts)).encode("punycode").decode("ascii")
    # IDNA 2003 turns some characters into an @, a dot or a slash. The result would be another host's name.
    if not _LABEL.fullmatch(text):
        raise ValueError("it is not a host name")
    return text


def _prepared(text: str) -> str:
    """Return a part of a label in lower case and in composed form, as IDNA compares it (RFC 3491)."""
    return text if text in {"ß", "ς"} else nameprep(text)
