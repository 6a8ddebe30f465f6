"""Choose and check the training device.

The device is `machine.device_type`. Its default, "auto", is replaced by "cuda" if gsplat has kernels for the
GPU, and by "cpu" otherwise, so that the saved configuration contains the device that was used.
"""

from __future__ import annotations

import logging

import torch

from nope_splat.errors import NopeSplatError
from nope_splat.splatting.rasterizer.cuda_kernels import MissingKernelsError, prepare_kernels
from nope_splat.utils.device_defaults import Device

logger = logging.getLogger(__name__)


def choose_device() -> Device:
    """Choose the device for "auto", and warn if a GPU is not used.

    Returns:
        "cuda" if gsplat has kernels for the GPU, else "cpu".
    """
    if not torch.cuda.is_available():
        return "cpu"
    reason = missing_kernels()
    if reason is None:
        return "cuda"
    logger.warning(f"Using the CPU although a GPU is available: {reason}.")
    return "cpu"


def require_device(device: str) -> None:
    """Check that training can run on a device.

    Args:
        device: Value of `machine.device_type`.

    Raises:
        NopeSplatError: If there is no rasterizer for the device, no GPU, or no kernels for the GPU.
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
    reason = missing_kernels()
    if reason is not None:
        raise NopeSplatError(
            "missing-device", f"{reason}; alternatively, train with --machine.device-type cpu"
        )


def missing_kernels() -> str | None:
    """Explain why gsplat has no kernels for the GPU; None if it has. May compile kernels for minutes."""
    try:
        prepare_kernels()
    except MissingKernelsError as error:
        return error.sentence
    return None
