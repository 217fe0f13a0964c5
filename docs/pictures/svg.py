"""Functions that return pieces of SVG. The markup refers to nothing outside of the file, not even to fonts."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

WIDTH = 740  # the width of a page's text in pixels
SANS = "system-ui, sans-serif"
MONO = "ui-monospace, monospace"
# The width of a character, relative to the font's size. The actual font is unknown, so the value for sans is generous.
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
    """Return an attribute's value; a float is rounded to two digits."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def text(x: float, y: float, words: object, class_: str = "", **attributes: object) -> str:
    """Return a line of text."""
    if class_:
        attributes["class_"] = class_
    return element("text", escaped(words), x=x, y=y, **attributes)


def fixed(x: float, y: float, words: str, size: float, class_: str) -> str:
    """Return a line of monospaced text that keeps its spaces and has the same width in every font."""
    if not words:
        return ""
    unchanged = {"xml:space": "preserve", "textLength": len(words) * size * MONO_ADVANCE}
    return text(x, y, words, class_, lengthAdjust="spacingAndGlyphs", **unchanged)


def cut(words: str, room: float, size: float) -> str:
    """Return a line, cut to the available width and then ended with an ellipsis."""
    limit = max(int(room / (size * SANS_ADVANCE)), 1)
    return words if len(words) <= limit else f"{words[: limit - 1].rstrip()}…"


def width_of(words: str, size: float) -> float:
    """Return the estimated width of a line."""
    return len(words) * size * SANS_ADVANCE


def card(height: float, class_: str = "card") -> str:
    """Return the background of a picture. The page's own background may be light or dark."""
    return element("rect", class_=class_, x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=10)


def picture(height: float, title: str, description: str, style: str, content: list[str]) -> str:
    """Return the content of the file.

    :param title: the title for screen readers
    :param description: the description for screen readers
    :param content: the elements, from back to front
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
