"""``python -m event``: the command line."""

from __future__ import annotations

import sys

from event._cli import main

# A handler that starts processes imports this module again in each of them, under another name.
if __name__ == "__main__":
    sys.exit(main())
