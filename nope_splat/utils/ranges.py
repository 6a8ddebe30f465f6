"""Ranges of settings, which stand beside the settings and are checked before any work begins."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from nope_splat.errors import NopeSplatError


@dataclass(frozen=True)
class Range:
    """Annotation of a dataclass field: the numbers that make sense."""

    low: float
    """Smallest value."""
    high: float = math.inf
    """Largest value."""
    open: bool = False
    """Whether `low` itself is excluded."""

    def holds(self, value: float) -> bool:
        """Whether a value lies within; NaN does not."""
        return (self.low < value if self.open else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        lower = f"{'more than' if self.open else 'at least'} {self.low:g}"
        return lower if self.high == math.inf else f"{lower} and at most {self.high:g}"


POSITIVE = Range(0, open=True)
NOT_NEGATIVE = Range(0)
COUNT = Range(1)
SHARE = Range(0, 1)
POSITIVE_SHARE = Range(0, 1, open=True)


def check_ranges(settings: Any) -> None:
    """Check every setting of this project that has a range; None and "auto" are always allowed.

    Args:
        settings: A dataclass; dataclasses of this project in its fields are checked too.

    Raises:
        NopeSplatError: If a value lies outside its range.
    """
    hints: dict[str, Any] = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        value: Any = getattr(settings, field.name)
        if type(value).__module__.startswith("nope_splat.") and is_dataclass(value):
            check_ranges(value)
            continue
        for allowed in getattr(hints[field.name], "__metadata__", ()):
            if not isinstance(allowed, Range) or value is None or value == "auto":
                continue
            if not allowed.holds(float(value)):
                raise NopeSplatError(
                    "invalid-option", f"{field.name.replace('_', '-')} is {value}, but must be {allowed}"
                )
