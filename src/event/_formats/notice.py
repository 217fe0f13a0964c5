"""Describe an event for a recipient of a mail or a chat message.

The title says what failed and how. It is followed by the reason, the failed tests, the last lines of the output, the
link to the CI job, facts such as the actor and the branch, and the rest of the data.
`event._formats.notice_html` renders it as HTML.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime

from event import _json
from event._formats.template import as_text, fill
from event._text import on_one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from event._formats.template import Templates

    Facts = list[tuple[str, str]]

VALUE_MAX = 200  # characters of one value
VALUES_MAX = 50
CHAT_MAX = 1800  # characters of a chat message that fit on a screen
CHAT_TAIL = 10  # lines of the output
CHAT_TESTS = 3
CHAT_FACTS = 12

_VERBS = {"success": "succeeded", "failure": "failed", "cancel": "was cancelled"}  # of each outcome
_WHO = ("by", "author", "user", "actor")
_TESTS = ("tests", "failures", "errors", "skipped", "failing_tests")
# Values that the notice shows in another place, and values that are of no use to a recipient.
_SHOWN_ELSEWHERE = frozenset(
    {"name", "outcome", "exit_code", "signal", "duration", "error", "output_tail", "branch", "commit", "build_url"}
    | {"begin_time", "end_time", "traceparent", "parent_span_id", "tracestate", *_WHO}
)
# Characters that XML 1.0 does not allow (section 2.2), C1 control characters, and lone surrogates, which UTF-8 cannot
# encode.
_UNWRITABLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Notice:
    """The parts of a notice, all of them without control characters.

    :ivar title: one line
    :ivar outcome: success, failure or cancel; empty if the event has none
    :ivar reason: why it failed, or empty
    :ivar tests: the number of failed tests and their names, one per line
    :ivar tail: the last lines of the output, or empty
    :ivar link: the URL of the CI job, or empty
    :ivar facts: pairs of label and text, such as the actor, the branch, the commit and the time
    :ivar others: the rest of the data
    :ivar body: a text that replaces all of these except the title; empty for none
    """

    title: str
    outcome: str
    reason: str = ""
    tests: Sequence[str] = ()
    tail: str = ""
    link: str = ""
    facts: Sequence[tuple[str, str]] = ()
    others: Sequence[tuple[str, str]] = ()
    body: str = ""


def plain_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event's data as plain JSON values.

    :raises EventError: the data contains itself
    """
    plain: dict[str, Any] = _json.loads(_json.dumps(data))
    return plain


def notice_of(data: Mapping[str, Any]) -> Notice:
    """Return the notice of an event.

    :param data: as `plain_data` returns it
    """
    found = with_ci(data)
    has_tests = isinstance(data.get("tests"), int)
    return Notice(
        title=title_of(found),
        outcome=known_outcome(data),
        reason=_reason(data.get("error")),
        tests=_tests(data) if has_tests else [],
        tail=clean(as_text(data.get("output_tail"))).rstrip(),
        link=_link(found.get("build_url")),
        facts=_facts(found),
        others=_others(data, {*_SHOWN_ELSEWHERE, *(_TESTS if has_tests else ())}),
    )


def with_ci(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the non-empty values of an event's data, with the members of ``ci`` at the top level."""
    ci = data["ci"] if isinstance(data.get("ci"), dict) else {}
    return {**ci, **{key: value for key, value in data.items() if value not in (None, "")}}


def end_of(data: Mapping[str, Any]) -> str:
    """Return the end time of an event, or else its begin time; empty if it has neither."""
    return _date(data.get("end_time") or data.get("begin_time"))


def with_templates(notice: Notice, templates: Templates, data: Mapping[str, Any]) -> Notice:
    """Return a notice with the title and the body of templates. A blank result is ignored."""
    title = on_one_line(clean(fill(templates.title, data)))
    return replace(notice, title=title or notice.title, body=clean(fill(templates.body, data)).strip())


def known_outcome(data: Mapping[str, Any]) -> str:
    """Return an event's outcome: success, failure or cancel; empty if it has none of these."""
    outcome = data.get("outcome")
    return outcome if isinstance(outcome, str) and outcome in _VERBS else ""


def title_of(data: Mapping[str, Any]) -> str:
    """Return one line: ``tests failed on main (exit 1, 4 min 12 s)``."""
    words = [short(as_text(data.get("name"))) or "event"]
    outcome = known_outcome(data)
    if outcome:
        words.append(_VERBS[outcome])
    elif "command" in data and not data.get("end_time"):
        words.append("started")
    elif data.get("outcome"):
        words[0] += f": {short(as_text(data['outcome']))}"
    if (outcome or words[-1] == "started") and data.get("branch"):
        words.append(f"on {short(as_text(data['branch']))}")
    how = ", ".join(_title_details(data)) if outcome else ""
    return " ".join(words) + (f" ({how})" if how else "")


def clean(text: str) -> str:
    """Return text with invalid characters replaced by spaces. Line ends remain."""
    return _UNWRITABLE.sub(" ", text.replace("\r\n", "\n"))


def short(text: str) -> str:
    """Return text on one line, cut if it is long."""
    text = on_one_line(clean(text[: 4 * VALUE_MAX]))
    return text if len(text) <= VALUE_MAX else f"{text[:VALUE_MAX]}..."


def duration_text(seconds: float) -> str:
    """Return a duration: ``0.4 s``, ``12 s``, ``4 min 12 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def text_of(notice: Notice, remarks: Sequence[str] = ()) -> str:
    """Return a notice as plain text.

    :param remarks: lines about the attachments
    """
    tail = [f"    {line}".rstrip() for line in notice.tail.split("\n")] if notice.tail else []
    parts = [
        [notice.title],
        [notice.reason] if notice.reason else [],
        notice.tests,
        ["Last lines of the output:", "", *tail] if tail else [],
        [notice.link] if notice.link else [],
        _as_lines(notice.facts),
        _as_lines(notice.others),
    ]
    blocks = [[notice.body] if notice.body else [], [*remarks]] if notice.body else [*parts, [*remarks]]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def chat_text(notice: Notice, remarks: Sequence[str], limit: int) -> str:
    """Return the body of a chat message: a short form of the notice without its title, with the output as code.

    :param remarks: lines about the attachments
    :param limit: the maximum length in characters
    """
    if notice.body:
        return notice.body
    limit = min(limit, CHAT_MAX)
    head, foot = ("\n".join(lines) for lines in chat_lines(notice, remarks))
    tail = chat_tail(notice, limit - len(head) - len(foot) - len("\n```\n\n```\n")).replace("```", "'''")
    code = f"```\n{tail}\n```" if tail else ""
    text = "\n".join(filter(None, [head, code, foot]))
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def chat_lines(notice: Notice, remarks: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the parts of a chat message before and after the end of the output."""
    facts = _as_lines([*notice.facts, *notice.others])
    if len(facts) > CHAT_FACTS:
        facts[CHAT_FACTS:] = [f"... and {len(facts) - CHAT_FACTS} more"]
    before = [notice.reason, *notice.tests[: CHAT_TESTS + 1]]
    after = [notice.link, *facts, *map(short, remarks)]
    return [*filter(None, before)], [*filter(None, after)]


def _as_lines(facts: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{label}: {value}" for label, value in facts]


def chat_tail(notice: Notice, room: int) -> str:
    """Return the last lines of the output that fit into a number of characters."""
    kept: list[str] = []
    for line in reversed(notice.tail.split("\n")[-CHAT_TAIL:]):
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    return "\n".join(reversed(kept)).strip("\n")


def _title_details(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the details of the title: the failed tests, the exit status or signal, and the duration."""
    failed = sum(value for value in map(data.get, ("failures", "errors")) if type(value) is int)
    if failed and type(data.get("tests")) is int:
        yield f"{failed} of {data['tests']} tests"
    if signal := data.get("signal"):
        yield short(as_text(signal))
    elif type(data.get("exit_code")) is int and data["exit_code"]:
        yield f"exit {data['exit_code']}"
    seconds = _seconds(data)
    if seconds is not None:
        yield duration_text(seconds)


def _seconds(data: Mapping[str, Any]) -> float | None:
    duration = data.get("duration")
    if isinstance(duration, (int, float)):
        return float(duration) if 0 <= duration < 1e9 else None
    begin, end = _time(data.get("begin_time")), _time(data.get("end_time"))
    if begin is None or end is None:
        return None
    seconds = (end - begin).total_seconds()
    return seconds if seconds >= 1 else None  # the dates have no fractions


def _time(value: object) -> datetime | None:
    """Parse a time in UTC, as `Event.format_date` writes it; return None for any other value."""
    text = str(value)
    try:
        time = datetime.fromisoformat(text)  # strptime would import more while an event is sent
    except ValueError:
        return None
    return time if time.tzinfo is None and time.isoformat() == text else None


def _date(value: object) -> str:
    time = _time(value)
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else as_text(value)


def _reason(error: object) -> str:
    if isinstance(error, dict):
        return short(": ".join(filter(None, (as_text(error.get(key)) for key in ("type", "message")))))
    return short(as_text(error))


def _tests(data: Mapping[str, Any]) -> list[str]:
    counts = [f"{data['tests']} tests", *(f"{data[key]} {key}" for key in _TESTS[1:4] if data.get(key))]
    names = data.get("failing_tests")
    return [", ".join(counts), *(f"- {short(as_text(name))}" for name in (names if isinstance(names, list) else []))]


def _link(url: object) -> str:
    text = on_one_line(as_text(url))
    return text if text.startswith(("https://", "http://")) and " " not in text else ""


def _facts(data: Mapping[str, Any]) -> Facts:
    who = next((as_text(data[key]) for key in _WHO if data.get(key)), "")
    facts = [("by", who), *((key, as_text(data.get(key))) for key in ("branch", "commit"))]
    facts += [("began", _date(data.get("begin_time"))), ("ended", _date(data.get("end_time")))]
    return [(label, short(text)) for label, text in facts if text]


def _others(data: Mapping[str, Any], hidden: set[str]) -> Facts:
    """Return the rest of the data, one entry for each value in an object. The uid comes last."""
    rest = {key: value for key, value in data.items() if key not in hidden and key != "uid"}
    facts = [fact for key, value in {**rest, "uid": data.get("uid")}.items() for fact in _flat(key, value)]
    shown = [(short(label), short(text)) for label, text in facts if label not in _CI_ELSEWHERE]
    if len(shown) > VALUES_MAX:
        shown[VALUES_MAX:] = [("...", f"and {len(shown) - VALUES_MAX} more")]
    return shown


_CI_ELSEWHERE = frozenset({"ci.build_url", "ci.branch", "ci.commit", *(f"ci.{key}" for key in _WHO)})


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the key and the text of each simple value in a value, with the keys joined by dots."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _flat(f"{key}.{inner}", item)
    elif isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value):
        yield key, ", ".join(map(as_text, value))
    elif isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield from _flat(f"{key}.{number}", item)
    elif value is not None:
        yield key, as_text(value)
