"""Defaults of settings that depend on the device: full quality on a GPU, training within minutes on a CPU.

Such a setting has the default "auto", and its type is annotated with the value for each device:

    max_gaussians: Annotated[int | Auto, COUNT, ByDevice(cuda=3_000_000, cpu=60_000)] = "auto"

Values set by the user are never changed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_type_hints

import torch

T = TypeVar("T")
Device = Literal["cuda", "cpu"]
"""Type of the training device."""
Auto = Literal["auto"]
"""Placeholder for the default of the device."""


@dataclass(frozen=True)
class ByDevice:
    """Annotation of a dataclass field: the values that "auto" stands for."""

    cuda: Any
    """Value on a GPU."""
    cpu: Any
    """Value on a CPU."""

    def value(self, device: Device) -> Any:
        """Return the value for a device.

        Args:
            device: Type of the training device.
        """
        return self.cuda if device == "cuda" else self.cpu


def resolve_defaults(settings: T, device: Device) -> T:
    """Replace each "auto" by the default of a device.

    Args:
        settings: A dataclass of this package; nested dataclasses are resolved too.
        device: Type of the training device.

    Returns:
        The same object, modified; or a modified copy if it is frozen.
    """
    hints, changes = get_type_hints(type(settings), include_extras=True), {}
    for field in fields(settings):  # pyright: ignore[reportArgumentType] (T is any dataclass)
        value = getattr(settings, field.name)
        if is_dataclass(value) and type(value).__module__.startswith("nope_splat."):
            changes[field.name] = resolve_defaults(value, device)
        elif isinstance(value, str) and value == "auto":
            for annotation in getattr(hints[field.name], "__metadata__", ()):
                if isinstance(annotation, ByDevice):
                    changes[field.name] = annotation.value(device)
    if type(settings).__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
        return replace(settings, **changes)  # pyright: ignore[reportArgumentType, reportReturnType]
    for name, value in changes.items():
        setattr(settings, name, value)
    return settings


def resolved(value: T | Auto) -> T:
    """Return the value of a setting, after checking that its default was resolved.

    Args:
        value: Value of the setting.
    """
    assert not isinstance(value, str) or value != "auto", "call resolve_defaults first"
    return value  # pyright: ignore[reportReturnType]


def network_device(setting: Literal["auto", "cpu"]) -> torch.device:
    """Return the device for networks and matching, which do not depend on gsplat's kernels.

    Args:
        setting: "auto" for a GPU if there is one.
    """
    return torch.device("cuda" if setting == "auto" and torch.cuda.is_available() else "cpu")
