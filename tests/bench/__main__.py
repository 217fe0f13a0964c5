"""Measure e3-event and its peers in one run, and print the speed table: ``python tests/bench``."""

from __future__ import annotations

import argparse
import os
import sys

import handler_rows
import outbox_rows
import relay_rows
import rows
import table
import workplace
from measure import SIZES

# Each group has a page in docs/explanation.
GROUPS = {"speed": {**rows.ROWS, **outbox_rows.ROWS}, "scale": {**handler_rows.ROWS, **relay_rows.ROWS}}
ROWS = {name: row for group in GROUPS.values() for name, row in group.items()}


def parse(arguments):
    parser = argparse.ArgumentParser(prog="python tests/bench", description=__doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"measure only these rows or groups: {', '.join([*GROUPS, *ROWS])}"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: faster and less precise")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="one tiny round on this interpreter, to test the benchmark; its figures mean nothing",
    )
    parser.add_argument("--write", metavar="PAGE", help="also write the table to this page, between its markers")
    parser.add_argument(
        "--home",
        # tox sets this variable, and removes its environments when it recreates them.
        default=os.environ.get("TOX_ENV_DIR"),
        metavar="DIR",
        help="keep the peers' environments in DIR for the next run (default with tox: its environment)",
    )
    options = parser.parse_args(arguments)
    options.rows = [row for name in options.rows or GROUPS for row in GROUPS.get(name, [name])]
    if unknown := sorted(set(options.rows) - set(ROWS)):
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join([*GROUPS, *ROWS])}")
    return options


def main(arguments=None):
    """Measure, print the table, and write it to a page if requested."""
    options = parse(arguments)
    size = SIZES["smoke" if options.smoke else "quick" if options.quick else "full"]
    with workplace.without_peers() if options.smoke else workplace.with_peers(options.home) as place:
        lines = []
        for name in options.rows:
            print(f"measuring {name}", file=sys.stderr)
            lines += ROWS[name](place, size)
        text = f"{table.markdown(lines)}\n{table.circumstances(place)}\n"
    print(text)
    print(*table.missed_targets(lines), sep="\n", file=sys.stderr)
    if options.write:
        table.write(options.write, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
