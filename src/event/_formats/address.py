"""Parse and format mail addresses (RFC 5322, RFC 6531)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from event import _text
from event._net import hostname
from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Each alternative of a token begins with another character, and an unterminated one matches the rest of the text. So
# reading takes linear time.
_QUOTED = r'"(?:\\.|[^"\\])*"'
_TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*(?:"|\\?\Z)|<[^>]*(?:>|\Z)|\([^()]*(?:\)|\Z)|\[[^\]]*(?:\]|\Z)|[,:;]|[^"<(\[,:;]+|.', re.DOTALL
)
_NAMED = re.compile(rf'((?:{_QUOTED}|[^<>"])*)<([^<>]*)>', re.DOTALL)
_COMMENTED = re.compile(r"(\S+)\s*\(([^()]*)\)", re.DOTALL)
_ATOM = r'[^\s"<>(),:;@\[\]\\\x00-\x1f\x7f]+'
_ADDRESS = re.compile(rf'(?:{_ATOM}|"(?:\\[ -~]|[^"\\\x00-\x1f\x7f])+")(?:@(?:{_ATOM}|\[[0-9A-Za-z:.]+\]))?')
_PLAIN_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A recipient or sender of mail.

    :ivar name: the display name, on one line; empty if there is none
    :ivar address: the address, unchanged
    """

    name: str
    address: str

    @property
    def wire_address(self) -> str:
        """The address for a mail server: the domain in ASCII, the local part unchanged.

        :raises EventError: no host has the domain's name
        """
        local, at, domain = self.address.rpartition("@")
        try:
            local.encode()
            return f"{local}{at}{hostname.to_ascii(domain)}"
        except ValueError as error:
            raise EventError(f"smtp: {self.address!r} is not a mail address: {error}") from error


def parse_mailboxes(value: str | Iterable[str]) -> list[Mailbox]:
    """Return the mailboxes of an address list.

    :param value: an address list such as ``a@x, "Doe, Jane" <b@x>, Team: c@x, d@x;``, or a Python list of mailboxes
        and address lists. In an element ``NAME <ADDRESS>`` of a Python list, NAME may contain commas
    :raises EventError: there is no mailbox, or an address is invalid
    """
    found: list[Mailbox] = []
    for text in [value] if isinstance(value, str) else value:
        if not isinstance(value, str) and _NAMED.fullmatch(text.strip()):
            found.append(parse_mailbox(text))
        else:
            found += [parse_mailbox(element) for element in _elements(text) if element.strip()]
    if not found:
        raise EventError("smtp: there is no mail address; expected one such as builds@example.com")
    return found


def parse_mailbox(text: str) -> Mailbox:
    """Return the mailbox of ``NAME <ADDRESS>``, ``ADDRESS (NAME)`` or ``ADDRESS``.

    :raises EventError: the address is invalid, for example because it contains a space or a second address
    """
    text = text.strip()
    name, address = "", text
    if match := _NAMED.fullmatch(text):
        name, address = match[1].strip(), match[2].strip()
        name = re.sub(_QUOTED, lambda quoted: re.sub(r"\\(.)", r"\1", quoted[0][1:-1]), name)
    elif match := _COMMENTED.fullmatch(text):
        address, name = match[1], match[2]
    if not _ADDRESS.fullmatch(address):
        # A URL, which may contain a password, if the server is in the place of an address.
        shown = "a URL" if "://" in text else repr(text)
        raise EventError(f"smtp: {shown} is not a mail address; expected one such as Jane Doe <jane@example.com>")
    return Mailbox(_text.on_one_line(name), address)


def format_mailboxes(boxes: Iterable[Mailbox]) -> str:
    """Return mailboxes as an address list for `parse_mailboxes`. Names are not encoded."""
    return ", ".join(f"{quoted(box.name)} <{box.address}>" if box.name else box.address for box in boxes)


def quoted(name: str) -> str:
    """Return a display name, in quotes if it contains characters of the syntax (RFC 5322, 3.2.4)."""
    return name if _PLAIN_NAME.fullmatch(name) else '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'


def _elements(text: str) -> Iterator[str]:
    """Yield the elements of an address list. A group ``NAME: ADDRESS, …;`` yields its addresses."""
    parts: list[str] = _TOKEN.findall(text)
    last_end = len(parts) - 1 - parts[::-1].index(";") if ";" in parts else -1
    element: list[str] = []  # a list: extending a string takes quadratic time in some interpreters, and under coverage
    in_group = False
    for position, part in enumerate(parts):
        if part == ":" and not in_group and position < last_end:
            element, in_group = [], True
        elif part == "," or (part == ";" and in_group):
            yield "".join(element)
            element, in_group = [], in_group and part == ","
        else:
            element.append(part)
    yield "".join(element)
