"""Check the types and ranges of settings against the annotations of their dataclass fields.

Ranges are declared with `annotated_types`, for example `Annotated[float, Ge(0)]`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from annotated_types import Ge, Gt, Interval, Le, Lt
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from nope_splat.errors import NopeSplatError

POSITIVE = Gt(0)
NOT_NEGATIVE = Ge(0)
COUNT = Ge(1)
"""Range of a setting that is a count: 1 or more."""
SHARE = Interval(ge=0, le=1)
"""Range of a setting that is a fraction: 0 to 1."""
POSITIVE_SHARE = Interval(gt=0, le=1)
"""Range of a setting that is a positive fraction: more than 0, and at most 1."""

BOUNDS: dict[type, tuple[str, Callable[[float, Any], bool], str]] = {
    Gt: ("gt", operator.gt, "more than"),
    Ge: ("ge", operator.ge, "at least"),
    Lt: ("lt", operator.lt, "less than"),
    Le: ("le", operator.le, "at most"),
}
"""For each type of bound: name of the attribute that contains the limit, function that compares a value with
the limit, and words for error messages."""


LARGEST_INTEGER = 2**63 - 1
"""Largest integer that fits into an int64 array or tensor."""
TYPE_NAMES: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path",
    NoneType: "None",
}
"""Words for types in error messages."""


def set_missing_to_defaults(settings: Any) -> None:
    """Set the fields that a dataclass lacks to their default values, in place.

    A configuration file of an earlier version lacks the options that were added later.

    Args:
        settings: A dataclass, as read from a file. Fields that are dataclasses of this package are completed
            too.
    """
    for field in fields(settings):
        if not hasattr(settings, field.name):
            if field.default_factory is not MISSING:
                object.__setattr__(settings, field.name, field.default_factory())
            elif field.default is not MISSING:
                object.__setattr__(settings, field.name, field.default)
        value = getattr(settings, field.name, None)
        if type(value).__module__.startswith("nope_splat.") and is_dataclass(value):
            set_missing_to_defaults(value)


def check_ranges(settings: Any, prefix: str = "") -> None:
    """Check that every field of a dataclass has the annotated type and lies in the annotated range.

    If the type allows None or "auto", these values pass every range check. NaN passes no range check.

    Args:
        settings: A dataclass. Fields that contain dataclasses of this package are checked too.
        prefix: Start of the option names in error messages, for example `"pipeline."`.

    Raises:
        NopeSplatError: If a value is missing, has the wrong type or is out of range.
    """
    hints: dict[str, Any] = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        name = prefix + field.name.strip("_").replace("_", "-")
        if not hasattr(settings, field.name):
            raise NopeSplatError("invalid-option", f"{name} is required but not set")
        value: Any = getattr(settings, field.name)
        _check_type(name, value, hints[field.name])
        if type(value).__module__.startswith("nope_splat.") and is_dataclass(value):
            check_ranges(value, prefix if _is_unnamed(hints[field.name]) else f"{name}.")
            continue
        bounds = list(_bounds(getattr(hints[field.name], "__metadata__", ())))
        if value is None or value == "auto":
            continue
        if not all(compare(value, limit) for compare, _, limit in bounds):
            allowed = " and ".join(f"{words} {limit:g}" for _, words, limit in bounds)
            raise NopeSplatError("invalid-option", f"{name} is {_brief(value)}, but must be {allowed}")


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Check that a value has the annotated type, and that an integer fits into 64 bits.

    Args:
        name: Name of the option, for the error message.
        value: Value of the option.
        hint: Type annotation of the option.

    Raises:
        NopeSplatError: If the value has the wrong type or is too large.
    """
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise NopeSplatError("invalid-option", f"{name} must be an integer of at most 64 bits")
    try:
        check_type(
            value.item() if isinstance(value, np.generic) else value,
            hint,
            collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS,
        )
    except TypeCheckError as error:
        raise NopeSplatError(
            "invalid-option", f"{name} is {_brief(value)}, but must be {_describe(hint)}"
        ) from error


def _describe(hint: Any) -> str:
    """Describe in words the values that a type annotation allows, for example "a number or None"."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return _describe(arguments[0])
    if kind is Literal:
        return " or ".join(map(str, arguments))
    if kind in (Union, UnionType):
        return " or ".join(map(_describe, arguments))
    if kind is not None:
        return f"{kind.__name__} of {', '.join(_describe(a) for a in arguments if a is not ...)}"
    return TYPE_NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def _is_unnamed(hint: Any) -> bool:
    """Check whether a field has `tyro.conf.arg(name="")`, so that nested options omit the field's name.

    `hint` is the type annotation of the field.
    """
    return any(getattr(item, "name", None) == "" for item in getattr(hint, "__metadata__", ()))


def _brief(value: object) -> str:
    """Format a value for an error message, in about 100 characters.

    Numbers, strings, paths, None and short lists of such values are printed. Only the type of other values is
    printed, because their text may be very long.
    """
    parts = value if isinstance(value, list | tuple) and len(value) <= 5 else [value]
    text = str(value) if all(map(_is_simple, parts)) else f"of type {type(value).__name__}"
    text = " ".join(text.split())  # texts in `config.yml` may have several lines
    return text if len(text) <= 100 else f"{text[:100]}..."


def _is_simple(value: object) -> bool:
    """Check whether a value is None, a string, a path, a float, or an integer of at most 64 bits."""
    if isinstance(value, int):
        return abs(value) <= LARGEST_INTEGER  # Python refuses to format integers of thousands of digits
    return value is None or isinstance(value, float | str | Path)


def _bounds(metadata: tuple[Any, ...]) -> Iterator[tuple[Callable[[float, Any], bool], str, float]]:
    """Yield the bounds in the annotation of a field.

    Args:
        metadata: Metadata of the field's `Annotated` type.

    Yields:
        Function that compares a value with the limit, words for the comparison, and limit.
    """
    for item in metadata:
        for bound in item if isinstance(item, Interval) else (item,):
            if type(bound) in BOUNDS:
                attribute, compare, words = BOUNDS[type(bound)]
                yield compare, words, getattr(bound, attribute)
