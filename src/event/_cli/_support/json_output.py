"""Print the JSON documents of ``--json``. Their ``version`` changes when the format changes.

docs/reference/formats.md describes the documents.
"""

from __future__ import annotations

from event._cli._support import terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from event._worker import Result

VERSION = 1


def print_json(**content: Any) -> None:
    from event import _json

    terminal.print_out(_json.dumps({"version": VERSION, **content}, indent=2))


def result_as_dict(result: Result, rest: str = "") -> dict[str, Any]:
    state = "skipped" if result.skipped else "delivered" if result.ok else rest
    return {
        "handler": result.handler,
        "state": state,
        "error": result.error or None,
        "warning": result.said or None if result.ok else None,
        "seconds": round(result.seconds, 3),
    }
