"""``python -m event``: the command line."""

from __future__ import annotations

import sys

from event._cli import program

# multiprocessing imports this module again in each process that it starts, under another name.
if __name__ == "__main__":
    sys.exit(program())
