"""mail.svg: a mail with two attachments that a real server has received, drawn as in a mail program."""

from __future__ import annotations

import email
from email import policy

import commands
import svg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from email.message import EmailMessage
    from pathlib import Path

SEND = ["e3-event", "send", "nightly", "branch=main", "outcome=failure", "passed:=411", 'failed:=["test_connect"]']
FILES = {
    "build.log": "".join(f"compiling part {number} of 40\n" for number in range(1, 41)),
    "junit.xml": '<testsuite tests="412"><testcase name="test_connect"><failure/></testcase></testsuite>\n',
}

EDGE = 28
LINE = 21
TOP = 72  # the y of the headers
STYLE = f"""
    text {{ font-family: {svg.SANS}; font-size: 14px; fill: #24292f; }}
    .card {{ fill: #fbfbfc; stroke: #c3c9d2; }}
    .subject {{ font-size: 20px; font-weight: 600; }}
    .field {{ fill: #59636e; }}
    .rule {{ stroke: #dde1e7; }}
    .body {{ font-family: {svg.MONO}; font-size: 13px; }}
    .file {{ fill: #eef1f5; stroke: #c3c9d2; }}
    .clip {{ fill: none; stroke: #59636e; stroke-width: 1.5; stroke-linecap: round; }}
    .size {{ font-size: 12px; fill: #59636e; }}
"""


def make(directory: Path) -> str:
    """Send the event; return the picture of the received mail."""
    return draw(received(directory))


def received(directory: Path) -> EmailMessage:
    """Mail the event to a server with TLS; return the mail that the server has received."""
    commands.make_servers_importable()
    from servers.smtp import smtp_server
    from servers.tls import Authority

    for name, content in FILES.items():
        (directory / name).write_text(content, encoding="utf-8")
    authority = Authority(directory)
    command = [*SEND, *(f"--attach={name}" for name in FILES)]
    with smtp_server(authority.context("localhost")) as mailbox:
        handler = f"smtp=Nightly build,Builds <ci@corp.test>,dev@corp.test,localhost:{mailbox.port}"
        commands.run(command, directory, 0, E3_EVENT_HANDLERS=handler, SSL_CERT_FILE=authority.path)
    (envelope,) = mailbox.envelopes
    return email.message_from_bytes(envelope.content, policy=policy.default)


def draw(message: EmailMessage) -> str:
    """Return the picture of a mail."""
    lines, files = text_of(message), files_of(message)
    body = TOP + 3 * LINE + 14
    below = body + 12 + 20 * len(lines) + 14
    height = below + 92
    content = [
        svg.card(height),
        svg.text(EDGE, 44, svg.cut(message["Subject"], svg.WIDTH - 2 * EDGE, 20), "subject"),
        *headers(message),
        rule(body - 8),
        *(svg.text(EDGE, body + 22 + 20 * number, line, "body") for number, line in enumerate(lines)),
        rule(below),
        *attachments(files, below + 22),
    ]
    names = ", ".join(f"{name} ({size})" for name, size in files)
    description = f"From {message['From']} to {message['To']}. The text: {'; '.join(lines)}. Attached: {names}."
    return svg.picture(height, f"A mail: {message['Subject']}", description, STYLE, content)


def headers(message: EmailMessage) -> list[str]:
    """Return the lines with the sender, the recipients and the date."""
    lines = []
    for number, field in enumerate(("From", "To", "Date")):
        y = TOP + LINE * number
        value = svg.cut(message[field], svg.WIDTH - 2 * EDGE - 56, 14)
        lines += [svg.text(EDGE, y, field, "field"), svg.text(EDGE + 56, y, value)]
    return lines


def rule(y: float) -> str:
    """Return a line from edge to edge."""
    return svg.element("line", class_="rule", x1=EDGE, x2=svg.WIDTH - EDGE, y1=y, y2=y)


def text_of(message: EmailMessage) -> list[str]:
    """Return the lines of the readable text that fit into the picture."""
    part = message.get_body(("plain",))
    text = part.get_content() if part else ""
    return [svg.cut(line, svg.WIDTH - 2 * EDGE, 14) for line in text.splitlines()]


def files_of(message: EmailMessage) -> list[tuple[str, str]]:
    """Return the name and the size of each attachment."""
    return [(part.get_filename() or "?", size(part.get_payload(decode=True))) for part in message.iter_attachments()]


def size(content: bytes) -> str:
    """Return the size of a file in a readable form."""
    return f"{len(content)} bytes" if len(content) < 1000 else f"{len(content) / 1000:.1f} kB"


def attachments(files: list[tuple[str, str]], y: float) -> list[str]:
    """Return a box for each attachment, side by side."""
    content, room = [], (svg.WIDTH - 2 * EDGE + 12) / max(len(files), 3)
    for number, (name, length) in enumerate(files):
        x = EDGE + room * number
        content += [
            svg.element("rect", class_="file", x=x, y=y, width=room - 12, height=48, rx=7),
            svg.element("path", class_="clip", d=f"M{x + 15:.1f} {y + 19}v12a4 4 0 0 0 8 0v-15a2.6 2.6 0 0 0-5.2 0v13"),
            svg.text(x + 38, y + 21, svg.cut(name, room - 60, 14)),
            svg.text(x + 38, y + 38, length, "size"),
        ]
    return content
