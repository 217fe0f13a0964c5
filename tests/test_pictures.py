"""The pictures of the documentation: their parts, their place on the pages, and their generator."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from email.message import EmailMessage
from xml.etree import ElementTree as ET

import pytest

import commands
import gallery
import mail as mail_picture
import svg
import terminal
import waterfall
from event import _registry
from helpers import pages
from waterfall import Step

MADE = ("trace", "mail", "check")
DOCS = pages.CHECKOUT / "docs"
STATIC = DOCS / "_static"
HOSTILE = 'a<b>&"c"</a>'
STEPS = (
    "RUN nightly",
    "fetch",
    "compile",
    "core",
    "gui",
    "docs",
    "tests",
    "unit",
    "network",
    "server",
    "connect",
    "report",
)
FAILED = ["RUN nightly", "tests", "network", "connect"]


class Picture:
    """A parsed picture: its elements by name and class, and its lines of text."""

    def __init__(self, content):
        self.root = ET.fromstring(content)
        self.lines = ["".join(line.itertext()) for line in self.all("text")]

    def all(self, name, class_=None):
        found = self.root.iter(f"{{http://www.w3.org/2000/svg}}{name}")
        return [element for element in found if class_ is None or element.get("class") == class_]

    def line(self, words):
        (found,) = [line for line in self.all("text") if line.text == words]
        return found


def values(element, *names):
    return [float(element.get(name)) for name in names]


# The parts.


def test_text_is_escaped_between_tags_and_in_attributes():
    drawn = ET.fromstring(svg.element("text", svg.escaped(HOSTILE), id=HOSTILE))
    assert (drawn.text, drawn.get("id"), len(drawn)) == (HOSTILE, HOSTILE, 0)


def test_characters_invalid_in_xml_are_replaced():
    drawn = ET.fromstring(svg.text(1, 2, "a\x00b\x1b[1m\ud800\uffffc"))
    assert drawn.text == "a\ufffdb\ufffd[1m\ufffd\ufffdc"


def test_line_is_cut_at_the_end_of_its_space():
    assert svg.cut("a name", 100, 10) == "a name"
    assert svg.cut("a name that is long", 57, 10) == "a name th…"
    assert svg.cut("a name", -5, 10) == "…"


def test_monospaced_text_keeps_its_spaces_and_its_width():
    drawn = ET.fromstring(svg.fixed(0, 0, "  ok  ", 10, "typed"))
    assert drawn.text == "  ok  "
    assert drawn.get("{http://www.w3.org/XML/1998/namespace}space") == "preserve"
    assert float(drawn.get("textLength")) == 36


def test_picture_has_a_title_and_a_description():
    assert title_and_description(svg.picture(10, HOSTILE, "so & so", "", [])) == (HOSTILE, "so & so")


def title_and_description(content):
    """Return the title and the description of a picture, which a screen reader reads aloud."""
    picture = Picture(content)
    assert picture.root.get("role") == "img"
    (title,), (description,) = picture.all("title"), picture.all("desc")
    assert picture.root.get("aria-labelledby").split() == [title.get("id"), description.get("id")]
    return title.text, description.text


# A trace.

BUILD = [
    Step("c", "a", "second", "run", 106.0, 108.0, "exit status 3"),
    Step("d", "c", HOSTILE, "track", 106.5, 107.0),
    Step("a", "", "RUN build", "run", 100.0, 110.0),
    Step("b", "a", "first", "track", 101.0, 104.0),
]


@pytest.fixture
def build():
    return Picture(waterfall.draw(BUILD))


def test_step_is_below_its_parent_in_order_of_time():
    order = [(step.name, depth) for step, depth in waterfall.nested(BUILD)]
    assert order == [("RUN build", 0), ("first", 1), ("second", 1), (HOSTILE, 2)]


def test_name_is_indented_by_the_depth_of_its_step(build):
    x, y = zip(*(values(line, "x", "y") for line in build.all("text", "name")), strict=True)
    failed = 15  # room for the cross
    assert [at - x[0] - failed * (n == 2) for n, at in enumerate(x)] == [0, 17, 17, 34]
    assert list(y) == sorted(y)


def test_position_of_a_bar_is_its_time(build):
    bars = [bar for bar in build.all("rect") if bar.get("class").startswith("bar")]
    (whole_x, whole), (first_x, first), (second_x, second), (_, inner) = (values(bar, "x", "width") for bar in bars)
    assert (whole_x, whole) == (waterfall.LEFT, waterfall.RIGHT - waterfall.LEFT)
    assert [first, second, inner] == pytest.approx([whole * 0.3, whole * 0.2, whole * 0.05], abs=0.02)
    assert [first_x, second_x] == pytest.approx([whole_x + whole * 0.1, whole_x + whole * 0.6], abs=0.02)


def test_failure_is_shown_by_a_cross_and_words_not_only_by_colour(build):
    (cross,) = build.all("path", "cross")
    (bar,) = build.all("rect", "bar failed")
    words, name = build.line("2.00 s, failed: exit status 3"), build.line("second")
    middle = values(bar, "y")[0] + waterfall.BAR / 2
    assert [values(line, "y")[0] for line in (words, name)] == pytest.approx([middle, middle], abs=5)
    assert f" {middle - 4:g}l" in cross.get("d")


def test_names_are_escaped_and_cut(build):
    assert build.line(HOSTILE).get("class") == "name"
    long = Picture(waterfall.draw([Step("a", "", "x" * 99, "run", 0.0, 1.0)]))
    assert [line.text for line in long.all("text", "name")] == [f"{'x' * 18}…"]


def test_description_lists_the_trace_in_words(build):
    (description,) = build.all("desc")
    assert description.text.split("; ")[:3] == [
        "RUN build (run): 10.00 s",
        "first (track) within RUN build: 3.00 s",
        "second (run) within RUN build: 2.00 s, failed: exit status 3",
    ]


@pytest.mark.parametrize(
    ("begin", "end", "anchor", "x"),
    [
        pytest.param(300.0, 400.0, None, 408, id="after the bar"),
        pytest.param(600.0, 700.0, "end", 592, id="before the bar, if there is no room after it"),
        pytest.param(220.0, 700.0, None, 229, id="in the bar, if there is no room on either side"),
    ],
)
def test_labels_are_placed_with_enough_space(begin, end, anchor, x):
    drawn = ET.fromstring(waterfall.text_of_bar("1.00 s, failed", begin, end, 10, ""))
    assert (drawn.get("text-anchor"), float(drawn.get("x"))) == (anchor, x)


@pytest.mark.parametrize(
    ("seconds", "marks"),
    [
        pytest.param(8.2, [0, 1, 2, 3, 4, 5, 6, 7, 8], id="seconds"),
        pytest.param(0.3, [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3], id="fractions of a second"),
        pytest.param(95, [0, 20, 40, 60, 80], id="many seconds"),
    ],
)
def test_the_axis_has_round_times(seconds, marks):
    assert waterfall.ticks(seconds) == marks


# A mail.


@pytest.fixture
def mail():
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = HOSTILE, "Ann <ann@corp.test>", "bob@corp.test"
    message["Date"] = "Tue, 24 Nov 2026 21:35:21 +0000"
    message.set_content("uid: 42\nerror: a<b & c\n")
    message.add_attachment(b"x" * 999, maintype="text", subtype="plain", filename="a<b>.log")
    message.add_attachment(b"x" * 1550, maintype="application", subtype="gzip", filename="all.tar.gz")
    return Picture(mail_picture.draw(message))


def test_a_mail_shows_its_headers_its_text_and_its_files(mail):
    assert mail.lines == [
        *(HOSTILE, "From", "Ann <ann@corp.test>", "To", "bob@corp.test", "Date", "Tue, 24 Nov 2026 21:35:21 +0000"),
        *("uid: 42", "error: a<b & c"),
        *("a<b>.log", "999 bytes", "all.tar.gz", "1.6 kB"),
    ]


def test_mail_picture_is_as_high_as_its_content(mail):
    (height,) = values(mail.root, "height")
    bottom = max(sum(values(box, "y", "height")) for box in mail.all("rect", "file"))
    assert 10 < height - bottom < 40


# A terminal.


def test_a_terminal_breaks_a_line_at_its_edge_and_shows_an_empty_one():
    assert terminal.wrapped("abcdefg", 3) == ["abc", "def", "g"]
    assert terminal.wrapped("", 3) == [""]


def test_a_long_command_has_one_prompt():
    drawn = Picture(terminal.draw(["$ " + "x" * terminal.COLUMNS]))
    assert drawn.lines[1:] == ["$", "x" * (terminal.COLUMNS - 2), "xx"]
    assert [line.get("class") for line in drawn.all("text")[1:]] == ["prompt", "typed", "typed"]


def test_terminal_distinguishes_input_from_output():
    typed = terminal.typed(f"echo {HOSTILE}\nmore").splitlines()
    drawn = Picture(terminal.draw([*typed, "", "$HOME and > are printed", "  done"]))
    assert [line.text for line in drawn.all("text", "prompt")] == ["$", ">"]
    assert [line.text for line in drawn.all("text", "typed")] == [f"echo {HOSTILE}", "more"]
    first, last = (values(drawn.line(words), "y")[0] for words in (f"echo {HOSTILE}", "  done"))
    assert (last - first) / terminal.LINE == 4
    assert values(drawn.root, "height")[0] > last


# The committed pictures.


def test_committed_pictures_are_the_listed_ones():
    assert tuple(gallery.PICTURES) == MADE


@pytest.mark.parametrize("name", MADE)
def test_picture_is_well_formed_without_external_references(name):
    content = (STATIC / f"{name}.svg").read_text(encoding="utf-8")
    assert all(title_and_description(content))
    assert references(content) == []


def references(content):
    """Return the external references in a picture, and those to the machine that made it."""
    attributes = [key for element in ET.fromstring(content).iter() for key in element.attrib]
    outside = re.findall(r"@import|@font-face|url\(|<script|<image|<!ENTITY|<!DOCTYPE", content, re.IGNORECASE)
    machine = re.findall(r"/tmp\b|/home/|/Users/|/root\b|127\.0\.0\.1|:\d{5}\b", content)
    return [*(key for key in attributes if "href" in key or "src" in key), *outside, *machine]


@pytest.mark.parametrize(
    "inside",
    [
        '<a href="http://corp.test"/>',
        '<image xlink:href="x.png" xmlns:xlink="http://www.w3.org/1999/xlink"/>',
        "<style>@import 'font.css';</style>",
        '<rect fill="url(http://corp.test/#a)"/>',
        "<text>/tmp/tmpab12/outbox</text>",
        "<text>localhost:34567</text>",
    ],
)
def test_external_reference_in_a_picture_is_detected(inside):
    assert references(f'<svg xmlns="http://www.w3.org/2000/svg">{inside}</svg>') != []


def figures():
    """Return (page, path of the picture, its alternative text) of each figure of the pages."""
    pattern = re.compile(r"^```\{figure\} (\S+)\n:alt: \"(.+)\"\n", re.MULTILINE)
    return [
        (page.relative_to(DOCS).as_posix(), (page.parent / path).resolve(), alt)
        for page in sorted(DOCS.rglob("*.md"))
        for path, alt in pattern.findall(page.read_text(encoding="utf-8"))
    ]


def test_every_figure_is_a_file_and_has_an_alternative_text():
    count = sum(page.read_text(encoding="utf-8").count("```{figure}") for page in DOCS.rglob("*.md"))
    shown = figures()
    assert len(shown) == count
    assert [(page, path) for page, path, _ in shown if not path.is_file()] == []


def test_every_picture_is_on_its_page_and_in_the_gallery():
    shown = {(page, path.name) for page, path, _ in figures() if path.parent == STATIC.resolve()}
    assert {name for page, name in shown if page == "explanation/look.md"} == {f"{name}.svg" for name in MADE}
    assert {
        ("howto/run.md", "trace.svg"),
        ("reference/handlers/otel.md", "trace.svg"),
        ("howto/mail.md", "mail.svg"),
        ("howto/ci.md", "check.svg"),
    } <= shown


def test_the_readme_shows_the_trace():
    (path,) = re.findall(r"!\[.+\]\((.+\.svg)\)", (pages.CHECKOUT / "README.md").read_text(encoding="utf-8"))
    assert (pages.CHECKOUT / path).samefile(STATIC / "trace.svg")


def test_the_committed_terminal_lists_every_built_in_handler():
    drawn = Picture((STATIC / "check.svg").read_text(encoding="utf-8"))
    listed = {line.split()[0] for line in drawn.lines if re.fullmatch(r"  \w+ +e3-event \S+ +ok", line)}
    assert listed == set(_registry.BUILTINS), "the handlers have changed: run `python docs/pictures check`"


# The generator.


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Run the generator for all pictures. The user's own handlers and trace must not affect them."""
    if os.name == "nt":
        pytest.skip("platform: the builds use a POSIX shell")
    directory = tmp_path_factory.mktemp("pictures")
    variables = {"E3_EVENT_HANDLERS": "nonsense=1", "TRACEPARENT": f"00-{'1' * 32}-{'2' * 16}-00"}
    done = subprocess.run(
        [sys.executable, str(DOCS / "pictures"), "--into", str(directory)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(directory / f"{name}.svg") for name in MADE]
    contents = {name: (directory / f"{name}.svg").read_text(encoding="utf-8") for name in MADE}
    assert [references(content) for content in contents.values()] == [[], [], []]
    return {name: Picture(content) for name, content in contents.items()}


@pytest.mark.server  # draws all pictures, which takes seconds
def test_the_trace_shows_the_steps_of_the_build_and_marks_those_that_failed(made):
    trace = made["trace"]
    names = [line.text for line in trace.all("text", "name")]
    assert (names[0], sorted(names)) == ("RUN nightly", sorted(STEPS))
    (description,) = trace.all("desc")
    failed = [part.partition(" (")[0] for part in description.text.split("; ") if ", failed: " in part]
    assert failed == FAILED
    assert len(trace.all("path", "cross")) == len(trace.all("rect", "bar failed")) == len(FAILED)
    assert sum("failed: db.corp.test refused" in line for line in trace.lines) == 2
    kinds = [line.text for line in trace.all("text", "kind")]
    assert (kinds.count("run"), kinds.count("track")) == (9, 3)


@pytest.mark.server  # draws all pictures, which takes seconds
def test_the_mail_shows_the_event_and_its_attachments(made):
    lines = made["mail"].lines
    assert lines[0] == "Nightly build: nightly failed on main"
    assert {"Builds <ci@corp.test>", "dev@corp.test", "branch: main", "failed: test_connect"} <= set(lines)
    files = {lines[at - 1]: line for at, line in enumerate(lines) if re.fullmatch(r"\d+ bytes", line)}
    assert set(files) == {"event", *mail_picture.FILES}
    assert files["build.log"] == f"{len(mail_picture.FILES['build.log'])} bytes"


@pytest.mark.server  # draws all pictures, which takes seconds
def test_the_terminal_shows_what_check_prints(made):
    lines = made["check"].lines
    listed = {line.split()[0] for line in lines if line.endswith("  ok")}
    assert listed == set(_registry.BUILTINS)
    assert any(line.startswith("  fil   broken: no handler is named 'fil', did you mean 'file'?") for line in lines)
    assert "  /srv/build/outbox  ok; 0 in delivery, 2 waiting, 0 failed, 0 corrupt" in lines
    assert lines[-1] == "e3-event check: 1 problem"


def test_run_with_unexpected_output_creates_no_picture(tmp_path):
    with pytest.raises(RuntimeError, match=r"ends with status 3, not 0:\nwhy"):
        commands.run([sys.executable, "-c", "print('why'); raise SystemExit(3)"], tmp_path, 0)


def test_run_in_another_directory_keeps_the_python_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(("src", "/opt/modules")))
    printed = commands.run([sys.executable, "-c", "import os; print(os.environ['PYTHONPATH'])"], tmp_path, 0)
    assert printed.strip().split(os.pathsep) == [os.path.abspath("src"), os.path.abspath("/opt/modules")]


def test_unknown_picture_is_a_usage_error_with_the_known_names():
    command = [sys.executable, str(DOCS / "pictures"), "trase"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such picture: trase; there are trace, mail, check" in done.stderr
