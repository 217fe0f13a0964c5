"""SVG, piece by piece: pure functions that return markup. Nothing in it leads out of the file, fonts included."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

WIDTH = 740  # what a page has room for: a unit here is a pixel there
SANS = "system-ui, sans-serif"
MONO = "ui-monospace, monospace"
# Of a character, in parts of the font's size. No font is known here, so that the one of sans is on the safe side.
SANS_ADVANCE, MONO_ADVANCE = 0.56, 0.6


def escaped(text: object) -> str:
    """Return text for use between tags. A character that XML does not allow becomes U+FFFD."""
    return escape("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in str(text)))


def element(name: str, *content: str, **attributes: object) -> str:
    """Return an element around markup.

    :param attributes: ``font_size`` becomes ``font-size``, and ``class_`` becomes ``class``
    """
    pairs = ((key.rstrip("_").replace("_", "-"), number(value)) for key, value in attributes.items())
    start = "".join(f" {key}={quoteattr(value)}" for key, value in pairs)
    return f"<{name}{start}>{''.join(content)}</{name}>" if content else f"<{name}{start}/>"


def number(value: object) -> str:
    """Return an attribute's value; a float with no more digits than a screen can show."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def text(x: float, y: float, words: object, class_: str = "", **attributes: object) -> str:
    """Return a line of text."""
    if class_:
        attributes["class_"] = class_
    return element("text", escaped(words), x=x, y=y, **attributes)


def fixed(x: float, y: float, words: str, size: float, class_: str) -> str:
    """Return a line of monospaced text that keeps its spaces, and is as wide in every font."""
    if not words:
        return ""
    as_it_is = {"xml:space": "preserve", "textLength": len(words) * size * MONO_ADVANCE}
    return text(x, y, words, class_, lengthAdjust="spacingAndGlyphs", **as_it_is)


def cut(words: str, room: float, size: float) -> str:
    """Return as much of a line as has room, with an ellipsis where it is not all."""
    most = max(int(room / (size * SANS_ADVANCE)), 1)
    return words if len(words) <= most else f"{words[: most - 1].rstrip()}…"


def width_of(words: str, size: float) -> float:
    """Return the room that a line wants."""
    return len(words) * size * SANS_ADVANCE


def card(height: float, class_: str = "card") -> str:
    """Return the background. The picture has its own, because the page may be light or dark."""
    return element("rect", class_=class_, x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=10)


def picture(height: float, title: str, description: str, style: str, content: list[str]) -> str:
    """Return the file.

    :param title: what it is, for who does not see it; the description says what it shows
    :param content: the elements, the undermost first
    """
    head = [
        element("title", escaped(title), id="title"),
        element("desc", escaped(description), id="desc"),
        element("style", escaped(" ".join(style.split()))),
    ]
    body = "\n".join([*head, *filter(None, content)])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {number(height)}" width="{WIDTH}" '
        f'height="{number(height)}" role="img" aria-labelledby="title desc">\n{body}\n</svg>\n'
    )
