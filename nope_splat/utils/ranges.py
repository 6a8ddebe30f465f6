"""Check that settings are within the ranges that `annotated_types` declare on dataclass fields."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt

from nope_splat.errors import NopeSplatError

POSITIVE = Gt(0)
NOT_NEGATIVE = Ge(0)
COUNT = Ge(1)
SHARE = Interval(ge=0, le=1)
POSITIVE_SHARE = Interval(gt=0, le=1)

BOUNDS: dict[type, tuple[str, Callable[[float, Any], bool], str]] = {
    Gt: ("gt", operator.gt, "more than"),
    Ge: ("ge", operator.ge, "at least"),
    Lt: ("lt", operator.lt, "less than"),
    Le: ("le", operator.le, "at most"),
}
"""Attribute, comparison and words of each kind of bound."""


def check_ranges(settings: Any) -> None:
    """Check every setting of this project that has a range; None and "auto" are always allowed.

    Args:
        settings: A dataclass; dataclasses of this project in its fields are checked too.

    Raises:
        NopeSplatError: If a value lies outside its range; NaN lies outside every range.
    """
    hints: dict[str, Any] = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        value: Any = getattr(settings, field.name)
        if type(value).__module__.startswith("nope_splat.") and is_dataclass(value):
            check_ranges(value)
            continue
        bounds = list(_bounds(getattr(hints[field.name], "__metadata__", ())))
        if value is None or value == "auto":
            continue
        if not all(compare(float(value), limit) for compare, _, limit in bounds):
            allowed = " and ".join(f"{words} {limit:g}" for _, words, limit in bounds)
            raise NopeSplatError(
                "invalid-option", f"{field.name.replace('_', '-')} is {value}, but must be {allowed}"
            )


def _bounds(metadata: tuple[Any, ...]) -> Iterator[tuple[Callable[[float, Any], bool], str, float]]:
    """Comparison, words and limit of each bound in the annotation of a field."""
    for item in metadata:
        for bound in item if isinstance(item, Interval) else (item,):
            if type(bound) in BOUNDS:
                attribute, compare, words = BOUNDS[type(bound)]
                yield compare, words, getattr(bound, attribute)
