"""Texts without secrets."""

from __future__ import annotations

from event import _handler_config, _registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# The errors of these handlers hold no secret, and may quote the directory or the server that they are about.
_NO_SECRET_IN_ERRORS = frozenset(_registry.BUILTINS)
_MIN_SECRET_LENGTH = 4  # characters; shorter ones would be masked in every other word
_MAX_TEXT_LENGTH = 20_000  # characters; more of an error's text helps nobody, and masking must not take long

# The password of any URL in a text, whoever has configured it.
_USERINFO = r"(://[^\s/@:]*:)[^\s/]+@"


def without_secrets(text: str, configs: Mapping[str, str]) -> str:
    """Return text without what the configurations hold: a plugin's error may quote a password or a token.

    :param configs: the configuration of each handler, by name
    """
    text = text[:_MAX_TEXT_LENGTH]
    parts: set[str] = set()
    for name, config in configs.items():
        if _registry.kind(name) not in _NO_SECRET_IN_ERRORS:
            import re
            from urllib.parse import unquote

            value = _handler_config.unquote(config)
            for whole in (config, value, unquote(value)):  # the last one as a client decodes a URL's password
                parts |= {whole, *whole.split(","), *re.split(r"[\s,;|/?&=@:]+", whole)}
    parts |= {repr(part)[1:-1] for part in parts}  # as a message with %r shows it
    for part in sorted((part for part in parts if len(part) >= _MIN_SECRET_LENGTH), key=len, reverse=True):
        text = text.replace(part, "***")
    if "://" in text:
        import re

        text = re.sub(_USERINFO, r"\1***@", text)
    return text
