"""Kinds by name: of memory, of edges."""

from __future__ import annotations

from typing import TypeVar

from minibrillm.checks.errors import UserError

Kind = TypeVar("Kind")


def register(kinds: dict[str, Kind], name: str, kind: Kind) -> None:
    """Make a kind known by a name; a name that another class has is a `UserError`.

    The same class may come again, as when a notebook's cell is run twice.
    """
    known = kinds.get(name)
    if known is not None and type(known).__qualname__ != type(kind).__qualname__:
        raise UserError(
            f"the name {name!r} is that of {type(known).__qualname__}; choose another than "
            f"{', '.join(kinds)}"
        )
    kinds[name] = kind
