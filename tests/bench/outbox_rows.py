"""The rows about the outbox, `send` and `run`: the library compared with itself, without or with less in the outbox.

e3.event has neither.
"""

from __future__ import annotations

import sys
from statistics import median

from measure import Line, amount, fold, grouped, in_turn, micro, within

_JOBS = 8  # deliveries at once, as `e3-event deliver` does by default
_ENTRY = 16 << 10  # bytes of an entry that waits, with what the file system adds
_TRUE = ["cmd", "/c", "exit 0"] if sys.platform == "win32" else ["true"]


def measure_kept(place, size):
    """Compare sending through an outbox with sending without."""
    for operation, on_disk, what in (
        ("", False, "sending an event to the file handler with an outbox, compared with none"),
        ("_file", False, "the same with a 100 KB attachment"),
        ("_file", True, "the same with the outbox on a disk, to which each event is synced"),
    ):
        found = in_turn(
            {kind: kind for kind in ("keep", "tell")}, _sending(place, size, operation, on_disk), size.repeats
        )
        yield Line(
            what=what,
            ours=micro(found["keep"]),
            beside=f"{fold(found['keep'] / found['tell'])} without, {micro(found['tell'])}",
            e3="",
            reach="",
            reached=None,
        )


def _sending(place, size, operation, on_disk):
    count = max(1, int((2 if on_disk else 5) * size.share))

    def once(kind):
        command = place.python("event", place.jobs / "micro.py", kind + operation, "event", place.attachment)
        with place.fresh_directory(on_disk=on_disk) as directory:
            return float(place.run([*command, directory, str(count)]))

    return once


def measure_waiting(place, size):
    """Compare an outbox in which very many entries wait with one in which few or none do."""
    few, some, many = size.waiting
    with (
        place.fresh_directory(room=many * _ENTRY) as full,
        place.fresh_directory(room=many * _ENTRY) as empty,
    ):
        place.run(_job(place, "fill", full, many))
        yield _put_line(place, size, full, empty)
        place.run(_job(place, "fill", empty, some))
        yield _list_line(place, size, full, empty)
        yield from _look_lines(place, size)
        runs = {few: [], some: []}
        for count in [few, some] * size.repeats:
            with place.fresh_directory(room=many * _ENTRY) as directory:
                place.run(_job(place, "fill", directory, count))
                runs[count].append(_delivered(place, directory, count))
        runs[many] = [_delivered(place, full, many)]  # once: the others tell how much that varies
    yield from _delivery_lines(size, {count: _medians(found) for count, found in runs.items()})
    yield _slow_line(place, size)


def _put_line(place, size, full, empty):
    count = max(1, int(20 * size.share))
    found = in_turn(
        {"full": full, "empty": empty}, lambda path: float(place.run(_job(place, "put", path, count))), size.repeats
    )
    ratio = found["full"] / found["empty"]
    return Line(
        what=f"putting an event into an outbox with {grouped(size.waiting[-1])} waiting, compared with an empty one",
        ours=micro(found["full"]),
        beside=f"{fold(ratio)} empty, {micro(found['empty'])}",
        e3="",
        reach="1.05 x",
        reached=within(ratio, 1.05),
    )


def _list_line(place, size, full, empty):
    found = in_turn(
        {
            path: place.python("event", "-m", "event", "outbox", "list", "--outbox", f"{path}/outbox")
            for path in (full, empty)
        },
        place.seconds_to_first_line,
        size.processes,
    )
    ratio = found[full] / found[empty]
    _, some, many = size.waiting
    return Line(
        what=f"first line of `e3-event outbox list` with {grouped(many)} waiting, compared with {grouped(some)}",
        ours=f"{found[full] * 1e3:.1f} ms",
        beside=f"{fold(ratio)} with {grouped(some)}, {found[empty] * 1e3:.1f} ms",
        e3="",
        reach="1.10 x",
        reached=within(ratio, 1.1),
    )


def _look_lines(place, size):
    """Compare what is done with an outbox of very many entries, of which none is due, with one of a few."""
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
            found = in_turn(
                {path: place.python("event", "-m", "event", *words, f"{path}/outbox") for path in (full, empty)},
                place.seconds,
                size.processes,
            )
            ratio = found[full] / found[empty]
            yield Line(
                what=f"{what}, {grouped(many)} waiting, compared with {grouped(few)}",
                ours=f"{found[full] * 1e3:.1f} ms",
                beside=f"{fold(ratio)} with {grouped(few)}, {found[empty] * 1e3:.1f} ms",
                e3="",
                reach="1.20 x",
                reached=within(ratio, 1.2),
            )
        seconds = [float(text) for text in place.run(_job(place, "look", full)).split()]
        yield Line(
            what=f"a pass with nothing due / counting / finding an ID, {grouped(many)} waiting in 90 directories",
            ours=" / ".join(f"{value * 1e3:.2f}" for value in seconds) + " ms",
            beside="",
            e3="",
            reach="",
            reached=None,
        )


def _job(place, *arguments):
    return place.python("event", place.jobs / "outbox.py", *arguments)


def _delivered(place, directory, count):
    """Deliver what waits; return the seconds of one, and the peak of memory."""
    seconds, number, peak = place.run(_job(place, "deliver", directory)).split()
    if int(number) != count:
        sys.exit(f"{number} of {count} entries were delivered")
    return float(seconds), int(peak)


def _medians(found):
    seconds, peaks = zip(*found, strict=True)
    return median(seconds), int(median(peaks))


def _delivery_lines(size, found):
    few, some, many = size.waiting
    numbers = " / ".join(map(grouped, size.waiting))
    ratio = found[many][0] / found[some][0]
    yield Line(
        what=f"entries delivered per second to a handler that does nothing, {numbers} waiting",
        ours=" / ".join(f"{1 / found[count][0]:.0f}" for count in size.waiting) + " /s",
        beside=f"{fold(ratio)} the time per entry with {grouped(some)}",
        e3="",
        reach="1.05 x",
        reached=within(ratio, 1.05),
    )
    peaks = [found[count][1] for count in (few, many)]
    yield Line(
        what=f"peak memory of a process that delivers {few} / {grouped(many)} entries",
        ours=" / ".join(map(amount, peaks)) if all(peaks) else "not available on this system",
        beside=f"{fold(peaks[1] / peaks[0])} with {few}" if all(peaks) else "",
        e3="",
        reach="1.02 x",
        reached=within(peaks[1] / peaks[0], 1.02) if all(peaks) else None,
    )


def _slow_line(place, size):
    """Compare the delivery to a handler that takes 50 ms with as many such handlers side by side."""
    count = _JOBS * size.slow

    def once(_):
        with place.fresh_directory() as directory:
            place.run(_job(place, "fill-slow", directory, count))
            return _delivered(place, directory, count)[0]

    rate = 1 / median(map(once, range(size.repeats)))
    best = _JOBS / 0.05
    return Line(
        what=f"entries delivered in a second to a handler that takes 50 ms, {_JOBS} at once",
        ours=f"{rate:.0f} /s",
        beside=f"{fold(best / rate)} the shortest possible time, {best:.0f} /s",
        e3="",
        reach="1.18 x",
        reached=within(best / rate, 1 / 0.85),
    )


def measure_run(place, size):
    """Compare the program's `send` and `run` with a bare interpreter, and `run` with the command that it runs."""
    subjects = {
        "send": place.program("send", "step", "--quiet"),
        "run": place.program("run", "step", "--", *_TRUE),
        "true": _TRUE,
        "python": place.python("event", "-c", "pass"),
    }
    with place.fresh_directory() as events, place.fresh_directory() as outbox:
        environ = {"E3_EVENT_HANDLERS": f"file={events}", "E3_EVENT_OUTBOX": outbox}
        found = in_turn(subjects, lambda command: place.seconds(command, **environ), size.processes)
    send, run, true, python = (found[name] for name in subjects)
    yield Line(
        what="`e3-event send step` with an outbox and the file handler, compared with `python -c pass`",
        ours=f"{send * 1e3:.1f} ms",
        beside=f"{fold(send / python)} `python -c pass`, {python * 1e3:.1f} ms",
        e3="",
        reach="2.5 x",
        reached=within(send / python, 2.5),
    )
    yield Line(
        what="`e3-event run step -- true` with an outbox and the file handler, compared with `true`",
        ours=f"{run * 1e3:.1f} ms",
        beside=f"{(run - true) * 1e3:.1f} ms more than `true`; {fold(run / python)} `python -c pass`",
        e3="",
        reach="3 x",
        reached=within(run / python, 3),
    )


ROWS = {"outbox": measure_kept, "waiting": measure_waiting, "run": measure_run}
