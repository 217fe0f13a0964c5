"""Event data cannot mention users in a chat."""

from __future__ import annotations

import pytest

from event._formats.mentions import without_mentions


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("@everyone", "@|everyone", id="Discord"),
        pytest.param("x@everyone.com", "x@|everyone.com", id="Discord, in a word"),
        pytest.param("<@U1> <@&2>", "<@|U1> <@|&2>", id="by id"),
        pytest.param("<!channel> <!subteam^S1>", "<!|channel> <!|subteam^S1>", id="Slack"),
        pytest.param("x@U1>", "x@|U1>", id="what Apprise completes for Slack"),
        pytest.param("@**all** @_*x*", "@|**all** @|_*x*", id="Zulip"),
        pytest.param('<at id="all"></at>', '<|at id="all"></at>', id="Lark"),
        pytest.param("<users/all>", "<|users/all>", id="Google Chat"),
        pytest.param("[x](https://matrix.to/#/@u:s)", "[x](https://matrix.to/#/%40u:s)", id="Matrix"),
        pytest.param("https://npm.test/@types/node", "https://npm.test/%40types/node", id="a URL"),
        pytest.param("Ann <ann.x@example.com>", "Ann <ann.x@example.com>", id="a mail address"),
        pytest.param("failed! 1 < 2, a <b>", "failed! 1 < 2, a <b>", id="nothing"),
        pytest.param({"@a": ["@b", 1, None]}, {"@|a": ["@|b", 1, None]}, id="inside of values"),
    ],
)
def test_mentions_are_removed_from_a_text(text, shown):
    assert repr(without_mentions(text)).replace("\u034f", "|") == repr(shown)
