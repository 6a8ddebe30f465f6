"""Whether training can run on the device that was asked for; told before any work begins."""

from __future__ import annotations

import importlib
from typing import Literal

import torch

from nope_splat.errors import UserError


def require_device(device: Literal["cpu", "cuda", "mps"]) -> None:
    """Check that there is a GPU where one was asked for, and that gsplat has kernels for it.

    gsplat without a wheel for the versions of torch and CUDA at hand compiles its kernels on first use, which
    takes nvcc and a compiler; without these it has none, and fails in the middle of the first iteration.

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
        missing = importlib.import_module("gsplat.cuda._backend")._C is None and "there is no nvcc"
    except Exception as error:  # compilers fail in many ways
        missing = str(error).strip().splitlines()[0]
    if missing:
        raise UserError(
            f"gsplat has no kernels for this GPU and cannot compile them ({missing}); install a wheel for"
            f" torch {torch.__version__} from https://docs.gsplat.studio/whl, or the CUDA toolkit and g++, or"
            " train with --machine.device-type cpu"
        )
