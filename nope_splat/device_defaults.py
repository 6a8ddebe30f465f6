"""Defaults that depend on the device: full quality on a GPU; on a CPU, what trains within minutes.

A setting that depends on it has the default "auto", and its values stand beside it:

    max_gaussians: Annotated[int | Auto, COUNT, ByDevice(cuda=3_000_000, cpu=60_000)] = "auto"

What the user gives is kept, whatever the device.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_type_hints

import torch

T = TypeVar("T")
Device = Literal["cuda", "cpu"]
"""What a training runs on."""
Auto = Literal["auto"]


@dataclass(frozen=True)
class ByDevice:
    """Annotation of a dataclass field whose default is "auto": what that stands for."""

    cuda: Any
    """On a GPU."""
    cpu: Any
    """On a CPU."""

    def of(self, device: Device) -> Any:
        """The value on a device."""
        return self.cuda if device == "cuda" else self.cpu


def fill_in_defaults(settings: T, device: Device) -> T:
    """Replace each "auto" by the default of a device.

    Args:
        settings: A dataclass of this project; those in its fields are filled in too.
        device: Where the training runs.

    Returns:
        The same object, changed; if it is frozen, a changed copy.
    """
    hints, changes = get_type_hints(type(settings), include_extras=True), {}
    for field in fields(settings):  # pyright: ignore[reportArgumentType] (T is any dataclass)
        value = getattr(settings, field.name)
        if is_dataclass(value) and type(value).__module__.startswith("nope_splat."):
            changes[field.name] = fill_in_defaults(value, device)
        elif isinstance(value, str) and value == "auto":
            for note in getattr(hints[field.name], "__metadata__", ()):
                if isinstance(note, ByDevice):
                    changes[field.name] = note.of(device)
    if type(settings).__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
        return replace(settings, **changes)  # pyright: ignore[reportArgumentType, reportReturnType]
    for name, value in changes.items():
        setattr(settings, name, value)
    return settings


def chosen(value: T | Auto) -> T:
    """A setting that has been filled in, as its type says.

    Args:
        value: The setting.
    """
    assert not isinstance(value, str) or value != "auto", "fill_in_defaults comes first"
    return value  # pyright: ignore[reportReturnType]


def device_of_networks(setting: Literal["auto", "cpu"]) -> torch.device:
    """The device of networks and of matching, which need no kernels of gsplat.

    Args:
        setting: "auto" for a GPU where there is one.
    """
    return torch.device("cuda" if setting == "auto" and torch.cuda.is_available() else "cpu")
