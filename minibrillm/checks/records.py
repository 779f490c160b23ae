"""Settings that are checked when they are made, never change, and go to JSON and back."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from minibrillm.checks.errors import UserError


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may be: from ``low`` to ``high``; ``above``: but not ``low``."""

    low: float
    high: float = math.inf
    whole: bool = False
    above: bool = False
    endless: bool = False  # whether infinity is among them
    optional: bool = False  # whether it may be None

    def holds(self, value: object) -> bool:
        """Whether a value is such a number."""
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        inside = value > self.low if self.above else value >= self.low
        return inside and value <= self.high and (self.endless or value < math.inf)

    def __str__(self) -> str:
        kind = "an integer" if self.whole else "a number"
        bound = f"{'above' if self.above else 'at least'} {self.low:g}"
        return f"{kind} {bound}" + (f" and at most {self.high:g}" if self.high < math.inf else "")


class Record:
    """Base of frozen dataclasses.

    ``_ranges`` says which numbers are possible, ``_choices`` which words.
    """

    _ranges: ClassVar[Mapping[str, Range]] = {}
    _choices: ClassVar[Mapping[str, Collection[str]]] = {}

    def __post_init__(self) -> None:
        for name, allowed in self._choices.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in allowed:
                raise UserError(f"{self._said(name)}; choose one of {', '.join(allowed)}")
        for name, numbers in self._ranges.items():
            if not numbers.holds(getattr(self, name)):
                raise UserError(f"{self._said(name)}; expected {numbers}")
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if field.type == "bool" and not isinstance(getattr(self, field.name), bool):
                raise UserError(f"{self._said(field.name)}; expected true or false")

    def _said(self, name: str) -> str:
        return f"{type(self).__name__}.{name} is {getattr(self, name)!r}"

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary of every setting."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Self:
        """Build from a dictionary; an unknown key or an impossible value is refused by name."""
        if not isinstance(settings, dict):
            raise UserError(f"{cls.__name__}: expected a dictionary of settings, got {settings!r}")
        known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for key in settings:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise UserError(
                    f"{cls.__name__} has no setting {key!r}{hint}; it has {', '.join(known)}"
                )
        return cls(**settings)

    def replace(self, **changes: Any) -> Self:
        """A copy with some settings changed."""
        return type(self).from_json({**self.to_json(), **changes})
