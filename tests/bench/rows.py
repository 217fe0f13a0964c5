"""The rows about the library, each with its target."""

from __future__ import annotations

from measure import Line, format_ratio, format_size, format_us, measure_in_turn, within


def measure_import(place, size):
    """Compare a process that imports the library with one that does nothing, in the same environment."""
    commands = {
        (library, code): place.python(library, "-c", code)
        for library in ("event", "e3.event")
        if place.has(library)
        for code in ("pass", f"import {library}")
    }
    times = measure_in_turn(commands, place.seconds, size.processes)
    yield _processes(
        "process that runs `import event`, compared with `python -c pass`",
        ours=times["event", "import event"],
        base=("`python -c pass`", times["event", "pass"]),
        e3=(times.get(("e3.event", "import e3.event")), times.get(("e3.event", "pass"))),
        most=1.15,
    )


def measure_script(place, size):
    """Compare a script that sends an event with one that does the same work by hand."""
    times = _scripts(place, size, "file", "by_hand.py")
    yield _processes(
        "script that sends an event with a 100 KB attachment to the file handler, compared with the same by hand",
        ours=times["event", "library"],
        base=("by hand", times["event", "hand"]),
        e3=(times.get(("e3.event", "library")), times.get(("e3.event", "hand"))),
        most=1.0,
    )


def measure_plugin(place, size):
    """Do the same with a handler that is installed as a plugin."""
    times = _scripts(place, size, "bench", "by_hand_with_plugin.py")
    yield _processes(
        "the same with a plugin's handler, compared with the same by hand plus `importlib.metadata`",
        ours=times["event", "library"],
        base=("by hand", times["event", "hand"]),
        e3=(times.get(("e3.event", "library")), times.get(("e3.event", "hand"))),
        most=1.05,
    )


def _scripts(place, size, handler, by_hand):
    scripts = {}
    for library, script in (("event", "with_event.py"), ("e3.event", "with_e3.py")):
        if place.has(library):
            scripts[library, "library"] = place.python(library, place.jobs / script, handler)
            scripts[library, "hand"] = place.python(library, place.jobs / by_hand)

    def once(command):
        with place.fresh_directory() as directory:
            return place.seconds([*command, str(place.attachment), directory])

    return measure_in_turn(scripts, once, size.processes)


def _processes(what, *, ours, base, e3, most):
    name, seconds = base
    theirs, their_base = e3
    return Line(
        what=what,
        result=f"{ours * 1e3:.1f} ms",
        compared_with=f"{format_ratio(ours / seconds)} {name}, {seconds * 1e3:.1f} ms",
        e3=f"{format_ratio(theirs / their_base)}" if theirs else "",
        target=format_ratio(most),
        target_met=within(ours / seconds, most),
    )


def operation_row(what, operation, count, most):
    """Return a function that compares one operation with that of e3.event."""

    def measure(place, size):
        ours, theirs = [*_operation(place, size, operation, count, ("event", "e3.event")), None][:2]
        yield Line(
            what=what,
            result=format_us(ours),
            compared_with=f"{format_ratio(ours / theirs)} e3.event" if theirs else "",
            e3=format_us(theirs) if theirs else "",
            target=format_ratio(most),
            target_met=within(ours / theirs, most) if theirs else None,
        )

    return measure


def _operation(place, size, operation, count, libraries):
    """Return the seconds per operation for each installed library."""
    count = max(1, int(count * size.share))

    def once(library):
        command = place.python(library, place.jobs / "micro.py", operation, library)
        with place.fresh_directory() as directory:
            return float(place.run([*command, str(place.attachment), directory, str(count)]))

    return list(measure_in_turn({name: name for name in libraries if place.has(name)}, once, size.repeats).values())


def measure_send(place, size):
    """Compare the overhead of the manager with that of two libraries that only call functions."""
    libraries = [name for name in ("event", "e3.event", "blinker", "pluggy") if place.has(name)]
    one = dict(zip(libraries, _operation(place, size, "send1", 10_000, libraries), strict=True))
    ten = dict(zip(libraries, _operation(place, size, "send10", 3_000, libraries), strict=True))
    ratios = {name: (one["event"] / one[name], ten["event"] / ten[name]) for name in libraries[1:]}
    yield Line(
        what="sending to 1 / 10 handlers that do nothing",
        result=_two(one, ten, "event"),
        compared_with="; ".join(f"{a:.2f} / {b:.2f} x {name}" for name, (a, b) in ratios.items()),
        e3=_two(one, ten, "e3.event") if "e3.event" in ratios else "",
        target="2 x e3.event, 0.33 x blinker and pluggy",
        target_met=all(within(max(pair), 2 if name == "e3.event" else 1 / 3) for name, pair in ratios.items())
        if ratios
        else None,
    )


def _two(one, ten, name):
    return f"{one[name] * 1e6:.2f} / {ten[name] * 1e6:.2f} us"


def measure_attach(place, size):
    """Compare attaching a big file with hashing it by the standard library."""
    path = place.scratch / "big"
    with open(path, "wb") as file:
        file.truncate(size.big)  # sparse if the file system supports it, so that the disk does not count
    peaks = {}

    def once(library):
        seconds, peak = place.run(place.python(library, place.jobs / "attach.py", library, path)).split()
        peaks[library] = int(peak)
        return float(seconds)

    times = measure_in_turn(
        {name: name for name in ("event", "hashlib", "e3.event") if place.has(name)}, once, size.attaches
    )
    path.unlink()
    ratio = times["event"] / times["hashlib"]
    yield Line(
        what=f"`attach_file` with {format_size(size.big)}, compared with `hashlib.file_digest`",
        result=f"{times['event']:.2f} s, {format_size(peaks['event'])}",
        compared_with=f"{format_ratio(ratio)} file_digest, {times['hashlib']:.2f} s",
        e3=format_ratio(times["e3.event"] / times["hashlib"]) if "e3.event" in times else "",
        target="1.00 x, 1 MiB of memory",
        target_met=within(ratio, 1) and within(peaks["event"], 1 << 20),
    )


def measure_memory(place, size):
    """Measure the memory of an event."""
    held = {
        library: float(place.run(place.python(library, place.jobs / "memory.py", library, size.events)))
        for library in ("event", "e3.event")
        if place.has(library)
    }
    yield Line(
        what="memory of an event with 3 values",
        result=f"{held['event']:.0f} B",
        compared_with=f"{format_ratio(held['event'] / held['e3.event'])} e3.event" if "e3.event" in held else "",
        e3=f"{held['e3.event']:.0f} B" if "e3.event" in held else "",
        target="650 B",
        target_met=held["event"] <= 650,
    )


ROWS = {
    "import": measure_import,
    "script": measure_script,
    "plugin": measure_plugin,
    "create": operation_row("creating an event with 3 values", "create", 1_000, 0.5),
    "as_dict": operation_row("`as_dict` of a closed event", "as_dict", 1_000, 0.65),
    "dump": operation_row("`dump`: write it to a file, atomically", "dump", 20, 0.75),
    "load": operation_row("`load`: read that file", "load", 100, 0.6),
    "file": operation_row("file handler, event with a 100 KB attachment", "file", 5, 0.7),
    "send": measure_send,
    "attach": measure_attach,
    "memory": measure_memory,
}
