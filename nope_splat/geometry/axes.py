"""Camera axes: OpenCV's (x right, y down, z forward) and OpenGL's (x right, y up, z backward).

The whole package uses OpenCV axes; nerfstudio and its files use OpenGL axes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

OPENCV_FROM_OPENGL = OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
"""Matrix that converts camera-to-world transforms between OpenCV and OpenGL axes, in both directions:
multiply the transform by this matrix from the right. (4, 4)."""


def switch_axes(camera_to_world: Tensor) -> Tensor:
    """Convert camera-to-world transforms between OpenCV and OpenGL axes; the conversion is its own inverse.

    Args:
        camera_to_world: Camera-to-world transforms. (..., 3 or 4, 4).

    Returns:
        The same poses with the camera's y and z axes negated. (..., 3 or 4, 4).

    Example:
        >>> switch_axes(torch.eye(4))
        tensor([[ 1., -0., -0.,  0.],
                [ 0., -1., -0.,  0.],
                [ 0., -0., -1.,  0.],
                [ 0., -0., -0.,  1.]])
    """
    x, y_and_z, position = camera_to_world.split((1, 2, 1), dim=-1)
    return torch.cat([x, -y_and_z, position], -1)
