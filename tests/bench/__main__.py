"""Print the speed table, ours and the peers' measured in one run: ``python tests/bench``."""

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

# A page each, in docs/explanation.
GROUPS = {"speed": {**rows.ROWS, **outbox_rows.ROWS}, "scale": {**handler_rows.ROWS, **relay_rows.ROWS}}
ROWS = {name: row for group in GROUPS.values() for name, row in group.items()}


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python tests/bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"only these of: {', '.join([*GROUPS, *ROWS])}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: less certain, and done sooner")
    parser.add_argument("--smoke", action="store_true", help="one tiny round on this interpreter alone; shows nothing")
    parser.add_argument("--write", metavar="PAGE", help="write the table into a page too, between its markers")
    parser.add_argument(
        "--home",
        # tox tells where its environment is, and removes it with the rest.
        default=os.environ.get("TOX_ENV_DIR"),
        metavar="DIR",
        help="keep the peers' environments here for the next run (default: tox's environment, else they are removed)",
    )
    options = parser.parse_args(arguments)
    options.rows = [row for name in options.rows or GROUPS for row in GROUPS.get(name, [name])]
    if unknown := sorted(set(options.rows) - set(ROWS)):
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join([*GROUPS, *ROWS])}")
    return options


def main(arguments=None):
    """Measure, print the table, and write it where that is asked for."""
    options = parse(arguments)
    size = SIZES["smoke" if options.smoke else "quick" if options.quick else "full"]
    with workplace.bare() if options.smoke else workplace.prepared(options.home) as place:
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
