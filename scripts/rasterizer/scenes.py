"""Scenes for timing rasterizers: Gaussians as at the start of training, or of a trained splat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

Scene = dict[str, Any]
"""Arguments of `rasterization`, by name."""


def fresh_scene(path: Path, count: int, width: int, height: int) -> Scene:
    """Create Gaussians as at the start of a training: at points, with scales from the distances to neighbors.

    Args:
        path: npz file with points, colors and cameras, such as gsplat's `test_garden.npz`.
        count: Number of randomly chosen points.
        width: Width of the rendered image in pixels.
        height: Height of the rendered image in pixels.
    """
    data, rng = np.load(path), np.random.default_rng(0)
    chosen = rng.permutation(len(data["means3d"]))[:count]
    means, colors = data["means3d"][chosen], data["colors"][chosen].astype(np.float32) / 255
    distances, _ = KDTree(means).query(means, k=4)
    scale = np.sqrt((distances[:, 1:] ** 2).mean(1)).clip(1e-4)
    scale = np.minimum(scale, np.quantile(scale, 0.995))
    K = data["Ks"][0].copy()
    K[0] *= width / int(data["width"])
    K[1] *= height / int(data["height"])
    return as_scene(
        means,
        rng.normal(size=(count, 4)),
        scale[:, None] * np.exp(rng.normal(0, 0.25, (count, 3))),
        rng.uniform(0.1, 0.9, count),
        colors,
        data["viewmats"][0],
        K,
        width,
        height,
    )


def trained_scene(ply: Path, cameras: Path, width: int, height: int) -> Scene:
    """Load the Gaussians of a trained splat, with a camera that has a horizontal field of view of 60 degrees.

    Args:
        ply: Splat file of `ns-export gaussian-splat`.
        cameras: JSON file of `ns-export cameras`; the pose of its first camera is used.
        width: Width of the rendered image in pixels.
        height: Height of the rendered image in pixels.
    """
    with ply.open("rb") as file:
        names = []
        while (line := file.readline().decode("ascii").strip()) != "end_header":
            if line.startswith("property float"):
                names.append(line.split()[-1])
        values = np.frombuffer(file.read(), "<f4").reshape(-1, len(names))

    def columns(*wanted: str) -> np.ndarray:
        return values[:, [names.index(name) for name in wanted]]

    pose = np.eye(4)
    pose[:3] = np.array(json.loads(cameras.read_text())[0]["transform"])[:3]
    pose[:, 1:3] *= -1  # OpenGL's axes to OpenCV's
    focal = 0.5 * width / np.tan(np.radians(30))
    return as_scene(
        columns("x", "y", "z"),
        columns("rot_0", "rot_1", "rot_2", "rot_3"),
        np.exp(columns("scale_0", "scale_1", "scale_2")),
        1 / (1 + np.exp(-columns("opacity")[:, 0])),
        (0.5 + 0.28209479 * columns("f_dc_0", "f_dc_1", "f_dc_2")).clip(0, 1),
        np.linalg.inv(pose),
        np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]),
        width,
        height,
    )


def as_scene(means, quats, scales, opacities, colors, viewmat, K, width: int, height: int) -> Scene:
    """Create the arguments of `rasterization` for one camera, in float32."""
    arrays = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors}
    arrays |= {"viewmats": viewmat[None], "Ks": K[None]}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a, np.float32)) for name, a in arrays.items()}
    return tensors | {"width": width, "height": height}


def leaves(scene: Scene) -> Scene:
    """Copy a scene; the tensors of the copy collect gradients."""
    return {k: v.clone().requires_grad_() if isinstance(v, Tensor) else v for k, v in scene.items()}
