"""The model: joint optimization of Gaussians, track points and cameras."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.models.splatfacto import resize_image
from nerfstudio.utils.colors import get_color
from torch import Tensor
from torch.nn import Parameter, ParameterDict

from nope_splat.evaluation.image_metrics import ImageMetrics
from nope_splat.plugin.camera_intrinsics import (
    camera_model,
    distortion_terms,
    image_size,
    intrinsic_matrices,
)
from nope_splat.plugin.camera_optimizer import NopeCameraOptimizer, world_to_camera
from nope_splat.plugin.datamanager import NopeDataManager
from nope_splat.plugin.depth_supervision import DepthSupervision
from nope_splat.plugin.model_options import NopeSplatModelOptions
from nope_splat.plugin.parameters import SplatParameters
from nope_splat.splatting.densification import max_num_gaussians
from nope_splat.splatting.gaussians import Gaussians, concatenate, initialize_gaussians
from nope_splat.splatting.lens import Lens, Rendering, render_distorted
from nope_splat.splatting.losses import (
    TrackObservations,
    photometric_loss,
    reprojection_errors,
    scale_loss,
    track_2d_loss,
    track_3d_loss,
)
from nope_splat.splatting.rasterizer import fold_intrinsics
from nope_splat.splatting.rendering import CameraView, RenderConfig, render_gaussians
from nope_splat.utils.device_defaults import resolved


@dataclass
class NopeSplatModelConfig(NopeSplatModelOptions):
    """Configuration of the model `NopeSplatModel`."""

    _target: type = field(default_factory=lambda: NopeSplatModel)


class NopeSplatModel(SplatParameters):
    """Splatfacto with optimized cameras and track points, on CUDA or on a CPU.

    The model is a subclass of Splatfacto, so that nerfstudio's commands and viewer recognize it. Methods that
    assume CUDA, such as construction and rendering, are overridden. Track points and observations come from
    the metadata of the training data (see `NopeDataParser`).
    """

    config: NopeSplatModelConfig  # pyright: ignore[reportIncompatibleVariableOverride] (only the flags that work)
    camera_optimizer: NopeCameraOptimizer
    background_color: Tensor
    """Color of pixels without Gaussians, RGB in [0, 1]. (3,)."""

    def populate_modules(self) -> None:
        """Create Gaussians from the seeds, and set up track points, cameras and metrics."""
        assert self.seed_points is not None, "the data manager provides the seeds"
        metadata = self.kwargs["metadata"]
        # The first seeds are the track points. They are sparse and seed large Gaussians, which fill the gaps
        # between the small Gaussians of dense seeds. Seeds from depth maps have sizes and opacities.
        sizes = [len(metadata["track_points"]), len(self.seed_points[0]) - len(metadata["track_points"])]
        (track_points, points), (track_colors, colors) = (values.split(sizes) for values in self.seed_points)
        layers = [initialize_gaussians(track_points, track_colors, self.config.sh_degree)]
        if len(points):
            size_opacity = metadata.get("seed_sizes"), metadata.get("seed_opacities")
            layers.append(initialize_gaussians(points, colors, self.config.sh_degree, *size_opacity))
        self.gauss_params = concatenate(layers)
        self.track_params = ParameterDict()
        self.track_points = None
        if self.config.track_points == "tied":
            self.track_params = initialize_gaussians(
                metadata["track_points"], metadata["track_colors"], self.config.sh_degree
            )
        else:
            self.track_points = Parameter(metadata["track_points"].clone())
        self.observations: TrackObservations = metadata["observations"]
        weights, self.depth_supervision = self.config.depth_weights(), None
        if any(weights):
            priors = metadata.get("depth_priors")
            self.depth_supervision = DepthSupervision(self.num_train_data, priors, *weights)
        self.camera_optimizer = self.config.camera_optimizer.setup(
            num_cameras=self.num_train_data,
            device="cpu",
            intrinsics_ids=metadata["camera_ids"],
            num_intrinsics=metadata["num_cameras"],
            is_fisheye=metadata["is_fisheye"],
        )
        self.image_metrics = ImageMetrics()
        self.step = 0
        self.num_iterations = 30000
        self.info: dict[str, Any] = {}
        self.crop_box = None
        color = self.config.background_color
        # Empty pixels get the mean color of the seeds. This color is a buffer, because later commands load no
        # dense seeds but must render the same background.
        mean_color = self.seed_points[1].float().mean(dim=0) / 255
        self.register_buffer(
            "background_color", mean_color if color == "random" else get_color(color).clone()
        )
        self._viewer_backgrounds: dict[int, Tensor] = {}

    # Optimization.

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Return the parameters that Adam optimizes, by the names of nerfstudio's parameter groups.

        Parameters of Gaussians are always included. Parameters of track points, depth corrections and cameras
        are included if the configuration lets Adam optimize them.
        """
        groups = self.get_gaussian_param_groups()
        if not self._adam_optimizes_tracks():
            del groups["track_points"]
        if self.depth_supervision is not None:
            groups["depth_corrections"] = [self.depth_supervision.corrections]
        self.camera_optimizer.get_param_groups(groups)
        return groups

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        """Create the densification strategy, and return Splatfacto's training callbacks.

        Args:
            attributes: Trainer, pipeline and optimizers of the training run.
        """
        assert attributes.trainer is not None
        datamanager = attributes.pipeline.datamanager if attributes.pipeline else None
        assert isinstance(datamanager, NopeDataManager)
        self.num_iterations = attributes.trainer.config.max_num_iterations
        num_fixed = len(self.track_params["means"]) if self.track_params else 0
        num_pixels = datamanager.num_pixels_used()
        max_gaussians = min(
            resolved(self.config.max_gaussians), max_num_gaussians(num_pixels, self.config.sh_degree)
        )
        self.strategy = self.config.densification.strategy(
            self.num_iterations, self.num_train_data, num_fixed, max_gaussians
        )
        self.strategy_state = self.strategy.initialize_state(scene_scale=1.0)
        return super().get_training_callbacks(attributes)

    def update_to_step(self, step: int) -> None:
        """Set the current iteration after a checkpoint is loaded.

        Args:
            step: Iteration of the checkpoint.
        """
        self.step = step

    # Rendering.

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor | list]:  # pyright: ignore[reportIncompatibleMethodOverride] (same parameter name as in Splatfacto)
        """Render the image of a camera, with distortion.

        In training mode, training views are rendered with their optimized poses and intrinsics, at the
        current training resolution.

        Args:
            camera: A single camera, OpenGL axes.

        Returns:
            Colors `rgb` (H, W, 3), opacity `accumulation` (H, W, 1), and the background color `background`,
            (3,) in training mode, else (H, W, 3). In evaluation mode, or if `depth_weight` is not zero, also
            `depth` (H, W, 1) in world units; empty pixels have twice the largest depth.
        """
        assert camera.shape == (1,), "one camera at a time"
        factor = self._get_downscale_factor()
        width, height = (side // factor for side in image_size(camera))
        pose, K = camera.camera_to_worlds, intrinsic_matrices(camera) / factor
        K[:, 2, 2] = 1.0
        background = self._get_background_color()
        gaussians, projection = self.gaussians(), camera_model(camera)
        if self.training:
            pose = self.camera_optimizer.apply_to_camera(camera)
            K, distortion = self.camera_optimizer.apply_to_intrinsics(camera, K)
            T_camera_world, with_depth = world_to_camera(pose), self.config.depth_weight != 0
            if projection == "pinhole":
                T_camera_world = fold_intrinsics(T_camera_world, K)
            rgb, depth, alpha, self.info = self.render(
                gaussians,
                CameraView(T_camera_world, K, (width, height), distortion, projection),
                background,
                sh_degree=self.current_sh_degree(),
                render_mode="RGB+ED" if with_depth else "RGB",
            )
            self.strategy.step_pre_backward(
                self.gauss_params, self.optimizers, self.strategy_state, self.step, self.info
            )
            outputs: dict[str, Tensor | list] = {"rgb": rgb, "accumulation": alpha, "background": background}
            if with_depth:
                outputs["depth"] = depth
            return outputs

        if self.crop_box is not None:
            inside = self.crop_box.within(self.means).squeeze()
            if not inside.any():
                return self.get_empty_outputs(width, height, background)
            gaussians = gaussians.select(inside)
        view = CameraView(world_to_camera(pose), K, (width, height), distortion_terms(camera), projection)
        rgb, depth, alpha, _ = self.render(gaussians, view, background, render_mode="RGB+ED")
        return {
            "rgb": rgb,
            "depth": depth,
            "accumulation": alpha,
            "background": background.expand(height, width, 3),
        }

    def set_background(self, background_color: Tensor) -> None:
        """Set the background color for renderings in the viewer; training and evaluation are not affected.

        nerfstudio renders for each browser in a separate thread. Before each rendering, the thread calls this
        method, and the color applies only to renderings in the same thread.

        Args:
            background_color: Background color selected in the viewer, RGB in [0, 1]. (3,).
        """
        self._viewer_backgrounds[threading.get_ident()] = background_color

    def _get_background_color(self) -> Tensor:
        """Return the background color, RGB in [0, 1]. (3,).

        If a viewer thread calls this method, the result is the color selected in the viewer; otherwise, it is
        the color from the option `background_color`.
        """
        color = None if self.training else self._viewer_backgrounds.get(threading.get_ident())
        return super()._get_background_color() if color is None else color

    def render(
        self,
        gaussians: Gaussians,
        view: CameraView,
        background: Tensor,
        sh_degree: int | None = None,
        render_mode: Literal["RGB", "RGB+ED"] = "RGB",
    ) -> Rendering:
        """Render Gaussians with distortion, in the same way in training and evaluation mode.

        Args:
            gaussians: Gaussians to render.
            view: Pose and intrinsics. Optimized intrinsics of pinhole cameras must be folded into the pose
                (`fold_intrinsics`), because the gradient of the intrinsic matrix alone is incomplete at the
                image borders.
            background: Background color, RGB in [0, 1]. (3,).
            sh_degree: Degree up to which spherical harmonics are evaluated; None for the option `sh_degree`.
            render_mode: "RGB" renders colors; "RGB+ED" also renders the expected depth in world units.

        Returns:
            Colors (H, W, 3), depth (H, W, 1), opacity (H, W, 1), and gsplat's dictionary `info`. In mode
            "RGB", depth is empty (H, W, 0).
        """
        degree = self.config.sh_degree if sh_degree is None else sh_degree
        modes = render_mode, self.config.rasterize_mode

        def ideal(K: Tensor, size: tuple[int, int]) -> Rendering:
            options = RenderConfig(degree, *modes, camera_model=view.camera_model)
            return render_gaussians(gaussians, view.T_camera_world, K, size, background, options)

        is_fixed = view.camera_model == "fisheye" and self.config.camera_optimizer.by_gradient
        return render_distorted(ideal, view.K, view.size, view.distortion, is_fixed)

    def current_sh_degree(self) -> int:
        """Return the degree up to which spherical harmonics are evaluated in the current iteration."""
        return min(
            int(self.step / (self.config.sh_degree_interval_fraction * self.num_iterations)),
            self.config.sh_degree,
        )

    def _get_downscale_factor(self) -> int:
        """Return the current downscaling factor of image width and height; 1 in evaluation mode."""
        if not self.training:
            return 1
        doublings = int(self.step / (self.config.resolution_schedule_fraction * self.num_iterations))
        return 2 ** max(resolved(self.config.num_downscales) - doublings, 0)

    # Losses and metrics.

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Any], metrics_dict=None
    ) -> dict[str, Tensor]:
        """Compute the weighted losses; a loss with weight zero is omitted.

        Args:
            outputs: Outputs of `get_outputs`.
            batch: Batch with the image and an optional mask.
            metrics_dict: Unused.

        Returns:
            Losses by name, () each: `photometric` and, in training mode, track and depth losses.
        """
        image, mask = self.image_and_mask(batch, outputs["background"])
        losses = {"photometric": photometric_loss(outputs["rgb"], image, self.config.ssim_lambda, mask)}
        if self.training:
            losses |= self._track_losses()
            if self.depth_supervision is not None:
                poses = world_to_camera(self.camera_optimizer.poses())
                lenses = self.camera_optimizer.view_focals(), self.camera_optimizer.view_lens()
                losses |= self.depth_supervision.losses(int(batch["image_idx"]), outputs, poses, *lenses)
            self.camera_optimizer.get_loss_dict(losses)
        return losses

    def _track_losses(self) -> dict[str, Tensor]:
        """Return the track losses and the scale loss by name, each multiplied by its weight. () each.

        Losses with weight zero are omitted. The result is empty if only joint refinement optimizes the track
        points.
        """
        config, losses = self.config, {}
        if not self._adam_optimizes_tracks():
            return losses
        tracks = self._track_loss_inputs()
        if config.track_2d_weight:
            losses["track_2d"] = config.track_2d_weight * track_2d_loss(*tracks)
        if config.track_3d_weight:
            losses["track_3d"] = config.track_3d_weight * track_3d_loss(*tracks)
        if config.scale_weight and self.track_params:
            losses["scale"] = config.scale_weight * scale_loss(self.track_params["scales"].exp())
        return losses

    def _adam_optimizes_tracks(self) -> bool:
        """Check whether Adam optimizes the track points; otherwise only joint refinement does."""
        return self.track_points is None or self.config.camera_optimizer.by_gradient

    def _track_loss_inputs(self) -> tuple[Tensor, Tensor, Tensor, TrackObservations, Lens | None]:
        """Return the arguments of the track losses.

        Returns:
            Track points in world coordinates (P, 3); world-to-camera transforms of the training views with
            OpenCV axes (V, 4, 4); focal lengths of these views in full-resolution pixels (V,); track
            observations; and the result of `NopeCameraOptimizer.view_lens`.
        """
        self.observations, cameras = self.observations.to(self.device), self.camera_optimizer
        poses = world_to_camera(cameras.poses())
        return self.track_positions(), poses, cameras.view_focals(), self.observations, cameras.view_lens()

    @torch.no_grad()
    def reprojection_errors(self) -> Tensor:
        """Compute the reprojection error of each track observation, in full-resolution pixels. (O,)."""
        return reprojection_errors(*self._track_loss_inputs())

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Any]:
        """Compute the metrics of a training image: PSNR, number of Gaussians, and metrics of the cameras.

        Args:
            outputs: Outputs of `get_outputs`.
            batch: Batch with the image and an optional mask.

        Returns:
            Metrics by name.
        """
        image, mask = self.image_and_mask(batch, outputs["background"])
        metrics = {
            "psnr": self.image_metrics.psnr(outputs["rgb"].detach(), image, mask),
            "gaussian_count": self.num_points,
        }
        self.camera_optimizer.get_metrics_dict(metrics)
        return metrics

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Compute PSNR, SSIM and, if available, LPIPS of a rendering, and an image for comparison.

        Args:
            outputs: Outputs of `get_outputs`.
            batch: Batch with the image and an optional mask.

        Returns:
            Metrics by name, and a dictionary with the entry `img`, the image and the rendering side by side
            (H, 2 W, 3).
        """
        image, mask = self.image_and_mask(batch, outputs["background"])
        images = {"img": torch.cat([image, outputs["rgb"]], dim=1)}
        return self.image_metrics(outputs["rgb"], image, mask), images

    def image_and_mask(self, batch: dict[str, Any], background: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the image and mask of a batch, at the current training resolution in training mode.

        Args:
            batch: Batch with the image and an optional mask, from the data manager.
            background: Background color that replaces transparent pixels. (3,) or (H, W, 3).

        Returns:
            Colors in [0, 1] (H, W, 3), and the mask (H, W, 1), True for used pixels; the mask is None if all
            pixels are used.
        """
        image = self.composite_with_background(self.get_gt_img(batch["image"]), background)
        mask = batch.get("mask")
        if mask is not None:
            factor = self._get_downscale_factor()
            mask = mask.to(self.device)
            mask = mask if factor == 1 else resize_image(mask, factor) > 0.999
        return image, mask
