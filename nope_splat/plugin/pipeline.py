"""The pipeline: joint refinement, complete cameras in checkpoints, and evaluation on held-out images."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import (
    TrainingCallback,
    TrainingCallbackAttributes,
    TrainingCallbackLocation,
)
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from torch import Tensor

from nope_splat.errors import NopeSplatError
from nope_splat.plugin.camera_adjustment import adjust_cameras, has_few_tracks
from nope_splat.plugin.checkpoint_content import require_cameras, require_finite
from nope_splat.plugin.checkpoints import report_mismatch, require_same_names
from nope_splat.plugin.datamanager import NopeDataManager, NopeDataManagerConfig, OptimizedCameras
from nope_splat.plugin.device import choose_device
from nope_splat.plugin.held_out import refine_pose, resect_on_trained_points
from nope_splat.plugin.history import History
from nope_splat.plugin.model import NopeSplatModel, NopeSplatModelConfig
from nope_splat.plugin.viewer import NopeViewerControl
from nope_splat.splatting.lens import Lens
from nope_splat.splatting.rasterizer.ssim import WINDOW
from nope_splat.utils.cache import read_only_caches
from nope_splat.utils.device_defaults import resolved
from nope_splat.utils.progress import progress_bar
from nope_splat.utils.ranges import NOT_NEGATIVE, check_ranges

logger = logging.getLogger(__name__)

LOGGED_METRICS = ("psnr", "ssim", "lpips")
"""Image metrics that evaluation logs."""


@dataclass
class NopePipelineConfig(VanillaPipelineConfig):
    """Configuration of the pipeline."""

    _target: type = field(default_factory=lambda: NopePipeline)
    datamanager: NopeDataManagerConfig = field(default_factory=NopeDataManagerConfig)
    """Data manager: images, cameras, seeds and tracks."""
    model: NopeSplatModelConfig = field(default_factory=NopeSplatModelConfig)
    """Model: Gaussians, track points and cameras."""
    alignment_steps: Annotated[int, NOT_NEGATIVE] = 10
    """Maximum number of pose refinement steps, at each of three resolutions, before a held-out image is
    evaluated."""


class NopePipeline(VanillaPipeline):
    """Pipeline that aligns the poses of held-out images with the current model.

    Held-out poses are aligned again after the model has changed. Checkpoints store them, so that evaluation,
    viewer, rendering and export agree.
    """

    config: NopePipelineConfig
    datamanager: NopeDataManager
    eval_poses: Tensor
    aligned_step: Tensor

    def __init__(
        self,
        config: NopePipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        check_ranges(config)  # nerfstudio's commands read it from a file
        if test_mode != "val" and torch.device(device).type == "cuda":  # commands use any available GPU
            device = choose_device()
        if torch.device(device).type == "cpu":
            # The rasterizer has its own threads, and idle torch threads would compete with them by spinning.
            torch.set_num_threads(1)
        dataparser, optimizer_config = config.datamanager.dataparser, config.model.camera_optimizer
        dataparser.depth_priors = any(config.model.depth_weights())
        dataparser.keep_distortion = optimizer_config.learns_lens()
        if optimizer_config.optimize_distortion:
            # A pinhole fit absorbs distortion into focal length, principal point and structure, and training
            # cannot undo it. So estimate distortion during SfM.
            mapper = replace(dataparser.sfm.mapper, refine_extra_params=True)
            dataparser.sfm = replace(dataparser.sfm, mapper=mapper)
        # Commands get the cache folder from a config.yml, which may be that of somebody else.
        with nullcontext() if test_mode == "val" else read_only_caches():
            super().__init__(config, device, test_mode, world_size, local_rank, grad_scaler)
        if test_mode == "val":
            require_min_image_size(
                self.datamanager.train_dataset.cameras, resolved(config.model.num_downscales)
            )
        datasets = self.datamanager.train_dataset, self.datamanager.eval_dataset
        train_poses, eval_poses = (dataset.cameras.camera_to_worlds.to(device) for dataset in datasets)
        scene, cameras = self.datamanager.dataparser.scene, self.model.camera_optimizer
        cameras.set_base(train_poses, torch.tensor([camera.focal for camera in scene.cameras], device=device))
        if scene.focal_fixed:  # renderings do not constrain it any better
            cameras.config.optimize_focal = False
        if cameras.learned_lens is not None:
            cameras.learned_lens.set_base(scene)
        self.register_buffer("eval_poses", eval_poses.clone())
        self.register_buffer("aligned_step", torch.tensor(-1, device=eval_poses.device))
        self._aligned_steps = [-1] * len(eval_poses)  # by image; `aligned_step` is their common value, if any
        self.history = History()
        self.same_scene = True  # whether the current reconstruction is that of the loaded checkpoint
        self.viewer_control = NopeViewerControl(self)  # the viewer searches the pipeline for its controls

    @property
    def model(self) -> NopeSplatModel:
        """The model, unwrapped."""
        model = super().model
        assert isinstance(model, NopeSplatModel)
        return model

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        """Return the callbacks of data and model, of the viewer panel and of joint refinement."""
        location = [TrainingCallbackLocation.AFTER_TRAIN_ITERATION]
        panel = TrainingCallback(location, self.viewer_control.update, update_every_num_iters=50)
        callbacks = [*super().get_training_callbacks(attributes), panel]
        few_tracks = has_few_tracks(self.model)
        times = self.model.camera_optimizer.adjustment_steps(self.model.num_iterations, few_tracks)
        return [*callbacks, TrainingCallback(location, self.adjust_cameras, iters=times)]

    def adjust_cameras(self, step: int) -> None:
        """Adjust all cameras jointly; called by the training loop.

        Args:
            step: Iteration; unused.
        """
        del step
        cameras = self.datamanager.train_dataset.cameras
        adjust_cameras(self.model, cameras, self.datamanager.cached_train, has_few_tracks(self.model))

    # Checkpoints.

    def get_extra_state(self) -> dict[str, Any]:
        """Return a description of the training data for the checkpoint, in plain containers."""
        scene = self.datamanager.dataparser.scene
        names = {
            split: [scene.image_names[i] for i in self.datamanager.dataparser.image_ids(split)]
            for split in ("train", "eval")
        }
        return {
            **names,
            "num_points": len(scene.points),
            "focals": [camera.focal for camera in scene.cameras],
        }

    def set_extra_state(self, state: Any) -> None:
        """Restore nothing, because `load_pipeline` compares the state."""

    def difference(self, state: dict[str, Any]) -> Literal["images", "reconstruction"] | None:
        """Compare the training data of a checkpoint with the current data.

        Args:
            state: State of the pipeline from a checkpoint.

        Returns:
            The first difference, or None if the data are the same.
        """
        saved, current = state.get("_extra_state"), self.get_extra_state()
        with report_mismatch():
            if saved is None or any(saved[split] != current[split] for split in ("train", "eval")):
                return "images"
            return None if saved == current else "reconstruction"

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint; outside training, also update the cameras for viewer, rendering and export.

        Args:
            loaded_state: State of the pipeline from a checkpoint.
            step: Iteration of the checkpoint.

        Raises:
            NopeSplatError: If the checkpoint was trained on different images, if its version or settings do
                not match, if its cameras are not finite, or if training resumes with a different
                reconstruction.
        """
        difference = self.difference(loaded_state)
        if difference == "images":
            raise NopeSplatError(
                "checkpoint-mismatch",
                f"the photos in {self.datamanager.get_datapath()} differ from the photos of the checkpoint;"
                " restore the original photos or train again",
            )
        self.same_scene = difference is None
        if self.test_mode == "val" and not self.same_scene:
            raise NopeSplatError(
                "checkpoint-mismatch",
                f"the reconstruction of {self.datamanager.get_datapath()} differs from the one in the"
                " checkpoint; restore the original settings and cache, or train again",
            )
        require_finite(loaded_state)
        with report_mismatch():
            require_same_names(loaded_state, self.state_dict())
            super().load_pipeline(loaded_state, step)
        require_cameras(self.model.camera_optimizer)
        if self.test_mode != "val":
            self.model.remove_nonfinite_gaussians()
        self._aligned_steps = [int(self.aligned_step)] * len(self.eval_poses)
        if self.test_mode != "val" and self.same_scene:
            self.align_held_out(step)
        self._show_cameras()

    # Held-out images.

    def align_held_out(self, step: int) -> None:
        """Register and refine the poses of all held-out images that are not aligned at this step.

        Args:
            step: Iteration of the model's state.
        """
        if self.aligned_step == step:
            return
        outdated = [index for index, aligned in enumerate(self._aligned_steps) if aligned != step]
        for index in progress_bar(outdated, "Aligning held-out photos"):
            self.align_view(index, step)
        self._show_cameras()
        self.aligned_step.fill_(step)

    def align_view(self, index: int, step: int) -> None:
        """Register and refine the pose of a held-out image, unless that was already done at this step.

        Args:
            index: Index of the held-out image in the evaluation split.
            step: Iteration of the model's state.
        """
        if self._aligned_steps[index] == step:
            return
        model, datamanager = self.model, self.datamanager
        image_id = int(datamanager.dataparser.image_ids("eval")[index])
        scene, background = datamanager.dataparser.scene, model.background_color.to(self.device)
        intrinsics = model.camera_optimizer.cameras(scene.cameras)[scene.camera_ids[image_id]]
        was_training = model.training
        model.eval()
        registered = resect_on_trained_points(scene, image_id, model.track_positions(), intrinsics)
        correspondences = None
        if registered is not None:
            self.eval_poses[index], correspondences = registered
        self._show_cameras()
        camera = datamanager.eval_dataset.cameras[index : index + 1].to(self.device)
        image, mask = model.image(datamanager.cached_eval[index], background)
        self.eval_poses[index] = refine_pose(
            model, camera, image, mask, self.config.alignment_steps, correspondences
        )
        model.train(was_training)
        self._show_cameras()
        self._aligned_steps[index] = step

    def _show_cameras(self) -> None:
        cameras = self.model.camera_optimizer
        with torch.no_grad():
            lens = None if (learned := cameras.lens()) is None else Lens(*(part.cpu() for part in learned))
            optimized = OptimizedCameras(
                cameras.poses().cpu(), self.eval_poses.cpu(), cameras.focal().cpu(), lens
            )
        if self.test_mode == "val":  # in training, the optimizer starts from the dataset's training cameras
            self.datamanager.set_eval_cameras(optimized)
        else:
            self.datamanager.set_cameras(optimized)
            self.config.datamanager.optimized_cameras = optimized

    def get_eval_image_metrics_and_images(self, step: int) -> tuple[dict, dict]:
        """Align one held-out image, and compute its metrics and comparison images.

        Args:
            step: Iteration.
        """
        self.eval()
        _, batch = self.datamanager.next_eval_image(step)
        index = int(batch["image_idx"])
        self.align_view(index, step)
        camera = self.datamanager.eval_dataset.cameras[index : index + 1]
        outputs = self.model.get_outputs_for_camera(camera)
        metrics, images = self.model.get_image_metrics_and_images(outputs, batch)
        self.train()
        return {**metrics, "num_rays": math.prod(batch["image"].shape[:2])}, images

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, float]:
        """Compute the average metrics of all held-out images after alignment, and count those without a pose.

        Args:
            step: Iteration; None to keep the alignment of the loaded checkpoint.
            output_path: Folder for renderings; None to save none.
            get_std: Whether to add standard deviations.

        Raises:
            NopeSplatError: If no held-out image has a pose.
        """
        if step is not None:
            self.align_held_out(step)
        unregistered = self.datamanager.dataparser.unregistered_held_out()
        count = len(self.datamanager.eval_dataset)
        if count == 0:
            raise NopeSplatError(
                "nothing-to-evaluate",
                f"there is nothing to evaluate on because {', '.join(unregistered)} could not be registered;"
                " hold out other photos with --pipeline.datamanager.dataparser.eval-interval"
                if unregistered
                else "there is nothing to evaluate on because no photo was held out; train with"
                " eval-mode interval and an eval-interval no larger than the number of photos"
                " (--pipeline.datamanager.dataparser.eval-mode, .eval-interval)",
            )
        # The standard deviation of a single image is NaN, which JSON cannot represent.
        metrics = super().get_average_eval_image_metrics(step, output_path, get_std and count > 1)
        for name in unregistered:
            logger.warning(f"Excluded {name} from the averages because it could not be registered.")
        if step is None:  # ns-eval prints only the name of its output file
            logged = [name for name in LOGGED_METRICS if name in metrics]
            summary = ", ".join(f"{name.upper()} {metrics[name]:.3f}" for name in logged)
            logger.info(f"Held-out photos (mean of {count}): {summary}.")
        return {**metrics, "held_out_unregistered": len(unregistered)}


def require_min_image_size(cameras: Cameras, num_downscales: int) -> None:
    """Check that the smallest training image is no smaller than the SSIM window at the lowest resolution.

    Args:
        cameras: The training cameras.
        num_downscales: Number of times that images are halved at the start of the training.

    Raises:
        NopeSplatError: If a side is too short.
    """
    width, height = int(cameras.width.min()), int(cameras.height.min())
    if min(width, height) // 2**num_downscales < WINDOW:
        raise NopeSplatError(
            "invalid-option",
            f"training images of {width} x {height} pixels, halved {num_downscales} times, are smaller than"
            f" the SSIM window of {WINDOW} pixels; increase max-image-size or decrease num-downscales",
        )
