"""Render a notice as HTML for mail programs (light, dark and on a phone), or with the few tags of chat services.

Mail programs drop scripts, and most also drop forms and linked files. So all styles are inline. The style sheet
contains only optional rules: colours for the dark mode, and less padding on a phone.
"""

from __future__ import annotations

from html import escape

from event._formats.notice import CHAT_MAX, chat_lines, chat_tail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from event._formats.notice import Notice

_SANS = "-apple-system,BlinkMacSystemFont,'Segoe UI',Roboto,Helvetica,Arial,sans-serif"
_MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'Liberation Mono',monospace"
# For each outcome: a word, the colour of its text and bar, and its background. The contrast satisfies WCAG AA.
_LOOKS = {
    "success": ("Success", "#116329", "#dafbe1"),
    "failure": ("Failure", "#a40e26", "#ffebe9"),
    "cancel": ("Cancelled", "#7d4e00", "#fff8c5"),
    "": ("Event", "#0550ae", "#ddf4ff"),
}
_STYLE = """
:root { color-scheme: light dark; supported-color-schemes: light dark; }
@media (max-width: 480px) {
  .page { padding: 0 !important; }
  .card { border-left: 0 !important; border-right: 0 !important; border-radius: 0 !important; }
  .in { padding-left: 16px !important; padding-right: 16px !important; }
}
@media (prefers-color-scheme: dark) {
  .page { background: #0d1117 !important; }
  .card { background: #161b22 !important; border-color: #30363d !important; }
  .ink { color: #e6edf3 !important; }
  .dim { color: #9198a1 !important; }
  .rule { border-color: #30363d !important; }
  .why { background: #21262d !important; color: #e6edf3 !important; }
  .go { background: #1f6feb !important; }
  .bar-success { background: #3fb950 !important; }
  .bar-failure { background: #f85149 !important; }
  .bar-cancel { background: #d29922 !important; }
  .bar- { background: #58a6ff !important; }
  .tail { background: #0d1117 !important; }
  .badge-success { background: #12361f !important; color: #7ee787 !important; }
  .badge-failure { background: #4c1219 !important; color: #ffb1ab !important; }
  .badge-cancel { background: #3d2b00 !important; color: #f2cc60 !important; }
  .badge- { background: #0c2d5a !important; color: #a5d6ff !important; }
}
"""


def html_of(notice: Notice, remarks: Sequence[str] = ()) -> str:
    """Return a page of HTML.

    :param remarks: lines about the attachments
    """
    word, ink, paper = _LOOKS[notice.outcome]
    parts = [_body(notice.body)] if notice.body else [*_parts(notice, ink)]
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark"><meta name="supported-color-schemes" content="light dark">
<title>{escape(notice.title)}</title><style>{_STYLE}</style></head>
<body class="page" style="margin:0;padding:24px 12px;background:#f0f2f5;font-family:{_SANS}">
<div class="card" style="max-width:640px;margin:0 auto;background:#ffffff;border:1px solid #d5dae1;\
border-radius:8px;overflow:hidden"><div class="bar-{notice.outcome}" style="height:4px;background:{ink}"></div>
<div class="in" style="padding:20px 24px 4px">
<span class="badge-{notice.outcome}" style="display:inline-block;padding:3px 10px;border-radius:12px;\
background:{paper};color:{ink};font-size:12px;font-weight:600;letter-spacing:.02em">{word}</span>
<h1 class="ink" style="margin:12px 0 4px;font-size:20px;line-height:1.35;font-weight:600;color:#1f2328;\
overflow-wrap:anywhere">{_unbroken(escape(notice.title))}</h1></div>
{"".join(f'<div class="in" style="padding:8px 24px">{part}</div>' for part in parts)}
{_footer(remarks)}</div></body></html>
"""


def chat_html(notice: Notice, remarks: Sequence[str], limit: int) -> str:
    """Return the body of a chat message, with only the tags that chat services support.

    :param remarks: lines about the attachments
    :param limit: the maximum length in characters
    """
    limit = min(limit, CHAT_MAX)
    lines = chat_lines(notice, remarks)
    before, after = ("<br/>\n".join(map(escape, some)) for some in lines)
    room = limit - len(before) - len(after) - len("<br/>\n<pre></pre><br/>\n")
    tail = escape(chat_tail(notice, room))
    if len(tail) > room:  # too long after escaping
        tail = escape(chat_tail(notice, room // 6))
    code = f"<pre>{tail}</pre>" if tail else ""
    if len(before) + len(after) > limit:
        return escape("\n".join([*lines[0], *lines[1]])[: limit // 6])
    return "<br/>\n".join(filter(None, [before, code, after]))


def _parts(notice: Notice, ink: str) -> list[str]:
    parts = []
    if notice.reason:
        parts.append(
            f'<div class="why" style="padding:10px 14px;border-left:3px solid {ink};background:#f6f8fa;color:#1f2328;'
            f'font-size:14px;line-height:1.5;overflow-wrap:anywhere">{escape(notice.reason)}</div>'
        )
    if notice.tests:
        parts.append(_tests(notice.tests))
    if notice.tail:
        parts.append(
            '<div class="dim" style="margin:4px 0 6px;color:#59636e;font-size:12px;font-weight:600">Last lines of the '
            f'output</div><pre class="tail" style="margin:0;padding:12px 14px;'
            f"border-radius:6px;background:#1f2328;color:#e6edf3;font-family:{_MONO};font-size:11.5px;line-height:1.5;"
            f'white-space:pre-wrap;overflow-wrap:anywhere">{escape(notice.tail)}</pre>'
        )
    if notice.link:
        parts.append(
            f'<a class="go" href="{escape(notice.link)}" style="display:inline-block;margin:4px 0;padding:9px 18px;'
            'border-radius:6px;background:#0969da;color:#ffffff;font-size:14px;font-weight:600;text-decoration:none">'
            "Open the CI job</a>"
        )
    parts += [_table(facts) for facts in (notice.facts, notice.others) if facts]
    return parts


def _unbroken(title: str) -> str:
    """Return a title with non-breaking spaces between numbers and units."""
    for unit in ("h ", "min ", "s)", "min)"):
        title = title.replace(f" {unit}", f"&nbsp;{unit}")
    return title


def _body(text: str) -> str:
    return (
        '<div class="ink" style="padding:4px 0 12px;color:#1f2328;font-size:14px;line-height:1.5;white-space:pre-wrap;'
        f'overflow-wrap:anywhere">{escape(text)}</div>'
    )


def _tests(lines: Sequence[str]) -> str:
    counts, *names = lines
    items = "".join(
        f'<li style="margin:2px 0;font-family:{_MONO};font-size:12px;overflow-wrap:anywhere">'
        f"{escape(name.removeprefix('- '))}</li>"
        for name in names
    )
    listed = f'<ul class="ink" style="margin:6px 0 0;padding-left:20px;color:#1f2328">{items}</ul>' if items else ""
    return f'<div class="ink" style="color:#1f2328;font-size:14px;font-weight:600">{escape(counts)}</div>{listed}'


def _table(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(
        f'<tr><td class="dim" style="padding:3px 16px 3px 0;color:#59636e;vertical-align:top;white-space:nowrap;'
        f'min-width:64px;max-width:140px;overflow:hidden;text-overflow:ellipsis">{escape(label)}</td>'
        f'<td class="ink" style="padding:3px 0;color:#1f2328;overflow-wrap:anywhere;width:100%">{escape(text)}</td>'
        "</tr>"
        for label, text in facts
    )
    return (
        '<table role="presentation" class="rule" style="width:100%;border-collapse:collapse;border-top:1px solid '
        f'#d5dae1;font-size:13px;line-height:1.5"><tr><td style="height:6px"></td></tr>{rows}</table>'
    )


def _footer(remarks: Sequence[str]) -> str:
    lines = "".join(f'<div style="padding:2px 0;overflow-wrap:anywhere">{escape(line)}</div>' for line in remarks)
    if not lines:
        return '<div style="height:14px"></div>'
    return (
        '<div class="in dim rule" style="margin-top:6px;padding:12px 24px 16px;border-top:1px solid #d5dae1;'
        f'color:#59636e;font-size:12px;line-height:1.5">{lines}</div>'
    )
