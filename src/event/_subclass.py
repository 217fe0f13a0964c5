"""Read what a subclass adds to the state of an object, for copy and pickle."""

from __future__ import annotations

from types import MemberDescriptorType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def state_of_subclass(value: object, base: type) -> dict[str, Any]:
    """Return the attributes that a subclass of `base` stores in ``__dict__`` or in its own slots."""
    state: dict[str, Any] = {}
    for kind in type(value).__mro__:
        if not issubclass(base, kind):
            for name, member in vars(kind).items():
                if name == "__dict__":
                    state.update(object.__getattribute__(value, name))
                elif type(member) is MemberDescriptorType:  # a slot
                    try:
                        state[name] = member.__get__(value)
                    except AttributeError:
                        pass  # not set
    return state
