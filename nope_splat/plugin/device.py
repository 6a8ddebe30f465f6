"""Choose and check the training device (option `machine.device_type`).

The default "auto" is replaced by "cuda" if gsplat has kernels for the GPU, else by "cpu". The saved
configuration thus contains the device on which the model was trained.
"""

from __future__ import annotations

import logging

import torch

from nope_splat.errors import NopeSplatError
from nope_splat.splatting.rasterizer.cuda_kernels import MissingKernelsError, prepare_kernels
from nope_splat.utils.device_defaults import Device

logger = logging.getLogger(__name__)


def choose_device() -> Device:
    """Choose the training device if the option `machine.device_type` is "auto".

    If a GPU is available but cannot be used, a warning is logged.

    Returns:
        "cuda" if gsplat has kernels for the GPU, else "cpu".
    """
    if not torch.cuda.is_available():
        return "cpu"
    error = try_prepare_kernels()
    if error is None:
        return "cuda"
    logger.warning(f"Using the CPU although a GPU is available: {error.sentence}.")
    return "cpu"


def require_device(device: str) -> None:
    """Check that a rasterizer is available for a device.

    Args:
        device: Value of `machine.device_type`.

    Raises:
        NopeSplatError: If the device is not "cpu" or "cuda". For "cuda", also if PyTorch finds no GPU, or if
            gsplat has no kernels for the GPU.
    """
    if device == "cpu":
        return
    if device != "cuda":
        raise NopeSplatError(
            "invalid-option", f"machine.device-type is {device}, which has no rasterizer; choose cpu or cuda"
        )
    if not torch.cuda.is_available():
        raise NopeSplatError(
            "missing-device",
            "machine.device-type is cuda, but PyTorch found no GPU; check that nvidia-smi lists one, or"
            " choose cpu",
        )
    error = try_prepare_kernels()
    if error is not None:
        raise NopeSplatError(
            error.code, f"{error.sentence}; alternatively, train with --machine.device-type cpu"
        ) from error


def try_prepare_kernels() -> MissingKernelsError | None:
    """Try to load gsplat's kernels for the GPU, and return the error instead of raising it.

    If the kernels must be compiled first, this takes minutes.

    Returns:
        The error, which says why the kernels are missing; None if the kernels have been loaded.
    """
    try:
        prepare_kernels()
    except MissingKernelsError as error:
        return error
    return None
