"""Change event data so that it does not mention anyone in a chat."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_JOINER = "\u034f"  # the combining grapheme joiner: invisible, and `on_one_line` keeps it

# In this order: a URL; a mail address from its @ on; the beginning of a mention. Discord, Slack, Teams, Mattermost,
# Telegram, Zulip and Matrix use @NAME and <@ID>. Slack also uses <!channel>, Lark <at ...> and Google Chat <users/all>.
# Apprise completes `!channel>` and `@ID>`, with any white space in them, to the forms of Slack.
_PATTERN = re.compile(
    r"https?://[^\s<>!]+"
    r"|(?<=\w)@(?!everyone|here)[\w-]+\.\w"
    r"|@|!(?=[^\S\n]*(?:channel|here|everyone|group|subteam)\b)|<(?=at\b|users/)",
    re.IGNORECASE,
)


def without_mentions(value: Any) -> Any:
    """Change the texts in a JSON value so that chat services find no mention, such as ``@everyone`` or ``<!channel>``.

    An invisible character is added after the ``@``, ``!`` or ``<`` of a mention. In a URL, ``%40`` replaces ``@``. Mail
    addresses do not change.
    """
    if isinstance(value, str):
        return _PATTERN.sub(_defused, value)
    if isinstance(value, dict):
        return {without_mentions(key): without_mentions(item) for key, item in value.items()}
    return [*map(without_mentions, value)] if isinstance(value, list) else value


def _defused(found: re.Match[str]) -> str:
    text = found[0]
    if len(text) == 1:
        return text + _JOINER
    return text if text.startswith("@") else text.replace("@", "%40")
