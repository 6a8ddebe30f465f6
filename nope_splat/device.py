"""Where a training runs, and where networks and matching do.

The device that trains is `machine.device_type`. Its default, "auto", becomes the GPU where there is one that
gsplat has kernels for, and the CPU elsewhere; from then on the configuration holds what was used.
"""

from __future__ import annotations

import importlib
from typing import Literal

import torch

from nope_splat.errors import UserError
from nope_splat.progress import say

Device = Literal["cuda", "cpu"]
"""What a training runs on."""


def choose_device() -> Device:
    """Choose the device of a training whose user has not asked for one.

    Returns:
        "cuda" where there is a GPU with kernels; otherwise "cpu", with a sentence if a GPU goes unused.
    """
    if not torch.cuda.is_available():
        return "cpu"
    reason = missing_kernels()
    if reason is None:
        return "cuda"
    say(f"Using the CPU, although there is a GPU: {reason}.")
    return "cpu"


def require_device(device: str) -> None:
    """Check that training can run on the device that the user asked for.

    Args:
        device: Of `machine.device_type`.

    Raises:
        UserError: If there is no GPU, or gsplat has no kernels for it.
    """
    if device == "cpu":
        return
    if device != "cuda":
        raise UserError(f"machine.device-type is {device}, which has no rasterizer; choose cpu or cuda")
    if not torch.cuda.is_available():
        raise UserError("machine.device-type is cuda, but torch finds no GPU here; choose cpu")
    reason = missing_kernels()
    if reason is not None:
        raise UserError(f"machine.device-type is cuda, but {reason}; or choose cpu")


def missing_kernels() -> str | None:
    """Find out why gsplat cannot rasterize on the GPU; None if it can."""
    try:
        missing = importlib.import_module("gsplat.cuda._backend")._C is None and "there is no nvcc"
    except Exception as error:  # compilers fail in many ways
        missing = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if not missing:
        return None
    return f"gsplat has no kernels for this GPU and cannot compile them ({missing})"


def device_of_networks(setting: Literal["auto", "cpu"]) -> torch.device:
    """The device of networks and of matching, which need no kernels of gsplat.

    Args:
        setting: "auto" for a GPU where there is one.
    """
    return torch.device("cuda" if setting == "auto" and torch.cuda.is_available() else "cpu")
