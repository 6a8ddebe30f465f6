"""Additions to nerfstudio's viewer: a panel, camera frusta of held-out images, and track points.

nerfstudio draws the frusta of training images and updates their poses. This module also updates their field
of view.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from nerfstudio.utils.colormaps import apply_float_colormap
from nerfstudio.viewer.viewer_elements import ViewerControl
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from viser import CameraFrustumHandle, ClientHandle, SceneNodePointerEvent
from viser.transforms import SO3

from nope_splat.geometry.axes import switch_axes
from nope_splat.plugin.datamanager import NopeDataManager
from nope_splat.plugin.dataset import NopeDataset
from nope_splat.plugin.history import History
from nope_splat.plugin.model import NopeSplatModel
from nope_splat.plugin.summary import camera_suffix, lens_rows
from nope_splat.plugin.viewer_access import restrict_viewers
from nope_splat.sfm import Reconstruction

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

TRAINING_COLOR, HELD_OUT_COLOR, UNREGISTERED_COLOR = (47, 111, 176), (217, 130, 43), (194, 59, 59)
"""RGB colors (0 to 255) of training, held-out and unregistered images, the same as in the report."""
STEP_BACK = 0.3
"""Distance of a browser's initial view behind the training camera that is nearest to the mean of all training
camera centers, in world units (the median depth is one)."""
POINT_SIZE = 0.04
"""Size of the track points in the units of nerfstudio's viewer."""
MIN_RED_ERROR = 0.1
"""Lower limit, in pixels, of the reprojection error at the red end of the color scale of track points. The
limit is about the noise of keypoints, so errors below this noise are never shown in red."""
THUMBNAIL_SIZE = 160
"""Maximum longer side, in pixels, of the images shown in the camera frusta."""
MIN_FOCAL_CHANGE = 0.002
"""Relative change of the focal length above which the frustum of a training image is redrawn."""
MAX_LISTED_IMAGES = 10
"""Maximum number of unregistered images that the panel lists by name."""
PLOT_TITLES = {
    "focal_change_percent": "Change of focal length (%)",
    "reprojection_error_px": "Reprojection error (px)",
    "camera_rotation_mean_deg": "Camera rotation (degrees)",
}
"""Plot titles of the metrics that the panel plots, by the names of the metrics in the training history."""
SIGNED_METRICS = ("focal_change_percent",)
"""Plotted metrics that can be negative; the axes of all other metrics start at zero."""


class DisconnectedRenderer:
    """Placeholder for the renderer of a browser that has disconnected."""

    def action(self, action: Any) -> None:
        """Ignore a render action of nerfstudio's viewer.

        Args:
            action: The action; unused.
        """


class Renderers(dict[int, Any]):
    """nerfstudio's renderers by client ID, with a placeholder for clients that have disconnected.

    If a browser disconnects while its camera moves, nerfstudio still looks up the renderer of this browser
    while holding viser's lock. Without the placeholder, the `KeyError` would leave the lock held, and the
    training run would deadlock.
    """

    def __missing__(self, client_id: int) -> DisconnectedRenderer:
        return DisconnectedRenderer()


class ViewedPipeline(Protocol):
    """Interface of a pipeline that the viewer shows; implemented by `NopePipeline`."""

    datamanager: NopeDataManager
    history: History
    eval_poses: Tensor
    """Camera-to-world transforms of the E registered held-out images, OpenGL axes. (E, 3, 4)."""
    same_reconstruction: bool
    """Whether the loaded checkpoint was trained on the current reconstruction; True without a checkpoint."""
    test_mode: str
    """Mode of nerfstudio's pipeline: "val" for training, another value for other commands."""

    @property
    def model(self) -> NopeSplatModel:
        """The model whose Gaussians, cameras and track points are shown."""
        ...


class NopeViewerControl(ViewerControl):
    """Viewer panel, camera frusta and track points of a pipeline, during training and in `ns-viewer`.

    Without a viewer, all methods do nothing. The training lock is held while drawing, so that drawing does
    not run at the same time as training and rendering.

    Args:
        pipeline: Pipeline whose cameras and track points are shown.
    """

    def __init__(self, pipeline: ViewedPipeline) -> None:
        restrict_viewers()  # before a viewer can be opened
        # A weak reference, because viser's threads refer to this object even after training.
        self._pipeline: ViewedPipeline = weakref.proxy(pipeline)
        self._ready = False
        self._drawn_focals: dict[int, float] = {}
        self._thumbnails: dict[str, NDArray[np.uint8]] = {}

    def _setup(self, viewer: Viewer) -> None:
        """Create the panel; nerfstudio calls this method when the viewer is opened."""
        from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

        super()._setup(viewer)
        viewer.render_statemachines = Renderers(viewer.render_statemachines)
        self._scale = VISER_NERFSTUDIO_SCALE_RATIO
        gui = self.viser_server.gui
        with gui.add_folder("nope-splat"):
            self._text = gui.add_markdown(self._summary())
            self._show_points = gui.add_checkbox(
                "Track points",
                False,
                disabled=not self._pipeline.same_reconstruction,
                hint="Colored by mean reprojection error; disabled if the checkpoint has other cameras",
            )
            self._legend = gui.add_markdown("", visible=False)
            self._show_held_out = gui.add_checkbox("Held-out photos", True)
            self._plots = gui.add_plotly(self._figure(), aspect=1.4)  # height by width
            gui.add_markdown(_images(self._pipeline.datamanager.dataparser.scene))
        self._show_points.on_update(lambda _: self._locked(self._draw_points))
        self._show_held_out.on_update(lambda _: self._locked(self._draw_cameras))
        # Use a separate thread, since viser holds a lock in callbacks for which training may be waiting.
        self.viser_server.on_client_connect(
            lambda client: threading.Thread(target=self._on_connect, args=[client], daemon=True).start()
        )
        self._ready = True

    def show_cameras(self) -> None:
        """Draw all cameras; the trainer calls this method before training starts.

        Otherwise, the cameras would only be drawn after the first iteration, which may be slow.
        """
        if self._ready:
            self._draw_cameras()

    def update(self, step: int) -> None:
        """Redraw panel, frusta and track points.

        The training loop calls this method at intervals, while it holds the training lock.

        Args:
            step: Iteration; unused.
        """
        del step
        if self._ready and self.viewer.render_statemachines:  # one per browser
            self._draw()

    @torch.no_grad()
    def _on_connect(self, client: ClientHandle) -> None:
        """Set the initial view of a new browser, and redraw panel and scene.

        The view is placed behind the training camera that is nearest to the mean of all training camera
        centers.
        """
        poses = switch_axes(self._pipeline.model.camera_optimizer.poses()).double().numpy(force=True)
        centers = poses[:, :, 3]
        pose = poses[np.linalg.norm(centers - centers.mean(axis=0), axis=1).argmin()]
        with client.atomic():
            client.camera.position = (pose[:, 3] - STEP_BACK * pose[:, 2]) * self._scale
            client.camera.wxyz = SO3.from_matrix(pose[:, :3]).wxyz
        while not hasattr(self.viewer, "train_util"):  # nerfstudio's `init_scene` sets it
            time.sleep(0.05)
        self._locked(self._draw)

    def _locked(self, draw: Callable[[], None]) -> None:
        """Call a drawing function while holding the training lock; for use in threads of the viewer."""
        lock: threading.Lock | contextlib.nullcontext = self.viewer.train_lock or contextlib.nullcontext()
        with lock, contextlib.suppress(ReferenceError):  # the pipeline may no longer exist
            draw()

    def _draw(self) -> None:
        """Redraw panel, frusta and, if shown, track points; the caller must hold the training lock."""
        self.viewer.update_step(self._pipeline.model.step + 1)  # nerfstudio's step is 0 after training
        self._text.content = self._summary()
        self._plots.figure = self._figure()
        self._plots.visible = len(self._pipeline.history) > 0
        self._draw_cameras()
        if self._show_points.value:
            self._draw_points()

    # The panel.

    def _summary(self) -> str:
        """Format stage, intrinsics, reprojection error and pose changes as Markdown."""
        model = self._pipeline.model
        cameras: dict[str, float] = {}
        model.camera_optimizer.get_metrics_dict(cameras)
        lines = {"Stage": self._stage()}
        scene = self._pipeline.datamanager.dataparser.scene
        for number, focal in enumerate(model.camera_optimizer.focal().tolist()):
            change = 100 * (focal / model.camera_optimizer.base_focal[number].item() - 1)
            lines[f"Focal length{camera_suffix(scene, number)}"] = f"{focal:.1f} px ({change:+.2f} %)"
        if model.camera_optimizer.learned_lens is not None:
            for number, camera in enumerate(model.camera_optimizer.cameras(scene.cameras)):
                for name, value in lens_rows(camera).items():
                    lines[f"{name.capitalize()}{camera_suffix(scene, number)}"] = value
        if self._pipeline.same_reconstruction:
            lines["Reprojection error"] = f"{model.reprojection_errors().mean():.3f} px"
        if "camera_rotation_mean_deg" in cameras:
            lines["Pose change"] = (
                f"{cameras['camera_rotation_mean_deg']:.3f} degrees,"
                f" {cameras['camera_translation_mean']:.5f} of the median depth"
            )
        return "  \n".join(f"**{name}:** {value}" for name, value in lines.items())

    def _stage(self) -> str:
        """Describe the stage of training, such as "refinement, iteration 600 of 1000"."""
        model, config = self._pipeline.model, self._pipeline.model.config
        iteration = model.step + 1
        if self._pipeline.test_mode != "val" or iteration >= model.num_iterations:
            return f"trained, {iteration} iterations"
        activity = (
            "densification"
            if iteration < config.densification.stop_fraction * model.num_iterations
            else "refinement"
        )
        return f"{activity}, iteration {iteration} of {model.num_iterations}"

    def _figure(self) -> Any:
        """Plot the metrics in `PLOT_TITLES` over the iterations, as a plotly figure."""
        from plotly.graph_objects import Scatter
        from plotly.subplots import make_subplots

        figure = make_subplots(rows=len(PLOT_TITLES), cols=1, subplot_titles=list(PLOT_TITLES.values()))
        for row, name in enumerate(PLOT_TITLES, start=1):
            for label, (steps, values) in self._pipeline.history.curves(name).items():
                figure.add_trace(Scatter(x=steps, y=values, mode="lines", name=label), row=row, col=1)
            if name not in SIGNED_METRICS:
                figure.update_yaxes(rangemode="tozero", row=row, col=1)
        return figure.update_layout(
            template="plotly_dark", showlegend=False, margin={"l": 45, "r": 10, "t": 25, "b": 25}
        )

    # The scene.

    @torch.no_grad()
    def _draw_cameras(self) -> None:
        """Draw the frusta of held-out images, and of training images whose field of view has changed."""
        data, optimizer = self._pipeline.datamanager, self._pipeline.model.camera_optimizer
        training = getattr(self.viewer, "camera_handles", {})  # created by the viewer's `init_scene`
        focals, poses = optimizer.view_focals().tolist(), optimizer.poses()
        for index, handle in list(training.items()):
            drawn = self._drawn_focals.get(index)
            if drawn is None or abs(math.log(focals[index] / drawn)) > MIN_FOCAL_CHANGE:
                name = f"/cameras/camera_{index:05d}"
                training[index] = self._draw_camera(
                    name, data.train_dataset, index, poses[index], handle.visible
                )
                self._drawn_focals[index] = focals[index]
        for index, pose in enumerate(self._pipeline.eval_poses):
            name = f"/held_out/camera_{index:05d}"
            self._draw_camera(name, data.eval_dataset, index, pose, self._show_held_out.value)

    def _draw_camera(
        self, name: str, dataset: NopeDataset, index: int, pose: Tensor, visible: bool
    ) -> CameraFrustumHandle:
        """Draw the frustum of an image of a dataset.

        Args:
            name: Name of the frustum in viser's scene.
            dataset: Training or evaluation dataset.
            index: Index of the image in the dataset.
            pose: Camera-to-world transform, OpenGL axes. (3, 4).
            visible: Whether the frustum is shown.
        """
        if name not in self._thumbnails:
            self._thumbnails[name] = _thumbnail(dataset.get_numpy_image(index))
        dataparser = self._pipeline.datamanager.dataparser
        split, color = (
            ("train", TRAINING_COLOR)
            if dataset is self._pipeline.datamanager.train_dataset
            else ("eval", HELD_OUT_COLOR)
        )
        image_id = dataparser.image_ids(split)[index]
        width, height = dataparser.scene.image_sizes[image_id].tolist()
        focal = self._pipeline.model.camera_optimizer.focal()[dataparser.scene.camera_ids[image_id]].item()
        T_world_camera = switch_axes(pose).double().numpy(force=True)
        handle = self.viser_server.scene.add_camera_frustum(
            name,
            fov=2 * math.atan(height / (2 * focal)),
            aspect=width / height,
            scale=self.viewer.config.camera_frustum_scale,
            color=color,
            image=self._thumbnails[name],
            wxyz=SO3.from_matrix(T_world_camera[:, :3]).wxyz,
            position=T_world_camera[:, 3] * self._scale,
            visible=visible,
        )
        handle.on_click(_look_through)
        return handle

    @torch.no_grad()
    def _draw_points(self) -> None:
        """Draw the track points, and the legend of their colors.

        The color of a point shows its mean reprojection error. The scale ranges from zero (blue) to the 95th
        percentile over all points or, if this is smaller, to `MIN_RED_ERROR` (red). Larger errors are also
        red.
        """
        model = self._pipeline.model
        points, errors = model.track_positions(), model.reprojection_errors()
        total = torch.zeros(len(points), device=errors.device).index_add(
            0, model.observations.point_ids, errors
        )
        mean = total / torch.bincount(model.observations.point_ids, minlength=len(points)).clamp(min=1)
        worst = mean.quantile(0.95).clamp(min=MIN_RED_ERROR)
        self._legend.content = f"Reprojection error: blue 0 px, red {worst:.2f} px or more."
        self._legend.visible = self._show_points.value
        colors = apply_float_colormap((mean / worst).clamp(0, 1)[:, None], "turbo")
        self.viser_server.scene.add_point_cloud(
            "/track_points",
            points=points.numpy(force=True) * self._scale,
            colors=colors.numpy(force=True),
            point_size=POINT_SIZE,
            visible=self._show_points.value,
        )


def _images(scene: Reconstruction) -> str:
    """Format the color legend, and the list of unregistered images with reasons, as Markdown."""
    kinds = (
        ("trained on", TRAINING_COLOR, scene.registered & ~scene.held_out),
        ("held out", HELD_OUT_COLOR, scene.registered & scene.held_out),
        ("not registered", UNREGISTERED_COLOR, ~scene.registered),
    )
    legend = ", ".join(
        _colored(f"{selected.sum()} {name}", color) for name, color, selected in kinds if selected.any()
    )
    failures = [f"- {_escape(name)}: {_escape(reason)}" for name, reason in scene.failures.items()]
    more = [f"- and {len(failures) - MAX_LISTED_IMAGES} more"] if len(failures) > MAX_LISTED_IMAGES else []
    return "\n".join([f"Photos: {legend}", "", *failures[:MAX_LISTED_IMAGES], *more])


def _colored(text: str, color: tuple[int, int, int]) -> str:
    """Format text in an RGB color for viser's Markdown."""
    # viser renders Markdown as MDX, where braces contain JavaScript; double braces are a style object.
    return f"<span style={{{{color: 'rgb{color}'}}}}>{text}</span>"


def _escape(text: str) -> str:
    """Escape text for viser's Markdown (MDX), in which braces in a file name would be executed as code."""
    return "".join(char if char.isalnum() or char in " .,-" else f"&#{ord(char)};" for char in text)


def _thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Downscale an image (H, W, 3 or 4) to at most `THUMBNAIL_SIZE` pixels per side, as RGB (h, w, 3)."""
    image = Image.fromarray(pixels).convert("RGB")
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return np.asarray(image)


def _look_through(event: SceneNodePointerEvent[CameraFrustumHandle]) -> None:
    """Move the view of a browser to the camera whose frustum was clicked in this browser."""
    with event.client.atomic():
        event.client.camera.position = event.target.position
        event.client.camera.wxyz = event.target.wxyz
