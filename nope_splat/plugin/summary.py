"""Tables that summarize a reconstruction and a training run, for terminal, viewer and report."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from nope_splat.geometry.camera import Camera
from nope_splat.plugin.datamanager import NopeDataManager
from nope_splat.plugin.held_out_views import held_out_views
from nope_splat.plugin.model import NopeSplatModel
from nope_splat.scene.reconstruction import Lens
from nope_splat.sfm import Reconstruction
from nope_splat.utils.terminal import printable

Rows = dict[str, str]
"""Formatted values by label: the rows of a table."""

DISTORTION_TERMS = ("k1", "k2", "k3", "k4", "p1", "p2")
"""Names of the distortion coefficients, in the order of `Camera.distortion`."""


def reconstruction_rows(scene: Reconstruction) -> Rows:
    """Summarize a reconstruction: registered images, intrinsics, reprojection error, track points, time.

    Args:
        scene: The reconstruction.

    Returns:
        Formatted values by label, for `table`.
    """
    errors = scene.reprojection_errors()
    training = ~scene.held_out
    rows = {"registered photos": f"{(scene.registered & training).sum()} of {training.sum()}"}
    if scene.held_out.any():
        rows["held-out photos"] = f"{(scene.registered & ~training).sum()} of {(~training).sum()} registered"
    rows |= camera_rows(scene, 0) if len(scene.cameras) == 1 else _one_row_per_camera(scene)
    if scene.trust is not None:
        rows["trust"] = f"{100 * scene.trust.score:.0f} %"
    return rows | {
        "reprojection error": f"mean {np.mean(errors):.2f} px, median {np.median(errors):.2f} px",
        "track points": f"{len(scene.points)}, with {len(scene.observations)} observations",
        "seconds": f"{sum(scene.seconds.values()):.1f}",
    }


def camera_rows(scene: Reconstruction, number: int) -> Rows:
    """Format the intrinsics of a camera, and the lens name and focal length in its EXIF data.

    Args:
        scene: The reconstruction.
        number: Index of the camera in the reconstruction.

    Returns:
        Formatted values by label, for `table`.
    """
    camera = scene.cameras[number]
    angle = camera.field_of_view(_size(scene, number))
    rows = {"focal length": f"{camera.focal:.1f} px, {angle:.1f} degrees of view"}
    if camera.is_fisheye:
        rows["projection"] = "equidistant (fisheye)"
    if scene.lenses and (lens := scene.lenses[number]) != Lens():
        stated = "" if lens.focal is None else f"focal length {lens.focal:.0f} px"
        rows["EXIF"] = ", ".join(text for text in (lens.name, stated) if text)
    intrinsics = lens_rows(camera)
    return rows | {
        label: value for label, value in intrinsics.items() if label != "distortion" or any(camera.distortion)
    }


def _one_row_per_camera(scene: Reconstruction) -> Rows:
    """Summarize each camera in one row of the table, with the label "camera 1", "camera 2" and so on."""
    rows: Rows = {}
    for number in range(len(scene.cameras)):
        width, height = _size(scene, number).tolist()
        count = int((scene.registered & (scene.camera_ids == number)).sum())
        values = [f"{label} {value}" for label, value in camera_rows(scene, number).items()]
        rows[f"camera {number + 1}"] = "; ".join([f"{count} photos, {width} x {height}", *values])
    return rows


def training_rows(model: NopeSplatModel, data: NopeDataManager) -> Rows:
    """Summarize a training run: number of Gaussians, changes during training, PSNR of held-out images.

    Intrinsics, poses and mean reprojection error are compared with the reconstruction before training.

    Args:
        model: The trained model.
        data: Data manager with the held-out images, whose poses must have been aligned to the trained model
            by `NopePipeline.align_held_out`.

    Returns:
        Formatted values by label, for `table`.
    """
    scene = data.dataparser.scene
    cameras: dict[str, float] = {}
    model.camera_optimizer.get_metrics_dict(cameras)
    error = model.reprojection_errors().mean().item()
    rows = {"Gaussians": f"{model.num_points}"}
    learned_lens = model.camera_optimizer.learned_lens is not None
    for number, after in enumerate(model.camera_optimizer.cameras(scene.cameras)):
        before, suffix = scene.cameras[number], camera_suffix(scene, number)
        change = 100 * (after.focal / before.focal - 1)
        rows[f"focal length{suffix}"] = f"{before.focal:.1f} -> {after.focal:.1f} px ({change:+.2f} %)"
        for name, value in lens_rows(before).items() if learned_lens else ():
            rows[f"{name}{suffix}"] = f"{value} -> {lens_rows(after)[name]}"
    rows |= {
        "reprojection error": f"mean {np.mean(scene.reprojection_errors()):.2f} -> {error:.2f} px",
    }
    if "camera_rotation_mean_deg" in cameras:
        rows["camera rotation"] = "mean {:.3f}, max {:.3f} degrees".format(
            cameras["camera_rotation_mean_deg"], cameras["camera_rotation_max_deg"]
        )
        rows["camera translation"] = "mean {:.5f}, max {:.5f} of the median depth".format(
            cameras["camera_translation_mean"], cameras["camera_translation_max"]
        )
    scores = [
        model.image_metrics.psnr(view.rendered, view.image, view.mask).item()
        for view in held_out_views(model, data)
    ]
    if scores:
        rows["held-out photos"] = f"PSNR {np.mean(scores):.2f} dB, mean of {len(scores)}"
    return rows


def lens_rows(camera: Camera) -> Rows:
    """Format the principal point (pixels from the image center) and the distortion of a camera.

    Distortion coefficients other than k1 and k2 are omitted if they are zero.

    Args:
        camera: The camera.

    Returns:
        Formatted values by label, for `table`.
    """
    return {
        "principal point": "{:+.1f}, {:+.1f} px from the center".format(*camera.offset),
        "distortion": ", ".join(
            f"{name} {value:+.4f}"
            for name, value in zip(DISTORTION_TERMS, camera.distortion, strict=True)
            if value or name in ("k1", "k2")
        ),
    }


def table(title: str, rows: Rows) -> Table:
    """Format rows as a table for the terminal.

    Args:
        title: Title of the table.
        rows: Formatted values by label.
    """
    rich_table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows.items():
        # Values can be paths, which must be printed in full and without markup.
        rich_table.add_row(name, Text(printable(value), overflow="fold"))
    return rich_table


def camera_suffix(scene: Reconstruction, number: int) -> str:
    """Return a suffix for labels that identifies one of several cameras, with image count and image size.

    Args:
        scene: The reconstruction.
        number: Index of the camera in the reconstruction.

    Returns:
        Suffix such as ", camera 1 (20 photos, 640 x 480)"; empty if the reconstruction has one camera.
    """
    if len(scene.cameras) == 1:
        return ""
    width, height = _size(scene, number).tolist()
    count = int((scene.registered & (scene.camera_ids == number)).sum())
    return f", camera {number + 1} ({count} photos, {width} x {height})"


def _size(scene: Reconstruction, number: int) -> NDArray[np.int64]:
    """Return width and height, in pixels, of the first image of the camera with index `number`. (2,)."""
    return scene.image_sizes[scene.camera_ids == number][0]
