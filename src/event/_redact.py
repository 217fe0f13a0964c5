"""Replace secrets in errors, which may quote a configuration, and in an event's data.

These are secrets in an event's data:

- the value of an environment variable with a name like NPM_TOKEN (see `is_secret_name`)
- a secret in ``EventManager(redact=…)``, either the text itself or a reference to it
- a token of a well-known service, a private key (PEM), or a password in a URL

The first two are also found if they are encoded, see `event._mask`. Every pattern takes linear time. If no text seems
to contain a secret, `re` is not imported.
"""

from __future__ import annotations

import os

from event import _handler_config, _registry
from event._mask import MASK, Secrets
from event.error import LONGEST_TEXT, EventError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, TypeVar

    _V = TypeVar("_V")

_MIN_SECRET_LENGTH = 4  # characters; masking shorter ones would damage ordinary words
_MIN_VALUE_LENGTH = 8  # characters of a variable's value; shorter ones are often words such as "true" or "staging"
_MAX_SECRET_LENGTH = 4000  # characters at the end of a text that was cut, which may be the beginning of a secret

# The value of a variable is secret if a word of its name ends with one of `_SECRET_ENDS` or is one of `_SECRET_WORDS`.
# "_" separates the words. A number at the end of a word is ignored.
_SECRET_ENDS = (
    *("TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "PASS", "SECRET", "KEY", "KEYS", "CREDENTIAL", "CREDENTIALS", "DSN"),
)
_SECRET_WORDS = frozenset(
    {
        *("PW", "PWD", "PAT", "JWT", "AUTH", "AUTHORIZATION", "BEARER", "COOKIE", "COOKIES", "CREDS", "SAS"),
        *("TOKENS", "PASSWORDS", "SECRETS", "WEBHOOK", "WEBHOOKS", "HOOK"),
    }
)
_SECRET_PHRASES = ("CONNECTIONSTRING", "CONNSTR")  # in the name without "_"
_OTHER_PASS = ("BYPASS", "COMPASS", "OVERPASS", "SURPASS", "TRESPASS", "UNDERPASS")  # words that are no password
# If one of these is the last word, the value is not the secret itself, but its location or a description.
_PLACE_WORDS = frozenset(
    {"FILE", "PATH", "DIR", "HOME", "SOCK", "DOMAIN", "ENABLED", "HOST", "NAME", "PORT", "TTL", "TYPE"}
)
_NOT_SECRET = frozenset({"PWD", "OLDPWD", "GOOGLE_APPLICATION_CREDENTIALS"})  # paths

_USERINFO = r"(://[^\s/@:]*:)[^\s/]+@"  # the password in a URL
_WELL_KNOWN = (
    r"(?<![A-Za-z0-9])(?:"
    r"gh[pousr]_\w{30,}|github_pat_\w{22,}"  # GitHub
    r"|gl(?:pat|dt|rt|rtr|cbt|ptt|ft|imt|agent|oas|soat|ffct)-[\w.-]{20,}"  # GitLab
    r"|xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}"  # Slack
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS
    r")|(?<=hooks\.slack\.com/services/)[\w/]+"
)
# Every match of these patterns contains one of these texts. Most texts contain none of them.
_TOKEN_MARKS = (
    *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    *("glpat-", "gldt-", "glrt", "glcbt-", "glptt-", "glft-", "glimt-", "glagent-", "gloas-", "glsoat-", "glffct-"),
    *("xox", "xapp-", "AKIA", "ASIA", "hooks.slack.com/services/"),
)
# The keys that this package writes into an event's data. Recipients know them, so they are never replaced, and a
# variable such as SORT_KEY=exit_code is no secret.
_OWN_KEYS = frozenset(
    {
        *("uid", "name", "begin_time", "end_time", "outcome", "exit_code", "signal", "duration", "error", "type"),
        *("message", "command", "arguments", "host", "output_tail", "not_attached", "tests", "failures", "errors"),
        *("skipped", "failing_tests", "ci", "system", "build_url", "branch", "commit", "job", "attempt"),
        *("pull_request", "actor", "parent", "traceparent", "parent_span_id", "tracestate"),
    }
)
_PLAIN_TYPES = frozenset({str, int, float, bool, type(None)})
_MIN_TOKEN_LENGTH = 20  # characters
_PEM_BEGIN, _PEM_END, _DASHES = "-----BEGIN ", "-----END ", "-----"
_MARKS = ("@", _DASHES, *_TOKEN_MARKS)
_PEM_TITLE_MAX = 60  # characters


def without_secrets(text: str, configs: Mapping[str, str]) -> str:
    """Mask the values of handlers' configurations, which a plugin's error may quote, and all that `redact_text` masks.

    :param configs: the configuration of each handler, by name
    """
    if not text:
        return text
    secrets = Secrets(_parts_of_configs(configs))
    found = redact_text(secrets.without(text[:LONGEST_TEXT]))
    return found if len(text) < LONGEST_TEXT else found[:-_MAX_SECRET_LENGTH]


def _parts_of_configs(configs: Mapping[str, str]) -> set[str]:
    """Return the parts of handlers' configurations that may be secrets."""
    parts: set[str] = set()
    for name, config in configs.items():
        # The errors of built-in handlers never contain secrets, and may name a directory or a server.
        if _registry.kind(name) not in _registry.BUILTINS and not _handler_config.is_invalid_config(config):
            from urllib.parse import unquote

            value = _handler_config.unquote(config)
            for whole in (config, value, unquote(value)):  # the last form: clients decode the password of a URL
                parts |= _parts(whole)
    return parts - configs.keys()  # a handler's name is no secret, and logs show it


def _parts(config: str) -> set[str]:
    """Return a configuration, and its parts that may be secrets: no short parts, and no ordinary words."""
    import re

    parts = {config, *config.split(","), *re.split(r"[\s,;|/?&=@:]+", config)}
    parts = {part for part in parts if len(part) >= _MIN_VALUE_LENGTH or not (part.isalpha() and part.islower())}
    # A word may be a password nevertheless, in a URL or after a name such as "token=".
    parts |= {*re.findall(r":([^\s,;|/?&=@:]+)@", config)}
    parts |= {text for name, text in re.findall(r"([\w.-]+)[=:]([^\s,;|/?&=@:]+)", config) if is_secret_name(name)}
    return {part for part in parts if len(part) >= _MIN_SECRET_LENGTH}


def redact_data(data: dict[str, Any], references: Iterable[str] = ()) -> dict[str, Any]:
    """Replace secrets in an event's data, except in the ``uid``. If there are none, return the same object."""
    secrets = _known_secrets(references)
    if _is_harmless(data, secrets):
        return data
    values = [value if key == "uid" else _redacted_top(value, secrets) for key, value in data.items()]
    return _with_values(data, values, secrets)


def redact_keys(names: dict[str, _V], references: Iterable[str] = ()) -> dict[str, _V]:
    """Replace secrets in the keys of a dict, such as the names of attachments. If there are none, return the same dict.

    A number distinguishes keys that would become the same: ``***``, ``***-2``.
    """
    return _with_values(names, [*names.values()], _known_secrets(references))


def redact_text(text: str, references: Iterable[str] = ()) -> str:
    """Replace secrets in a text.

    :param references: further secrets: ``env:NAME``, ``file:PATH``, or the secret itself. A reference that can't be
        resolved is ignored.
    """
    return _redacted_text(text, _known_secrets(references))


def is_secret_name(name: str) -> bool:
    """Return whether a variable's value is secret according to its name, such as ``NPM_TOKEN`` or ``PGPASSWORD``."""
    words = [word.rstrip("0123456789") for word in name.upper().replace("-", "_").replace(".", "_").split("_")]
    if words[-1] in _PLACE_WORDS or name in _NOT_SECRET or "PUBLIC" in words:
        return False
    joined = "".join(words)
    return any(phrase in joined for phrase in _SECRET_PHRASES) or any(
        word in _SECRET_WORDS or (word.endswith(_SECRET_ENDS) and not word.endswith(_OTHER_PASS)) for word in words
    )


class _Environment:
    """Returns the secrets of the environment. They are cached, because encoding takes longer than comparing."""

    def __init__(self) -> None:
        # The names of all variables, those of the secret ones, and the values of the latter.
        self._cache: tuple[list[str], list[str], list[str], Secrets] = [], [], [], Secrets()

    def secrets(self) -> Secrets:
        names = list(os.environ)
        known_names, secret_names, known_values, secrets = self._cache
        if names != known_names:
            secret_names = [name for name in names if is_secret_name(name)]
        values = [os.environ.get(name, "") for name in secret_names]
        if values != known_values:
            secrets = Secrets(
                value for value in values if len(value.strip()) >= _MIN_VALUE_LENGTH and value not in _OWN_KEYS
            )
        self._cache = names, secret_names, values, secrets
        return secrets


_environment = _Environment()


def _known_secrets(references: Iterable[str]) -> Secrets:
    """Return the secrets from the environment and from references."""
    secrets = _environment.secrets()
    if not references:
        return secrets
    more = Secrets(map(_secret_of, references))
    more.update(secrets)
    return more


def _is_harmless(data: dict[str, Any], secrets: Secrets) -> bool:
    """Return whether data has only simple values without any sign of a secret, as most events have."""
    if not _PLAIN_TYPES.issuperset(map(type, data.values())):
        return False
    text = "\n".join([*data, *[value for value in data.values() if type(value) is str]])
    return not any(mark in text for mark in _MARKS) and not secrets.may_be_in(text)


def _secret_of(reference: str) -> str:
    from event import _secrets

    try:
        return _secrets.resolve_secret(reference, "redact")
    except EventError:
        return ""


def _redacted_top(value: Any, secrets: Secrets) -> Any:
    """Replace secrets in a value of an event's data. If there are none, return the same object."""
    try:
        try:
            return _redacted(value, secrets)
        except RecursionError:  # too deeply nested for this function, but a handler may be able to encode it
            from event import _json

            text = _json.dumps(value)
            redacted = _redacted_text(text, secrets)
            return value if redacted == text else redacted
    except EventError:  # no handler can encode it, because it contains itself or is nested too deeply
        return value


def _redacted(value: Any, secrets: Secrets) -> Any:
    kind = type(value)  # isinstance would trust the __class__ of a mock
    if issubclass(kind, str):
        text = _redacted_text(value, secrets)
        return value if text == value else text
    if value is None or issubclass(kind, (bool, int, float)):
        return value
    if kind is dict:
        return _with_values(value, [_redacted(item, secrets) for item in value.values()], secrets)
    if kind in {list, tuple}:
        found = [_redacted(item, secrets) for item in value]
        return value if _are_same(found, value) else found
    from event import _json

    plain = _json.loads(_json.dumps(value))  # the form that handlers send
    redacted = _redacted(plain, secrets)
    return value if redacted is plain else redacted


def _with_values(items: dict[Any, _V], values: list[_V], secrets: Secrets) -> dict[Any, _V]:
    """Return a dict with these values, and without secrets in its keys. If nothing differs, return the same dict."""
    keys = [_redacted_key(key, secrets) for key in items]
    if _are_same(values, items.values()) and _are_same(keys, items):
        return items
    return dict(zip(_distinct(keys, items), values, strict=True))


def _distinct(keys: list[Any], before: Iterable[Any]) -> Iterator[Any]:
    """Yield keys, and distinguish a key that differs from the one before the change by a number."""
    used, numbers = {*before}, dict.fromkeys(keys, 1)
    for key, unchanged in zip(keys, before, strict=True):
        found = key
        while key is not unchanged and found in used:
            numbers[key] += 1
            found = f"{key}-{numbers[key]}"
        used.add(found)
        yield found


def _redacted_key(key: Any, secrets: Secrets) -> Any:
    found = key if key in _OWN_KEYS else _redacted(key, secrets)
    return found if found is key or isinstance(found, str) else shown(found)  # a list is no key


def _are_same(found: Iterable[Any], values: Iterable[Any]) -> bool:
    return all(one is other for one, other in zip(found, values, strict=True))


def _redacted_text(text: str, secrets: Secrets) -> str:
    text = secrets.without(text)
    if _PEM_BEGIN in text or _PEM_END in text:
        text = _without_private_keys(text)
    if len(text) >= _MIN_TOKEN_LENGTH and any(mark in text for mark in _TOKEN_MARKS):
        import re

        text = re.sub(_WELL_KNOWN, MASK, text)
    if "@" in text and "://" in text:
        import re

        return re.sub(_USERINFO, rf"\1{MASK}@", text)
    return text


def _without_private_keys(text: str) -> str:
    """Replace private keys (RFC 7468) in a text, even if the text starts or ends within a key."""
    first, *rest = text.split(_PEM_BEGIN)
    _, end, after = first.partition(_PEM_END)
    if end and "PRIVATE KEY" in after[:_PEM_TITLE_MAX]:
        first = f"{MASK}{_PEM_END}{after}"
    return first + "".join(map(_without_private_key, rest))


def _without_private_key(block: str) -> str:
    """Replace the content of a PEM block, a text after ``-----BEGIN ``, if it is a private key."""
    title, dashes, body = block.partition(_DASHES)
    if not dashes or "PRIVATE KEY" not in title[:_PEM_TITLE_MAX]:
        return _PEM_BEGIN + block
    _, end, after = body.partition(_PEM_END)
    return f"{_PEM_BEGIN}{title}{_DASHES}{MASK}{end}{after}"
