r"""Mask given secrets in a text, in each form in which the text may contain them.

The forms are the secret itself, its encodings, and the base64 of any text that contains the secret, such as
``user:password`` in an Authorization header. The encodings are those for URLs, JSON, repr, HTML and a shell. Encoders
differ in what they encode, and how: ``/`` becomes ``%2F``, ``%2f``, ``\/`` or ``\u002f``, or remains ``/``. So a
regular expression has all forms of each character. It is used only for a text that contains the mark of an encoding,
and each part of the secret that no encoding changes. Every search takes linear time.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK = "***"
_MIN_LINE_LENGTH = 8  # characters of a line of a secret; shorter lines, such as "}", occur everywhere
_MIN_BASE64_LENGTH = 8  # characters; fewer may be a part of an ordinary word
_LONG = 6  # characters of a credential; a shorter one is masked only as a word

# Characters that no encoding changes. "~" is not one of them: some encoders for URLs encode it.
_UNCHANGED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._")
_LETTERS = {"\b": "b", "\t": "t", "\n": "n", "\f": "f", "\r": "r"}  # after a backslash in JSON and repr
_ENTITIES = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}  # in HTML and XML


class Secrets:
    """The forms of secrets and of each of their lines, without the white space at their ends."""

    __slots__ = ("_encodable", "_forms")

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # Whether each form is a part of the base64 of any text that contains a secret.
        self._forms: dict[str, bool] = {}
        # The forms that an encoding may change. For each, its parts that no encoding changes, the longest first.
        self._encodable: dict[str, tuple[str, ...]] = {}
        for secret in secrets:
            lines = [line for line in secret.splitlines() if len(line) >= _MIN_LINE_LENGTH]
            for text in filter(None, {secret.strip(), *lines}):
                self._forms |= dict.fromkeys(_base64_forms(text), True)
                self._forms[text] = False
        for form in self._forms:
            if not _UNCHANGED.issuperset(form):
                parts = "".join(c if c in _UNCHANGED else " " for c in form).split()
                self._encodable[form] = tuple(sorted(parts, key=len, reverse=True)) or ("",)

    def update(self, other: Secrets) -> None:
        """Add the forms of other secrets."""
        self._forms |= other._forms
        self._encodable |= other._encodable

    def may_be_in(self, text: str) -> bool:
        """Return whether a text may contain a secret. This is faster than `without`."""
        return any(form in text for form in self._forms) or bool(self._encodable and self._possibly_encoded(text))

    def without(self, text: str) -> str:
        """Return a text with `MASK` in place of each secret."""
        found = {form for form in self._forms if form in text} | {*self._possibly_encoded(text)}
        for form in sorted(found, key=len, reverse=True):
            if not self._forms[form]:
                if form in self._encodable and _has_mark(text):
                    import re

                    text = re.sub(_pattern(form), MASK, text)
                else:
                    text = text.replace(form, MASK)
        if base64 := [form for form in found if self._forms[form]]:
            text = _without_base64(text, base64)
        return text

    def _possibly_encoded(self, text: str) -> list[str]:
        """Return the forms that a text may contain encoded."""
        if not _has_mark(text):
            return []
        return [
            form
            for form, parts in self._encodable.items()
            if parts[0] in text and all(part in text for part in parts[1:])
        ]


def _has_mark(text: str) -> bool:
    return "%" in text or "\\" in text or "+" in text or "&" in text  # an encoded character begins with one of these


def _pattern(secret: str) -> str:
    """Return a regular expression for a secret in any encoding."""
    import re

    # Each repetition of backslashes ends with a character that is none, so that the search takes linear time.
    return "".join(_character_pattern(len(found[1]), found[2]) for found in re.finditer(r"(?s)(\\*)([^\\]?)", secret))


def _character_pattern(backslashes: int, character: str) -> str:
    """Return a regular expression for a character in any encoding.

    :param backslashes: the number of backslashes before the character
    :param character: the character; empty at the end of a secret
    """
    import re

    literal = re.escape(character)
    is_unchanged = not character or character in _UNCHANGED
    if is_unchanged and not backslashes:
        return literal
    escapes, percents, entities = ([], [], []) if is_unchanged else _encodings(character)
    most = 8 * backslashes + 7  # JSON in JSON in JSON has eight times the backslashes
    ways = [rf"\\{{{backslashes},{most}}}(?:{'|'.join([literal, *entities])})"]
    if escapes:
        ways.append(rf"\\{{{backslashes + 1},{most}}}(?:{'|'.join(escapes)})")
    ways += [f"{_percent(0x5C) * backslashes}{way}" for way in (percents if not backslashes else [*percents, literal])]
    return f"(?i:{'|'.join(ways)})"


def _encodings(character: str) -> tuple[list[str], list[str], list[str]]:
    """Return regular expressions for a character: after a backslash, in a URL, and as an entity of HTML."""
    code, data = ord(character), character.encode("utf-8", "surrogateescape")
    units = character.encode("utf-16-be", "surrogatepass")
    escapes = [
        r"\\{1,15}".join(f"u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)),
        f"u{code:08x}",
        r"\\{1,15}".join(f"x{byte:02x}" for byte in data),
    ]
    escapes += [f"x{code:02x}"] if 0x80 <= code <= 0xFF else []
    escapes += [_LETTERS[character]] if character in _LETTERS else []
    percents = ["".join(map(_percent, data))] + ([r"\+"] if character == " " else [])
    entities = [f"&#0?{code};", f"&#x0?{code:x};"]
    entities += [f"&{_ENTITIES[character]};"] if character in _ENTITIES else []
    return escapes, percents, entities


def _percent(byte: int) -> str:
    """Return a regular expression for a percent-encoded byte, which may be encoded several times."""
    return f"%(?:25){{0,3}}{byte:02x}"


def without_credentials(text: str, credentials: Iterable[str]) -> str:
    """Mask the credentials of a request in a text from the other side, which may echo the request in another case.

    :param credentials: passwords, tokens, and values of headers, such as ``Basic dTpw``
    """
    parts = {part for credential in credentials for part in _parts(credential)}
    if not parts:
        return text
    import re
    from base64 import b64encode

    encoded = {b64encode(part.encode("utf-8", "surrogateescape")).decode() for part in parts}
    plain = parts | encoded | {form.rstrip("=") for form in encoded}
    words = [
        _pattern(form) if len(form) >= _LONG else rf"(?<!\w){_pattern(form)}(?!\w)"
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
    return forms


def _without_base64(text: str, forms: Iterable[str]) -> str:
    """Replace base64, with the characters before and after it that depend on the secret too."""
    import re

    near = r"[A-Za-z0-9+/_-]?"
    return re.sub(f"{near}(?:{'|'.join(map(_pattern, forms))}){near}=*", MASK, text)
