"""Check the content of checkpoints, which may be damaged or written by other programs."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nope_splat.errors import NopeSplatError
from nope_splat.plugin.camera_optimizer import NopeCameraOptimizer

MAX_ROTATION_ERROR = 1e-2
"""Maximum absolute value of the entries of R R^T - I for a matrix R that counts as a rotation. The limit is
far above float32 rounding errors."""
GAUSSIAN_NAME_PART = "gauss_params."
"""Text that the state-dict keys of Gaussian parameters contain, unless the Gaussians are tied to track
points."""


def unreadable_reason(error: Exception) -> str:
    """Describe in one line why torch could not load a checkpoint.

    The description omits torch's advice to load the file without safety checks.

    Args:
        error: Exception that `torch.load` raised.
    """
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or contains more than tensors and plain containers"
    return " ".join(str(error).partition("\n")[0].split()) or type(error).__name__


def require_layout(state: Any, path: Path) -> None:
    """Check that an object loaded from a file has the layout of a checkpoint (`NopeTrainer.save_checkpoint`).

    Args:
        state: The loaded object.
        path: The checkpoint file, for the error message.

    Raises:
        NopeSplatError: If the object is not a dictionary that contains the iteration `step` (an integer, at
            least 0) and the state of the pipeline, `pipeline` (a dictionary with strings as keys).
    """
    if isinstance(state, dict):
        step, pipeline = state.get("step"), state.get("pipeline")
        is_step = isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**63
        if is_step and isinstance(pipeline, dict) and all(isinstance(name, str) for name in pipeline):
            return
    raise NopeSplatError(
        "damaged-checkpoint",
        f"{path} is not a checkpoint of nope-splat, because its step or its pipeline state is missing or"
        " invalid; load another checkpoint or train again",
    )


def require_finite(values: Mapping[str, Any]) -> None:
    """Check that all tensors in a state dict, except removable Gaussians, are finite.

    Gaussians are removable if they are not tied to track points (see `remove_nonfinite_gaussians`).

    Args:
        values: Values by name, such as the state of a pipeline.

    Raises:
        NopeSplatError: If a checked tensor contains NaN or infinity.
    """
    for name, value in values.items():
        if isinstance(value, Tensor) and GAUSSIAN_NAME_PART not in name and not bool(value.isfinite().all()):
            raise NopeSplatError(
                "damaged-checkpoint",
                f"{name} in the checkpoint contains NaN or infinity, because training diverged or the"
                " file is damaged; load an earlier checkpoint or train again",
            )


def require_cameras(optimizer: NopeCameraOptimizer) -> None:
    """Check that the cameras of a loaded checkpoint are valid.

    Args:
        optimizer: Camera optimizer with the state of the checkpoint.

    Raises:
        NopeSplatError: If a pose is not a rigid transform, a focal length is not a positive, finite number, a
            principal point or a distortion is not finite, or a view refers to intrinsics that do not exist.
    """
    focals, poses = optimizer.focal(), optimizer.poses()
    ids, lens = optimizer.intrinsics_ids, optimizer.lens()
    products = poses[:, :3, :3] @ poses[:, :3, :3].mT
    identity = torch.eye(3, dtype=products.dtype, device=products.device)
    orthonormal = torch.allclose(products, identity.expand_as(products), atol=MAX_ROTATION_ERROR)
    if not (
        poses.isfinite().all()
        and orthonormal
        and (poses[:, :3, :3].det() > 0).all()
        and (focals.isfinite() & (focals > 0)).all()
        and ((ids >= 0) & (ids < len(focals))).all()
        and (lens is None or (lens.shift.isfinite().all() and lens.distortion.isfinite().all()))
    ):
        raise NopeSplatError(
            "damaged-checkpoint",
            "the camera parameters in the checkpoint are invalid (not finite or out of range), because"
            " training diverged or the file is damaged; load an earlier checkpoint or train again",
        )
