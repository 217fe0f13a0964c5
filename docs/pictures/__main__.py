"""Draw the pictures of the documentation again, each from a real run: ``python docs/pictures``."""

from __future__ import annotations

import argparse
from pathlib import Path

import gallery

STATIC = Path(__file__).parents[1] / "_static"


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python docs/pictures", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these of: {', '.join(gallery.PICTURES)}")
    parser.add_argument("--into", metavar="DIR", type=Path, default=STATIC, help="default: docs/_static")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(gallery.PICTURES)):
        parser.error(f"no such picture: {', '.join(unknown)}; there are {', '.join(gallery.PICTURES)}")
    return options


if __name__ == "__main__":
    options = parse()
    for name in options.names or gallery.PICTURES:
        print(gallery.write(name, options.into))
