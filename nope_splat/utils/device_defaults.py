"""Settings whose default depends on the training device.

Such a setting has the default "auto", and its type annotation contains the value of "auto" for each device:

    max_gaussians: Annotated[int | Auto, COUNT, ByDevice(cuda=3_000_000, cpu=60_000)] = "auto"

Only the value "auto" is replaced; values set by the user are kept. The values for a GPU aim at full quality,
the values for a CPU at a training time of minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_type_hints

import torch

T = TypeVar("T")
Device = Literal["cuda", "cpu"]
"""Type of the training device."""
Auto = Literal["auto"]
"""Type of the value "auto", which stands for a default that depends on the training device."""


@dataclass(frozen=True)
class ByDevice:
    """Annotation of a dataclass field: the value of "auto" on each training device."""

    cuda: Any
    """Value when training on a GPU."""
    cpu: Any
    """Value when training on a CPU."""

    def value(self, device: Device) -> Any:
        """Return the value that replaces "auto" on a device.

        Args:
            device: Type of the training device.
        """
        return self.cuda if device == "cuda" else self.cpu


def resolve_defaults(settings: T, device: Device) -> T:
    """Replace the value "auto" in the fields of a dataclass by the defaults for a device.

    Args:
        settings: A dataclass. Fields that contain dataclasses of this package are resolved too. Fields
            without a `ByDevice` annotation are not changed.
        device: Type of the training device.

    Returns:
        `settings` itself, modified in place; a modified copy if the dataclass is frozen.
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
    """Return the value of a setting; assert that `resolve_defaults` has replaced "auto".

    Args:
        value: Value of the setting, not "auto".
    """
    assert not isinstance(value, str) or value != "auto", "call resolve_defaults first"
    return value  # pyright: ignore[reportReturnType]


def network_device(setting: Literal["auto", "cpu"]) -> torch.device:
    """Return the device for networks and matching, which can use a GPU without gsplat's kernels.

    Args:
        setting: "auto" selects the GPU if PyTorch finds one, else the CPU; "cpu" selects the CPU.
    """
    return torch.device("cuda" if setting == "auto" and torch.cuda.is_available() else "cpu")
