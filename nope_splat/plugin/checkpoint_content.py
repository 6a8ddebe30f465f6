"""Check the content of checkpoints, which may be damaged or come from other programs."""

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
"""Maximum difference between R R^T and the identity; rounding of float32 is far below."""
GAUSSIANS = "gauss_params."
"""Part of the names of the free Gaussians' parameters."""


def unreadable_reason(error: Exception) -> str:
    """Explain why torch could not load a checkpoint.

    Args:
        error: What `torch.load` raised. torch advises to trust the file, which is no advice for users.
    """
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or contains more than tensors and plain containers"
    return " ".join(str(error).partition("\n")[0].split()) or type(error).__name__


def require_layout(state: Any, path: Path) -> None:
    """Check that an object is laid out as in `NopeTrainer.save_checkpoint`.

    Args:
        state: The loaded object.
        path: Its file, for the message.

    Raises:
        NopeSplatError: If it is not a state with an iteration and a pipeline.
    """
    if isinstance(state, dict):
        step, pipeline = state.get("step"), state.get("pipeline")
        is_step = isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**63
        if is_step and isinstance(pipeline, dict) and all(isinstance(name, str) for name in pipeline):
            return
    raise NopeSplatError(
        "damaged-checkpoint",
        f"{path} is not a checkpoint of nope-splat: it needs a step and the state of a pipeline; load another"
        " checkpoint or train again",
    )


def require_finite(values: Mapping[str, Any]) -> None:
    """Check that cameras, track points and everything else but the free Gaussians are finite.

    Args:
        values: State or results of a pipeline, by name.

    Raises:
        NopeSplatError: If a tensor contains NaN or infinity.
    """
    for name, value in values.items():
        if isinstance(value, Tensor) and GAUSSIANS not in name and not bool(value.isfinite().all()):
            raise NopeSplatError(
                "damaged-checkpoint",
                f"{name} in the checkpoint contains NaN or infinity, because the training diverged or the"
                " file is damaged; load an earlier checkpoint or train again",
            )


def require_cameras(optimizer: NopeCameraOptimizer) -> None:
    """Check the cameras of a loaded checkpoint.

    Args:
        optimizer: The optimized cameras, in the state of the checkpoint.

    Raises:
        NopeSplatError: If a pose is not a rotation and a translation, a focal length or lens is not finite,
            or a view has a camera that does not exist.
    """
    focals, poses = optimizer.focal(), optimizer.poses()
    ids = optimizer.intrinsics_ids
    products = poses[:, :3, :3] @ poses[:, :3, :3].mT
    identity = torch.eye(3, dtype=products.dtype, device=products.device)
    orthonormal = torch.allclose(products, identity.expand_as(products), atol=MAX_ROTATION_ERROR)
    if not (
        poses.isfinite().all()
        and orthonormal
        and (poses[:, :3, :3].det() > 0).all()
        and (focals.isfinite() & (focals > 0)).all()
        and ((ids >= 0) & (ids < len(focals))).all()
        and all(part.isfinite().all() for part in optimizer.lens() or ())
    ):
        raise NopeSplatError(
            "damaged-checkpoint",
            "the cameras in the checkpoint are impossible, because the training diverged or the file is"
            " damaged; load an earlier checkpoint or train again",
        )
