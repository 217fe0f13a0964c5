"""The standard module `signal` without its enums, whose import takes a third as long as the start of an interpreter.

`_signal` is the C part of `signal`: the same functions and constants, with plain integers as signal numbers.
"""

from __future__ import annotations

__all__ = ["signal", "signal_name"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    try:
        import _signal as signal
    except ImportError:  # pragma: no cover  # platform: not CPython
        import signal


def signal_name(number: int) -> str:
    """Return the name of a signal, such as ``SIGTERM``; empty for one without a name, such as a real-time signal."""
    names = [name for name in dir(signal) if name.startswith("SIG") and "_" not in name]
    return next((name for name in names if getattr(signal, name) == number), "")  # SIGABRT, which is also SIGIOT
