"""Whether a training can run on a GPU, and where it runs if the user has not said.

The device is `machine.device_type`. Its default, "auto", becomes the GPU where there is one that gsplat has
kernels for, and the CPU elsewhere; from then on the configuration holds what was used.
"""

from __future__ import annotations

import logging

import torch

from nope_splat.errors import NopeSplatError
from nope_splat.splatting.rasterizer.cuda_kernels import MissingKernelsError, prepare_kernels
from nope_splat.utils.device_defaults import Device

logger = logging.getLogger(__name__)


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
    logger.warning(f"Using the CPU, although there is a GPU: {reason}.")
    return "cpu"


def require_device(device: str) -> None:
    """Check that training can run on the device that the user asked for.

    Args:
        device: Of `machine.device_type`.

    Raises:
        NopeSplatError: If there is no GPU, or gsplat has no kernels for it.
    """
    if device == "cpu":
        return
    if device != "cuda":
        raise NopeSplatError(
            "invalid-option", f"machine.device-type is {device}, which has no rasterizer; choose cpu or cuda"
        )
    if not torch.cuda.is_available():
        raise NopeSplatError(
            "missing-device", "machine.device-type is cuda, but torch finds no GPU here; choose cpu"
        )
    reason = missing_kernels()
    if reason is not None:
        raise NopeSplatError("missing-device", f"{reason}; or train with --machine.device-type cpu")


def missing_kernels() -> str | None:
    """Say why gsplat has no kernels for the GPU; None if it has, perhaps after compiling them for minutes."""
    try:
        prepare_kernels()
    except MissingKernelsError as error:
        return error.sentence
    return None
