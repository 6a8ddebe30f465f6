"""Whether training can run on the device that was asked for; told before any work begins."""

from __future__ import annotations

from typing import Literal

import torch

from nope_splat.errors import UserError
from nope_splat.splatting.cuda_kernels import MissingKernelsError, prepare_kernels


def require_device(device: Literal["cpu", "cuda", "mps"]) -> None:
    """Check that there is a GPU where one was asked for, and that gsplat has kernels for it.

    gsplat compiles its kernels on first use, which takes minutes, nvcc and a C++ compiler; without these it
    has none, and fails in the middle of the first iteration.

    Args:
        device: Of `machine.device_type`.

    Raises:
        UserError: If training cannot run there.
    """
    if device == "cpu":
        return
    if device != "cuda":
        raise UserError(f"machine.device-type is {device}, which has no rasterizer; choose cpu or cuda")
    if not torch.cuda.is_available():
        raise UserError("machine.device-type is cuda, but torch finds no GPU here; choose cpu")
    try:
        prepare_kernels()
    except MissingKernelsError as error:
        raise UserError(f"{error.sentence}; or train with --machine.device-type cpu") from error
