"""Mask given secrets in a text, in each form in which the text may contain them.

The forms are the secret itself, its encodings for URLs, repr, JSON and HTML, and the base64 of any text that contains
the secret, such as ``user:password`` in an Authorization header. Every search takes linear time.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK = "***"
_MIN_LINE_LENGTH = 8  # characters of a line of a secret; shorter lines, such as "}", occur everywhere
_MIN_BASE64_LENGTH = 8  # characters; fewer may be a part of an ordinary word
_LONG = 6  # characters of a credential; a shorter one is masked only as a word

# Characters that URLs, repr, JSON and HTML do not escape: the unreserved characters of RFC 3986, section 2.3.
_UNQUOTED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Secrets:
    """The forms of secrets and of each of their lines, without the white space at their ends."""

    __slots__ = ("base64", "plain")

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self.plain: set[str] = set()  # the secrets and their encodings
        self.base64: set[str] = set()  # parts of the base64 of any text that contains a secret
        for secret in secrets:
            lines = [line for line in secret.splitlines() if len(line) >= _MIN_LINE_LENGTH]
            for text in filter(None, {secret.strip(), *lines}):
                self.plain |= _plain_forms(text)
                self.base64 |= _base64_forms(text)

    def are_in(self, text: str) -> bool:
        return any(form in text for form in self.plain) or any(form in text for form in self.base64)

    def without(self, text: str) -> str:
        """Return a text with `MASK` in place of each secret."""
        for form in sorted((form for form in self.plain if form in text), key=len, reverse=True):
            text = text.replace(form, MASK)
        if found := [form for form in self.base64 if form in text]:
            text = _without_base64(text, found)
        return text


def without_credentials(text: str, credentials: Iterable[str]) -> str:
    """Mask the credentials of a request in a text from the other side, which may echo the request in another case.

    :param credentials: passwords, tokens, and values of headers, such as ``Basic dTpw``
    """
    parts = {part for credential in credentials for part in _parts(credential)}
    if not parts:
        return text
    import html
    import re
    from base64 import b64encode

    plain = {form for part in parts for form in _plain_forms(part)}
    plain |= {html.escape(form) for form in plain}
    encoded = {b64encode(part.encode("utf-8", "surrogateescape")).decode() for part in parts}
    plain |= encoded | {form.rstrip("=") for form in encoded}
    words = [
        re.escape(form) if len(form) >= _LONG else rf"(?<!\w){re.escape(form)}(?!\w)"
        for form in sorted(plain, key=len, reverse=True)
    ]
    text = re.sub("|".join(words), MASK, text, flags=re.IGNORECASE)
    within = {form for part in parts for form in _base64_forms(part)}
    return _without_base64(text, within) if within else text


def _parts(credential: str) -> Iterator[str]:
    """Yield a credential and what it contains: a token, the password of ``Basic``, a value of a cookie."""
    from urllib.parse import unquote

    scheme, _, token = credential.strip().partition(" ")
    whole = {credential, token, unquote(credential), " ".join(credential.split())}
    yield from filter(None, whole)
    for assignment in credential.replace(";", " ").replace("&", " ").replace(",", " ").split():
        value = assignment.partition("=")[2]
        if len(value) >= _LONG:
            yield from {value, unquote(value)}
    if scheme.lower() == "basic":
        from base64 import b64decode

        try:
            user, _, password = b64decode(token + "===").decode("utf-8", "replace").partition(":")
        except ValueError:  # it is not base64
            return
        yield from filter(None, {f"{user}:{password}", password})


def _plain_forms(secret: str) -> set[str]:
    if _UNQUOTED.issuperset(secret):
        return {secret}
    from urllib.parse import quote

    from event import _json

    quoted = quote(secret, safe="", errors="replace")
    return {secret, quoted, repr(secret)[1:-1], _json.dumps(secret)[1:-1]}


def _base64_forms(secret: str) -> set[str]:
    """Return what the base64 of a text contains if the text contains a secret, in either alphabet (RFC 4648).

    The characters depend on where the secret begins in a group of three bytes. The first and the last character are
    left out if they also depend on the text around the secret.
    """
    from binascii import b2a_base64

    data = secret.encode("utf-8", "surrogateescape")
    forms: set[str] = set()
    for before in range(3):
        bits = 8 * (before + len(data))
        encoded = b2a_base64(b"\0" * before + data).decode()[-(-8 * before // 6) : bits // 6]
        if len(encoded) >= _MIN_BASE64_LENGTH:
            forms |= {encoded, encoded.replace("+", "-").replace("/", "_")}
            forms |= {encoded.replace("+", "%2B").replace("/", "%2F"), encoded.replace("/", r"\/")}
    return forms


def _without_base64(text: str, forms: Iterable[str]) -> str:
    """Replace base64, with the characters before and after it that depend on the secret too."""
    import re

    near = r"[A-Za-z0-9+/_-]?"
    return re.sub(f"{near}(?:{'|'.join(map(re.escape, forms))}){near}=*", MASK, text)
