"""trace.svg: the spans of a real build with nested ``e3-event run`` and `event.track`, drawn as bars."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import NamedTuple

import commands
import svg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BUILD = Path(__file__).parent / "build"

ROW, BAR = 29, 19
TOP, BOTTOM = 92, 22  # the space above and below the rows
NAMES, LEFT, RIGHT = 22, 216, svg.WIDTH - 22  # the x of the names, and the first and last x of the bars
INDENT = 17
SIZE = 12  # the font size of the text next to a bar
STYLE = f"""
    text {{ font-family: {svg.SANS}; font-size: {SIZE}px; fill: #aebacb; }}
    .card {{ fill: #101722; stroke: #344054; }}
    .head {{ font-size: 17px; font-weight: 600; fill: #f2f5f9; }}
    .name {{ font-size: 13.5px; fill: #f2f5f9; }}
    .kind, .tick {{ font-size: 11px; fill: #8d9bb0; }}
    .grid {{ stroke: #253041; }}
    .branch {{ stroke: #4a5a72; fill: none; }}
    .bar {{ fill: #4fc3b0; }}
    .bar.failed {{ fill: #ff8a80; }}
    .inside {{ fill: #101722; font-weight: 600; }}
    .problem {{ fill: #ff9e96; }}
    .cross {{ stroke: #ff8a80; stroke-width: 2; stroke-linecap: round; }}
"""


class Step(NamedTuple):
    """A span to draw.

    :ivar kind: how it was created: "run" or "track"
    :ivar begin: in seconds since 1970, as is `end`
    :ivar problem: why it failed; None if it did not
    """

    id: str
    parent: str
    name: str
    kind: str
    begin: float
    end: float
    problem: str | None = None


def make(directory: Path) -> str:
    """Run the build; return the picture."""
    return draw([step(span) for span in received(directory)])


def received(directory: Path) -> list[Any]:
    """Run the build in a directory; return the spans that an OTLP receiver has got."""
    commands.make_servers_importable()
    from servers.otlp import otlp_receiver

    working_directory = shutil.copytree(BUILD, directory / "build")
    command = ["e3-event", "run", "nightly", "--", "sh", "build.sh"]
    with otlp_receiver() as receiver:
        commands.run(command, working_directory, 1, E3_EVENT_HANDLERS=f"otel={receiver.endpoint},nightly")
    return receiver.spans


def step(span: Any) -> Step:
    """Convert a received span to a step."""
    begin, end = (nanoseconds / 1e9 for nanoseconds in span.times)
    kind = "run" if "process.command" in span.attributes else "track"
    return Step(span.span_id, span.parent_id, span.name, kind, begin, end, problem_of(span))


def problem_of(span: Any) -> str | None:
    """Return why a span failed; None if it did not."""
    if span.pb.status.code != span.pb.status.STATUS_CODE_ERROR:
        return None
    status = span.attributes.get("process.exit.code")
    return span.pb.status.message or (f"exit status {status}" if status else span.attributes["error.type"])


def nested(steps: list[Step], parent: str = "", depth: int = 0) -> list[tuple[Step, int]]:
    """Return each step and its depth. The steps within a step follow it, in the order of their start."""
    rows = []
    for one in sorted(steps, key=lambda step: step.begin):
        if one.parent == parent:
            rows += [(one, depth), *nested(steps, one.id, depth + 1)]
    return rows


def ticks(seconds: float, limit: int = 9) -> list[float]:
    """Return the times to mark on an axis, at most `limit`. Their distance is 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(seconds / limit))
    distance = next(power * factor for factor in (1, 2, 5, 10, 20) if seconds / (power * factor) < limit)
    return [round(count * distance, 9) for count in range(int(seconds / distance + 1e-9) + 1)]


class Scale:
    """Converts times to positions on the axis. The axis covers all steps."""

    def __init__(self, steps: list[Step]) -> None:
        self.begin = min(step.begin for step in steps)
        self.seconds = max(step.end for step in steps) - self.begin

    def x(self, time: float) -> float:
        """Return the x of a time, which is in seconds since 1970."""
        return LEFT + (RIGHT - LEFT) * (time - self.begin) / self.seconds


def draw(steps: list[Step]) -> str:
    """Return the picture of a trace: a row for each step, the outermost first."""
    rows, scale = nested(steps), Scale(steps)
    height = TOP + ROW * len(rows) + BOTTOM
    content = [svg.card(height), *heading(rows, scale), *axis(scale, height)]
    middles = {one.id: TOP + ROW * (number + 0.5) for number, (one, _) in enumerate(rows)}
    for one, depth in rows:
        y = middles[one.id]
        content += [branch(depth, y, middles.get(one.parent)), *label(one, depth, y), *bar(one, scale, y)]
    return svg.picture(height, f"The trace of {rows[0][0].name}", description(rows), STYLE, content)


def description(rows: list[tuple[Step, int]]) -> str:
    """Return a description of the rows, for screen readers."""
    names = {one.id: one.name for one, _ in rows}
    lines = []
    for one, depth in rows:
        within = f" within {names[one.parent]}" if depth else ""
        lines.append(f"{one.name} ({one.kind}){within}: {outcome(one)}")
    return "; ".join(lines)


def outcome(one: Step) -> str:
    """Return the duration of a step and, if it failed, the reason."""
    failed = f", failed: {one.problem}" if one.problem is not None else ""
    return f"{one.end - one.begin:.2f} s{failed}"


def heading(rows: list[tuple[Step, int]], scale: Scale) -> list[str]:
    """Return the heading of the picture."""
    failed = sum(one.problem is not None for one, _ in rows)
    count = f"{len(rows)} spans, {failed} failed, {scale.seconds:.1f} s"
    return [
        svg.text(NAMES, 38, rows[0][0].name, "head"),
        svg.text(RIGHT, 38, count, text_anchor="end"),
    ]


def axis(scale: Scale, height: float) -> list[str]:
    """Return the labels and the lines of the axis."""
    lines = []
    for seconds in ticks(scale.seconds):
        x = scale.x(scale.begin + seconds)
        lines.append(svg.element("line", class_="grid", x1=x, x2=x, y1=TOP - 8, y2=height - BOTTOM + 4))
        lines.append(svg.text(x, TOP - 16, f"{seconds:g} s", "tick", text_anchor="middle"))
    return lines


def branch(depth: int, y: float, above: float | None) -> str:
    """Return the line to a step's name from the name of the enclosing step, whose y is `above`."""
    if above is None:
        return ""
    x = NAMES + INDENT * (depth - 1) + 5
    return svg.element("path", class_="branch", d=f"M{x} {above + 9}V{y}h{INDENT - 9}")


def label(one: Step, depth: int, y: float) -> list[str]:
    """Return a step's name and kind. A cross marks a failed step, because not everyone sees the colour."""
    x, kind_at = NAMES + INDENT * depth, LEFT - 16
    failed = one.problem is not None
    cross = svg.element("path", class_="cross", d=f"M{x + 1} {y - 4}l8 8m0-8l-8 8") if failed else ""
    x += 15 * failed
    name = svg.cut(one.name, kind_at - 34 - x, 13.5)
    return [cross, svg.text(x, y + 4.5, name, "name"), svg.text(kind_at, y + 4, one.kind, "kind", text_anchor="end")]


def bar(one: Step, scale: Scale, y: float) -> list[str]:
    """Return a step's bar and its text, which is after, before or in the bar, depending on the available space."""
    begin, end = scale.x(one.begin), scale.x(one.end)
    failed = one.problem is not None
    box = {"x": begin, "y": y - BAR / 2, "width": max(end - begin, 2.0), "height": BAR, "rx": 4}
    rect = svg.element("rect", class_="bar failed" if failed else "bar", **box)
    return [rect, text_of_bar(outcome(one), begin, end, y + 4, "problem" if failed else "")]


def text_of_bar(words: str, begin: float, end: float, y: float, class_: str) -> str:
    """Return the text of a bar, at the position where it fits."""
    width = svg.width_of(words, SIZE) + 8
    if end + width <= RIGHT:
        return svg.text(end + 8, y, words, class_)
    if begin - width >= LEFT:
        return svg.text(begin - 8, y, words, class_, text_anchor="end")
    return svg.text(begin + 9, y, svg.cut(words, end - begin - 18, SIZE), "inside")
