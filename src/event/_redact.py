"""Texts without secrets: what errors quote of a configuration, and what an event's data holds.

A secret in an event's data is

- the value of an environment variable whose name says that it is secret (`says_secret`),
- what a further reference leads to (``EventManager(redact=…)``),
- what looks like a token of a well-known service, a private key (PEM), or a password in a URL.

Every pattern takes linear time. Where no text looks like holding a secret, `re` is not imported.
"""

from __future__ import annotations

import os

from event import _handler_config, _registry
from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

# The errors of these handlers hold no secret, and may quote the directory or the server that they are about.
_NO_SECRET_IN_ERRORS = frozenset(_registry.BUILTINS)
_MIN_SECRET_LENGTH = 4  # characters; shorter ones would be masked in every other word
_MIN_VALUE_LENGTH = 8  # characters of a variable's value; shorter ones are often words such as "true" or "staging"
_MAX_TEXT_LENGTH = 20_000  # characters; more of an error's text helps nobody, and masking must not take long
_MASK = "***"

# A variable's name says so if one of its words, which "_" separates, ends with one of these, or is one of those.
_SECRET_ENDS = ("TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "KEY", "KEYS", "CREDENTIAL", "CREDENTIALS")
_SECRET_WORDS = frozenset({"PASS", "SSHPASS", "PWD", "PAT", "JWT", "AUTH", "TOKENS", "PASSWORDS", "SECRETS"})
_NOT_SECRET_WORDS = frozenset({"PUBLIC"})
_PLACE_WORDS = frozenset({"FILE", "PATH", "DIR", "SOCK"})  # as the last word: the value only says where the secret is
_NOT_SECRET = frozenset({"PWD", "OLDPWD", "GOOGLE_APPLICATION_CREDENTIALS"})  # paths

# The password of any URL in a text, whoever has configured it.
_USERINFO = r"(://[^\s/@:]*:)[^\s/]+@"
_WELL_KNOWN = (
    r"(?<![A-Za-z0-9])(?:"
    r"gh[pousr]_\w{30,}|github_pat_\w{22,}"  # GitHub
    r"|gl(?:pat|dt|rt|rtr|cbt|ptt|ft|imt|agent|oas|soat|ffct)-[\w.-]{20,}"  # GitLab
    r"|xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}"  # Slack
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS
    r")|(?<=hooks\.slack\.com/services/)[\w/]+"
)
# What every match of the patterns holds; most texts hold none of it.
_TOKEN_MARKS = (
    *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    *("glpat-", "gldt-", "glrt", "glcbt-", "glptt-", "glft-", "glimt-", "glagent-", "gloas-", "glsoat-", "glffct-"),
    *("xox", "xapp-", "AKIA", "ASIA", "hooks.slack.com/services/"),
)
_PLAIN_TYPES = frozenset({str, int, float, bool, type(None)})
_MIN_TOKEN_LENGTH = 20  # characters
_PEM_BEGIN, _PEM_END, _DASHES = "-----BEGIN ", "-----END ", "-----"
_MARKS = ("@", _DASHES, *_TOKEN_MARKS)
_PEM_TITLE_MAX = 60  # characters


def without_secrets(text: str, configs: Mapping[str, str]) -> str:
    """Return text without what the configurations hold: a plugin's error may quote a password or a token.

    :param configs: the configuration of each handler, by name
    """
    text = text[:_MAX_TEXT_LENGTH]
    parts: set[str] = set()
    for name, config in configs.items():
        if _registry.kind(name) not in _NO_SECRET_IN_ERRORS and not _handler_config.is_mistake(config):
            import re
            from urllib.parse import unquote

            value = _handler_config.unquote(config)
            for whole in (config, value, unquote(value)):  # the last one as a client decodes a URL's password
                parts |= {whole, *whole.split(","), *re.split(r"[\s,;|/?&=@:]+", whole)}
    parts |= {repr(part)[1:-1] for part in parts}  # as a message with %r shows it
    return _without_userinfo(_without(text, (part for part in parts if len(part) >= _MIN_SECRET_LENGTH)))


def redact_data(data: dict[str, Any], references: Iterable[str] = ()) -> dict[str, Any]:
    """Return an event's data without secrets: the same object if it holds none. The ``uid`` stays.

    :param references: further secrets, see `redact_text`
    """
    secrets = _known_secrets(references)
    if _is_harmless(data, secrets):
        return data
    found = {key: value if key == "uid" else _redacted_top(value, secrets) for key, value in data.items()}
    return data if all(found[key] is value for key, value in data.items()) else found


def redact_text(text: str, references: Iterable[str] = ()) -> str:
    """Return text without secrets.

    :param references: further secrets: ``env:NAME``, ``file:PATH``, or the text itself. A reference that leads to
        nothing counts for nothing.
    """
    return _redacted_text(text, _known_secrets(references))


def says_secret(name: str) -> bool:
    """Return whether a variable's name says that its value is secret, as ``NPM_TOKEN`` and ``PGPASSWORD`` do."""
    words = name.upper().replace("-", "_").replace(".", "_").split("_")
    if words[-1] in _PLACE_WORDS or name in _NOT_SECRET or _NOT_SECRET_WORDS & {*words}:
        return False
    return any(word in _SECRET_WORDS or word.endswith(_SECRET_ENDS) for word in words)


# What a URL, a repr and JSON leave as it is: the unreserved characters of RFC 3986, section 2.3.
_UNQUOTED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

_known_names: set[str] = set()  # of variables,
_secret_names: set[str] = set()  # and those of them that `says_secret` is true of


def _known_secrets(references: Iterable[str]) -> set[str]:
    """Return the secrets of the environment and of references, in all forms in which a text may show them."""
    found: set[str] = set()
    names = {*os.environ}
    _secret_names.update(filter(says_secret, names.difference(_known_names)))
    _known_names.update(names)
    for name in names.intersection(_secret_names):
        found |= _forms(os.environ.get(name, ""), _MIN_VALUE_LENGTH)
    for reference in references:
        found |= _forms(_secret_of(reference), 1)
    return found


def _is_harmless(data: dict[str, Any], secrets: set[str]) -> bool:
    """Return whether data holds plain values alone, and no beginning of what is replaced. Most events are such."""
    if not _PLAIN_TYPES.issuperset(map(type, data.values())):
        return False
    text = "\n".join([value for value in data.values() if type(value) is str])
    return not any(mark in text for mark in _MARKS) and not any(secret in text for secret in secrets)


def _secret_of(reference: str) -> str:
    from event import _secrets

    try:
        return _secrets.resolve_secret(reference, "redact")
    except EventError:
        return ""


def _forms(secret: str, shortest: int) -> set[str]:
    """Return a secret as texts may show it: as it is, in a URL, a repr or JSON, and each of its lines."""
    secret = secret.strip()
    if len(secret) < shortest:
        return set()
    forms = {secret, *(line for line in secret.splitlines() if len(line) >= _MIN_VALUE_LENGTH)}
    if not _UNQUOTED.issuperset(secret):
        from urllib.parse import quote

        from event import _json

        forms |= {quote(secret, safe=""), repr(secret)[1:-1], _json.dumps(secret)[1:-1]}
    return forms


def _redacted_top(value: Any, secrets: set[str]) -> Any:
    """Return a value of an event's data without secrets: the same object if it holds none."""
    try:
        return _redacted(value, secrets)
    except EventError:  # it contains itself: it cannot be written
        return value
    except RecursionError:  # a handler may be able to write it all the same
        return _redacted_deep(value, secrets)


def _redacted_deep(value: Any, secrets: set[str]) -> Any:
    from event import _json

    try:
        text = _json.dumps(value)
    except EventError:
        return value
    redacted = _redacted_text(text, secrets)
    return value if redacted == text else redacted


def _redacted(value: Any, secrets: set[str]) -> Any:
    if isinstance(value, str):
        text = _redacted_text(value, secrets)
        return value if text == value else text
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if type(value) is dict:
        items = {_redacted(key, secrets): _redacted(item, secrets) for key, item in value.items()}
        is_same = _are_same(items, value) and _are_same(items.values(), value.values())
        return value if is_same else items
    if type(value) in {list, tuple}:
        found = [_redacted(item, secrets) for item in value]
        return value if _are_same(found, value) else found
    from event import _json

    plain = _json.loads(_json.dumps(value))  # what handlers write
    redacted = _redacted(plain, secrets)
    return value if redacted is plain else redacted


def _are_same(found: Iterable[Any], values: Iterable[Any]) -> bool:
    return all(one is other for one, other in zip(found, values, strict=True))


def _redacted_text(text: str, secrets: set[str]) -> str:
    text = _without(text, secrets)
    if _PEM_BEGIN in text or _PEM_END in text:
        text = _without_private_keys(text)
    if len(text) >= _MIN_TOKEN_LENGTH and any(mark in text for mark in _TOKEN_MARKS):
        import re

        text = re.sub(_WELL_KNOWN, _MASK, text)
    return _without_userinfo(text)


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in sorted((secret for secret in secrets if secret in text), key=len, reverse=True):
        text = text.replace(secret, _MASK)
    return text


def _without_userinfo(text: str) -> str:
    if "@" in text and "://" in text:
        import re

        return re.sub(_USERINFO, rf"\1{_MASK}@", text)
    return text


def _without_private_keys(text: str) -> str:
    """Return text without private keys (RFC 7468), also if it begins or ends in the middle of one."""
    first, *rest = text.split(_PEM_BEGIN)
    _, end, after = first.partition(_PEM_END)
    if end and "PRIVATE KEY" in after[:_PEM_TITLE_MAX]:
        first = f"{_MASK}{_PEM_END}{after}"
    return first + "".join(map(_without_private_key, rest))


def _without_private_key(block: str) -> str:
    """Return a PEM block without what it holds if that is a private key; its first dashes are missing."""
    title, dashes, body = block.partition(_DASHES)
    if not dashes or "PRIVATE KEY" not in title[:_PEM_TITLE_MAX]:
        return _PEM_BEGIN + block
    _, end, after = body.partition(_PEM_END)
    return f"{_PEM_BEGIN}{title}{_DASHES}{_MASK}{end}{after}"
