"""The pipeline: optimized cameras in checkpoints, and evaluation on held-out images."""

from __future__ import annotations

import logging
import math
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
from nope_splat.plugin.checkpoints import report_mismatch, require_same_names
from nope_splat.plugin.datamanager import NopeDataManager, NopeDataManagerConfig, OptimizedCameras
from nope_splat.plugin.device import choose_device
from nope_splat.plugin.held_out import refine_pose, resect_on_trained_points
from nope_splat.plugin.history import History
from nope_splat.plugin.model import NopeSplatModel, NopeSplatModelConfig
from nope_splat.plugin.viewer import NopeViewerControl
from nope_splat.splatting.lens import Lens
from nope_splat.splatting.rasterizer.ssim import WINDOW
from nope_splat.utils.device_defaults import resolved
from nope_splat.utils.progress import progress_bar
from nope_splat.utils.ranges import NOT_NEGATIVE

logger = logging.getLogger(__name__)

MEASURES = ("psnr", "ssim", "lpips")
"""What evaluation tells of the held-out images."""


@dataclass
class NopePipelineConfig(VanillaPipelineConfig):
    """Configuration of the pipeline."""

    _target: type = field(default_factory=lambda: NopePipeline)
    datamanager: NopeDataManagerConfig = field(default_factory=NopeDataManagerConfig)
    """The data."""
    model: NopeSplatModelConfig = field(default_factory=NopeSplatModelConfig)
    """The model."""
    alignment_steps: Annotated[int, NOT_NEGATIVE] = 10
    """Most steps, at each of three resolutions, that refine the pose of a held-out image before it is
    compared."""


class NopePipeline(VanillaPipeline):
    """Joins data and model, and keeps the poses of the held-out images up to date.

    These poses belong to one state of the model: they are aligned again when that has changed, and stored in
    checkpoints, so that evaluation, viewer, rendering and export agree.
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
        if test_mode != "val" and torch.device(device).type == "cuda":  # commands ask for any GPU there is
            device = choose_device()
        if torch.device(device).type == "cpu":
            # The rasterizer has its own threads; torch's would spin beside them while they wait for work.
            torch.set_num_threads(1)
        dataparser, learned = config.datamanager.dataparser, config.model.camera_optimizer
        dataparser.depth_priors = any(config.model.depth_weights())
        dataparser.keep_distortion = learned.learns_lens()
        if learned.optimize_distortion:
            # A pinhole fitted to bent images has another focal length and principal point, and surfaces
            # bent with it, by which renderings agree: from there training does not find back.
            mapper = replace(dataparser.sfm.mapper, refine_extra_params=True)
            dataparser.sfm = replace(dataparser.sfm, mapper=mapper)
        super().__init__(config, device, test_mode, world_size, local_rank, grad_scaler)
        if test_mode == "val":
            require_min_image_size(
                self.datamanager.train_dataset.cameras, resolved(config.model.num_downscales)
            )
        datasets = self.datamanager.train_dataset, self.datamanager.eval_dataset
        train_poses, eval_poses = (dataset.cameras.camera_to_worlds.to(device) for dataset in datasets)
        scene, cameras = self.datamanager.dataparser.scene, self.model.camera_optimizer
        cameras.set_base(train_poses, torch.tensor([camera.focal for camera in scene.cameras], device=device))
        if scene.focal_fixed:  # renderings do not show it any better
            cameras.config.optimize_focal = False
        if cameras.learned_lens is not None:
            cameras.learned_lens.set_base(scene)
        self.register_buffer("eval_poses", eval_poses.clone())
        self.register_buffer("aligned_step", torch.tensor(-1, device=eval_poses.device))
        self._aligned_steps = [-1] * len(eval_poses)  # of each; `aligned_step` is that of all, if they agree
        self.history = History()
        self.same_scene = True  # whether the reconstruction at hand is the one that was trained on
        self.viewer_control = NopeViewerControl(self)  # the viewer finds it here

    @property
    def model(self) -> NopeSplatModel:
        """The model, unwrapped."""
        model = super().model
        assert isinstance(model, NopeSplatModel)
        return model

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        """Those of data and model, and the viewer's panel."""
        location = [TrainingCallbackLocation.AFTER_TRAIN_ITERATION]
        panel = TrainingCallback(location, self.viewer_control.update, update_every_num_iters=50)
        callbacks = [*super().get_training_callbacks(attributes), panel]
        few_tracks = has_few_tracks(self.model)
        times = self.model.camera_optimizer.adjustment_steps(self.model.num_iterations, few_tracks)
        return [*callbacks, TrainingCallback(location, self.adjust_cameras, iters=times)]

    def adjust_cameras(self, step: int) -> None:
        """Adjust all cameras jointly; called by the training loop.

        Args:
            step: Iteration; not used.
        """
        del step
        cameras = self.datamanager.train_dataset.cameras
        adjust_cameras(self.model, cameras, self.datamanager.cached_train, has_few_tracks(self.model))

    # Checkpoints.

    def get_extra_state(self) -> dict[str, Any]:
        """What the checkpoint was trained on, in plain containers."""
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
        """Nothing to restore: `load_pipeline` has compared the state."""

    def difference(self, state: dict[str, Any]) -> Literal["images", "reconstruction"] | None:
        """What a checkpoint was trained on that is not at hand.

        Args:
            state: State of the pipeline.

        Returns:
            The first thing that differs, if any does.
        """
        saved, mine = state.get("_extra_state"), self.get_extra_state()
        if saved is None or any(saved[split] != mine[split] for split in ("train", "eval")):
            return "images"
        return None if saved == mine else "reconstruction"

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint; outside training, also show its cameras to viewer, rendering and export.

        Args:
            loaded_state: State of the pipeline.
            step: Iteration at which it was saved.

        Raises:
            NopeSplatError: If the checkpoint was trained on other images or, to go on training, on another
                reconstruction, or is of another version or of other settings.
        """
        difference = self.difference(loaded_state)
        if difference == "images":
            raise NopeSplatError(
                "checkpoint-mismatch",
                f"the photos in {self.datamanager.get_datapath()} are not those of the checkpoint;"
                " put them back or train anew",
            )
        self.same_scene = difference is None
        if self.test_mode == "val" and not self.same_scene:
            raise NopeSplatError(
                "checkpoint-mismatch",
                f"the reconstruction of {self.datamanager.get_datapath()} is not that of the checkpoint;"
                " restore its settings and cache, or train anew",
            )
        with report_mismatch():
            require_same_names(loaded_state, self.state_dict())
            super().load_pipeline(loaded_state, step)
        self._aligned_steps = [int(self.aligned_step)] * len(self.eval_poses)
        if self.test_mode != "val" and self.same_scene:
            self.align_held_out(step)
        self._show_cameras()

    # Held-out images.

    def align_held_out(self, step: int) -> None:
        """Register and refine the poses of all held-out images, unless that was done at this step.

        Args:
            step: Iteration that the state of the model belongs to.
        """
        if self.aligned_step == step:
            return
        waiting = [index for index, aligned in enumerate(self._aligned_steps) if aligned != step]
        for index in progress_bar(waiting, "Aligning held-out photos"):
            self.align_view(index, step)
        self._show_cameras()
        self.aligned_step.fill_(step)

    def align_view(self, index: int, step: int) -> None:
        """Register and refine the pose of one held-out image, unless that was done at this step.

        Args:
            index: Number of the held-out image.
            step: Iteration that the state of the model belongs to.
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
        sightings = None
        if registered is not None:
            self.eval_poses[index], sightings = registered
        self._show_cameras()
        camera = datamanager.eval_dataset.cameras[index : index + 1].to(self.device)
        image, mask = model.image(datamanager.cached_eval[index], background)
        self.eval_poses[index] = refine_pose(
            model, camera, image, mask, self.config.alignment_steps, sightings
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
        if self.test_mode == "val":  # training: its cameras must stay the ones that the optimizer starts from
            self.datamanager.set_eval_cameras(optimized)
        else:
            self.datamanager.set_cameras(optimized)
            self.config.datamanager.optimized_cameras = optimized

    def get_eval_image_metrics_and_images(self, step: int) -> tuple[dict, dict]:
        """Metrics and images of one held-out image, the only one that is aligned for them.

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
        """Metrics of all held-out images, after alignment, and how many have no pose.

        Args:
            step: Iteration; None for that of the loaded checkpoint.
            output_path: Where to save renderings, if at all.
            get_std: Whether to add standard deviations.

        Raises:
            NopeSplatError: If there is no held-out image to evaluate on.
        """
        if step is not None:
            self.align_held_out(step)
        unregistered = self.datamanager.dataparser.unregistered_held_out()
        count = len(self.datamanager.eval_dataset)
        if count == 0:
            raise NopeSplatError(
                "nothing-to-evaluate",
                f"there is nothing to evaluate on, because {', '.join(unregistered)} could not be registered;"
                " hold other photos out with --pipeline.datamanager.dataparser.eval-interval"
                if unregistered
                else "there is nothing to evaluate on, because no photo was held out; train with"
                " eval-mode interval and an eval-interval up to the number of photos"
                " (--pipeline.datamanager.dataparser.eval-mode, .eval-interval)",
            )
        # One image has no standard deviation, and NaN is not JSON.
        metrics = super().get_average_eval_image_metrics(step, output_path, get_std and count > 1)
        for name in unregistered:
            logger.warning(f"Not in the averages, because it could not be registered: {name}")
        if step is None:  # ns-eval, which tells no more than the name of its file
            told = ", ".join(f"{name.upper()} {metrics[name]:.3f}" for name in MEASURES if name in metrics)
            logger.info(f"Held-out photos, mean of {count}: {told}.")
        return {**metrics, "held_out_unregistered": len(unregistered)}


def require_min_image_size(cameras: Cameras, num_downscales: int) -> None:
    """Check that the smallest images which training compares hold a window of the structural similarity.

    Args:
        cameras: The training cameras.
        num_downscales: How many times their images are halved at first.

    Raises:
        NopeSplatError: If a side is too short.
    """
    width, height = int(cameras.width.min()), int(cameras.height.min())
    if min(width, height) // 2**num_downscales < WINDOW:
        raise NopeSplatError(
            "invalid-option",
            f"training images of {width} x {height} pixels, halved {num_downscales} times, have sides shorter"
            f" than the {WINDOW} pixels that the loss compares; raise max-image-size or lower num-downscales",
        )
