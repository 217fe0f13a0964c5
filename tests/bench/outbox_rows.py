"""The rows about the outbox, `send` and `run`, which e3.event does not have.

e3-event is compared with itself: with an outbox and without, with a full outbox and an almost empty one.
"""

from __future__ import annotations

import sys
from statistics import median

from measure import Line, format_count, format_ratio, format_size, format_us, measure_in_turn, within

_JOBS = 8  # parallel deliveries, the default of `e3-event deliver`
_ENTRY = 16 << 10  # bytes that a waiting entry takes on disk, with the file system's overhead
_TRUE = ["cmd", "/c", "exit 0"] if sys.platform == "win32" else ["true"]


def measure_outbox(place, size):
    """Compare sending with and without an outbox."""
    for operation, on_disk, what in (
        ("", False, "sending an event to the file handler with an outbox, compared with none"),
        ("_file", False, "the same with a 100 KB attachment"),
        ("_file", True, "the same with the outbox on a disk, to which each event is synced"),
    ):
        found = measure_in_turn(
            {kind: kind for kind in ("outbox", "direct")}, _sending(place, size, operation, on_disk), size.repeats
        )
        yield Line(
            what=what,
            result=format_us(found["outbox"]),
            compared_with=f"{format_ratio(found['outbox'] / found['direct'])} without, {format_us(found['direct'])}",
            e3="",
            target="",
            target_met=None,
        )


def _sending(place, size, operation, on_disk):
    count = max(1, int((2 if on_disk else 5) * size.share))

    def once(kind):
        command = place.python("event", place.jobs / "micro.py", kind + operation, "event", place.attachment)
        with place.fresh_directory(on_disk=on_disk) as directory:
            return float(place.run([*command, directory, str(count)]))

    return once


def measure_waiting(place, size):
    """Compare an outbox with very many waiting entries with one that has few or none."""
    few, some, many = size.waiting
    with (
        place.fresh_directory(room=many * _ENTRY) as full,
        place.fresh_directory(room=many * _ENTRY) as empty,
    ):
        place.run(_job(place, "fill", full, many))
        yield _put_line(place, size, full, empty)
        place.run(_job(place, "fill", empty, some))
        yield _list_line(place, size, full, empty)
        yield from _scan_lines(place, size)
        runs = {few: [], some: []}
        for count in [few, some] * size.repeats:
            with place.fresh_directory(room=many * _ENTRY) as directory:
                place.run(_job(place, "fill", directory, count))
                runs[count].append(_delivered(place, directory, count))
        runs[many] = [
            _delivered(place, full, many)
        ]  # once, since it takes long; the others show how much the time varies
    yield from _delivery_lines(size, {count: _medians(found) for count, found in runs.items()})
    yield _slow_line(place, size)


def _put_line(place, size, full, empty):
    count = max(1, int(20 * size.share))
    found = measure_in_turn(
        {"full": full, "empty": empty}, lambda path: float(place.run(_job(place, "put", path, count))), size.repeats
    )
    ratio = found["full"] / found["empty"]
    many = format_count(size.waiting[-1])
    return Line(
        what=f"putting an event into an outbox with {many} waiting, compared with an empty one",
        result=format_us(found["full"]),
        compared_with=f"{format_ratio(ratio)} empty, {format_us(found['empty'])}",
        e3="",
        target="1.05 x",
        target_met=within(ratio, 1.05),
    )


def _list_line(place, size, full, empty):
    found = measure_in_turn(
        {
            path: place.python("event", "-m", "event", "outbox", "list", "--outbox", f"{path}/outbox")
            for path in (full, empty)
        },
        place.seconds_to_first_line,
        size.processes,
    )
    ratio = found[full] / found[empty]
    _, some, many = map(format_count, size.waiting)
    return Line(
        what=f"first line of `e3-event outbox list` with {many} waiting, compared with {some}",
        result=f"{found[full] * 1e3:.1f} ms",
        compared_with=f"{format_ratio(ratio)} with {some}, {found[empty] * 1e3:.1f} ms",
        e3="",
        target="1.10 x",
        target_met=within(ratio, 1.1),
    )


def _scan_lines(place, size):
    """Compare scanning an outbox of very many entries with one of few entries. No entry is due."""
    few, _, many = size.waiting
    with (
        place.fresh_directory(room=many * _ENTRY) as full,
        place.fresh_directory(room=many * _ENTRY) as empty,
    ):
        place.run(_job(place, "fill-later", full, many))
        place.run(_job(place, "fill-later", empty, few))
        commands = (
            ("`e3-event deliver` with nothing due", ["deliver"]),
            ("`e3-event check`", ["check", "--outbox"]),
        )
        for what, words in commands:
            found = measure_in_turn(
                {path: place.python("event", "-m", "event", *words, f"{path}/outbox") for path in (full, empty)},
                place.seconds,
                size.processes,
            )
            ratio = found[full] / found[empty]
            yield Line(
                what=f"{what}, {format_count(many)} waiting, compared with {format_count(few)}",
                result=f"{found[full] * 1e3:.1f} ms",
                compared_with=f"{format_ratio(ratio)} with {format_count(few)}, {found[empty] * 1e3:.1f} ms",
                e3="",
                target="1.20 x",
                target_met=within(ratio, 1.2),
            )
        seconds = [float(text) for text in place.run(_job(place, "scan", full)).split()]
        yield Line(
            what=f"a pass with nothing due / counting / finding an ID, {format_count(many)} waiting in 90 directories",
            result=" / ".join(f"{value * 1e3:.2f}" for value in seconds) + " ms",
            compared_with="",
            e3="",
            target="",
            target_met=None,
        )


def _job(place, *arguments):
    return place.python("event", place.jobs / "outbox.py", *arguments)


def _delivered(place, directory, count):
    """Deliver all waiting entries; return the seconds per entry and the peak memory in bytes."""
    seconds, number, peak = place.run(_job(place, "deliver", directory)).split()
    if int(number) != count:
        sys.exit(f"{number} of {count} entries were delivered")
    return float(seconds), int(peak)


def _medians(found):
    seconds, peaks = zip(*found, strict=True)
    return median(seconds), int(median(peaks))


def _delivery_lines(size, found):
    few, some, many = size.waiting
    numbers = " / ".join(map(format_count, size.waiting))
    ratio = found[many][0] / found[some][0]
    yield Line(
        what=f"entries delivered per second to a handler that does nothing, {numbers} waiting",
        result=" / ".join(f"{1 / found[count][0]:.0f}" for count in size.waiting) + " /s",
        compared_with=f"{format_ratio(ratio)} the time per entry with {format_count(some)}",
        e3="",
        target="1.05 x",
        target_met=within(ratio, 1.05),
    )
    peaks = [found[count][1] for count in (few, many)]
    yield Line(
        what=f"peak memory of a process that delivers {few} / {format_count(many)} entries",
        result=" / ".join(map(format_size, peaks)) if all(peaks) else "not available on this system",
        compared_with=f"{format_ratio(peaks[1] / peaks[0])} with {few}" if all(peaks) else "",
        e3="",
        target="1.02 x",
        target_met=within(peaks[1] / peaks[0], 1.02) if all(peaks) else None,
    )


def _slow_line(place, size):
    """Compare the delivery to a handler that takes 50 ms with the shortest possible time."""
    count = _JOBS * size.slow

    def once(_):
        with place.fresh_directory() as directory:
            place.run(_job(place, "fill-slow", directory, count))
            return _delivered(place, directory, count)[0]

    rate = 1 / median(map(once, range(size.repeats)))
    best = _JOBS / 0.05
    return Line(
        what=f"entries delivered in a second to a handler that takes 50 ms, {_JOBS} at once",
        result=f"{rate:.0f} /s",
        compared_with=f"{format_ratio(best / rate)} the shortest possible time, {best:.0f} /s",
        e3="",
        target="1.18 x",
        target_met=within(best / rate, 1 / 0.85),
    )


def measure_run(place, size):
    """Compare `e3-event send` and `run` with a bare interpreter, and `run` also with the command that it runs."""
    subjects = {
        "send": place.program("send", "step", "--quiet"),
        "run": place.program("run", "step", "--", *_TRUE),
        "true": _TRUE,
        "python": place.python("event", "-c", "pass"),
    }
    with place.fresh_directory() as events, place.fresh_directory() as outbox:
        environ = {"E3_EVENT_HANDLERS": f"file={events}", "E3_EVENT_OUTBOX": outbox}
        found = measure_in_turn(subjects, lambda command: place.seconds(command, **environ), size.processes)
    send, run, true, python = (found[name] for name in subjects)
    yield Line(
        what="`e3-event send step` with an outbox and the file handler, compared with `python -c pass`",
        result=f"{send * 1e3:.1f} ms",
        compared_with=f"{format_ratio(send / python)} `python -c pass`, {python * 1e3:.1f} ms",
        e3="",
        target="2.5 x",
        target_met=within(send / python, 2.5),
    )
    yield Line(
        what="`e3-event run step -- true` with an outbox and the file handler, compared with `true`",
        result=f"{run * 1e3:.1f} ms",
        compared_with=f"{(run - true) * 1e3:.1f} ms more than `true`; {format_ratio(run / python)} `python -c pass`",
        e3="",
        target="3 x",
        target_met=within(run / python, 3),
    )


ROWS = {"outbox": measure_outbox, "waiting": measure_waiting, "run": measure_run}
