"""The pipeline: joint camera refinement, checkpoints with all cameras, and evaluation on held-out images."""

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
from nope_splat.plugin.held_out_alignment import refine_pose, resect_on_trained_points
from nope_splat.plugin.history import History
from nope_splat.plugin.model import NopeSplatModel, NopeSplatModelConfig
from nope_splat.plugin.viewer import NopeViewerControl
from nope_splat.splatting.rasterizer.ssim import WINDOW
from nope_splat.utils.cache import read_only_caches
from nope_splat.utils.device_defaults import resolve_defaults, resolved
from nope_splat.utils.progress import progress_bar
from nope_splat.utils.ranges import NOT_NEGATIVE, check_ranges, set_missing_to_defaults

logger = logging.getLogger(__name__)

LOGGED_METRICS = ("psnr", "ssim", "lpips")
"""Names of the image metrics that are logged by `ns-eval`."""


@dataclass
class NopePipelineConfig(VanillaPipelineConfig):
    """Options of the pipeline: data manager, model and alignment of held-out images."""

    _target: type = field(default_factory=lambda: NopePipeline)
    datamanager: NopeDataManagerConfig = field(default_factory=NopeDataManagerConfig)
    """Options of the data manager: images, structure from motion and seeds."""
    model: NopeSplatModelConfig = field(default_factory=NopeSplatModelConfig)
    """Options of the model: Gaussians, track points and cameras."""
    alignment_steps: Annotated[int, NOT_NEGATIVE] = 10
    """Maximum number of Levenberg-Marquardt steps at each of the three resolutions of photometric alignment,
    which refines the pose of a held-out image before evaluation. With 0, the pose from resection is not
    refined."""


class NopePipeline(VanillaPipeline):
    """nerfstudio pipeline that aligns the poses of held-out images to the current model.

    Before an evaluation, held-out poses are aligned again (see `held_out_alignment`) if the model has changed
    since the last alignment.
    Checkpoints contain the aligned poses, so that evaluation, viewer, rendering and export use the same
    poses.
    """

    config: NopePipelineConfig
    datamanager: NopeDataManager
    eval_poses: Tensor
    """Camera-to-world transforms of the E registered held-out images, OpenGL axes. (E, 3, 4)."""
    aligned_step: Tensor
    """Iteration at which the poses of all held-out images were last aligned to the model; -1 if never. ()."""

    def __init__(
        self,
        config: NopePipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        # nerfstudio's commands read configurations without checks, perhaps those of an earlier version.
        set_missing_to_defaults(config)
        check_ranges(config)
        resolve_defaults(config, "cuda" if torch.device(device).type == "cuda" else "cpu")
        if test_mode != "val" and torch.device(device).type == "cuda":  # commands pass any available GPU
            device = choose_device()
        if torch.device(device).type == "cpu":
            # The rasterizer has its own threads, and idle torch threads would compete with them by spinning.
            torch.set_num_threads(1)
        dataparser, optimizer_config = config.datamanager.dataparser, config.model.camera_optimizer
        dataparser.depth_priors = any(config.model.depth_weights())
        dataparser.keep_distortion = optimizer_config.learns_lens()
        if optimizer_config.optimize_distortion:
            # Without distortion, SfM fits wrong focal lengths and points, which training cannot correct.
            # Therefore distortion is also estimated during SfM.
            mapper = replace(dataparser.sfm.mapper, refine_extra_params=True)
            dataparser.sfm = replace(dataparser.sfm, mapper=mapper)
        # Commands get the cache folder from a config.yml, which another person may have written.
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
        if scene.focal_fixed:  # renderings do not constrain the focal length better than tracks
            cameras.config.optimize_focal = False
        if cameras.learned_lens is not None:
            cameras.learned_lens.set_base(scene)
        self.register_buffer("eval_poses", eval_poses.clone())
        self.register_buffer("aligned_step", torch.tensor(-1, device=eval_poses.device))
        # Iteration of the last alignment of each held-out image; `aligned_step` is that of all images.
        self._aligned_steps = [-1] * len(eval_poses)
        self.history = History()
        self.same_reconstruction = True  # whether the loaded checkpoint was trained on this reconstruction
        self.viewer_control = NopeViewerControl(self)  # nerfstudio's viewer searches for controls

    @property
    def model(self) -> NopeSplatModel:
        """The model, without PyTorch's wrapper for distributed training."""
        model = super().model
        assert isinstance(model, NopeSplatModel)
        return model

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        """Return the training callbacks of data manager, model, viewer panel and joint refinement.

        Args:
            attributes: Trainer, pipeline and optimizers of the training run.
        """
        location = [TrainingCallbackLocation.AFTER_TRAIN_ITERATION]
        panel = TrainingCallback(location, self.viewer_control.update, update_every_num_iters=50)
        callbacks = [*super().get_training_callbacks(attributes), panel]
        few_tracks = has_few_tracks(self.model)
        times = self.model.camera_optimizer.refinement_iterations(self.model.num_iterations, few_tracks)
        return [*callbacks, TrainingCallback(location, self.adjust_cameras, iters=times)]

    def adjust_cameras(self, step: int) -> None:
        """Run joint refinement of the training cameras and track points; a callback of the training loop.

        Args:
            step: Iteration; unused.
        """
        del step
        cameras = self.datamanager.train_dataset.cameras
        adjust_cameras(self.model, cameras, self.datamanager.cached_train, has_few_tracks(self.model))

    # Checkpoints.

    def get_extra_state(self) -> dict[str, Any]:
        """Return a description of the training data for the checkpoint.

        Returns:
            Dictionary with the image names `train` and `eval`, the number of track points `num_points`, and
            the focal length of each camera in full-resolution pixels, `focals`. If there are fisheye cameras,
            also `is_fisheye`, which is True for these cameras.
        """
        scene = self.datamanager.dataparser.scene
        names = {
            split: [scene.image_names[i] for i in self.datamanager.dataparser.image_ids(split)]
            for split in ("train", "eval")
        }
        state = {
            **names,
            "num_points": len(scene.points),
            "focals": [camera.focal for camera in scene.cameras],
        }
        if self.model.camera_optimizer.has_fisheye:
            state["is_fisheye"] = [camera.is_fisheye for camera in scene.cameras]
        return state

    def set_extra_state(self, state: Any) -> None:
        """Do nothing, because `load_pipeline` has already compared this description with the training data.

        Args:
            state: Result of `get_extra_state`; unused.
        """

    def data_difference(self, state: dict[str, Any]) -> Literal["images", "reconstruction"] | None:
        """Compare the training data of a checkpoint with the current data.

        Args:
            state: State of the pipeline from a checkpoint.

        Returns:
            "images" if the image names of a split differ or the checkpoint does not contain them;
            "reconstruction" if only the number of track points or a focal length differs; None if the data
            are the same.
        """
        saved, current = state.get("_extra_state"), self.get_extra_state()
        with report_mismatch():
            if saved is None or any(saved[split] != current[split] for split in ("train", "eval")):
                return "images"
            return None if saved == current else "reconstruction"

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load the state of a checkpoint, after checking that the checkpoint fits the current data.

        Outside training, two steps follow:

        1. If the checkpoint has no aligned held-out poses for this iteration, these poses are aligned. This
           step is omitted if the reconstruction differs from the one in the checkpoint.
        2. The optimized cameras replace those of the data manager, so that viewer, rendering and export use
           them.

        Args:
            loaded_state: State of the pipeline from a checkpoint.
            step: Iteration of the checkpoint.

        Raises:
            NopeSplatError: If the checkpoint was trained on different images, does not match this version or
                the current settings, or contains invalid values; in training, also if the reconstruction
                differs.
        """
        difference = self.data_difference(loaded_state)
        if difference == "images":
            raise NopeSplatError(
                "checkpoint-mismatch",
                f"the photos in {self.datamanager.get_datapath()} differ from the photos of the checkpoint;"
                " restore the original photos or train again",
            )
        self.same_reconstruction = difference is None
        if self.test_mode == "val" and not self.same_reconstruction:
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
        if self.test_mode != "val" and self.same_reconstruction:
            self.align_held_out(step)
        self._update_cameras()

    # Held-out images.

    def align_held_out(self, step: int) -> None:
        """Align the poses of all registered held-out images to the current model (see `align_view`).

        Images that were already aligned at this iteration are skipped.

        Args:
            step: Current iteration of the model.
        """
        if self.aligned_step == step:
            return
        outdated = [index for index, aligned in enumerate(self._aligned_steps) if aligned != step]
        for index in progress_bar(outdated, "Aligning held-out photos"):
            self.align_view(index, step)
        self._update_cameras()
        self.aligned_step.fill_(step)

    def align_view(self, index: int, step: int) -> None:
        """Align the pose of a held-out image to the current model, unless already done at this iteration.

        The image is registered by resection on the optimized track points, and its pose is refined by
        photometric alignment with the rendering. If resection fails, the previous pose is refined.

        Args:
            index: Index of the image in the evaluation dataset.
            step: Current iteration of the model.
        """
        if self._aligned_steps[index] == step:
            return
        model, datamanager = self.model, self.datamanager
        image_id = int(datamanager.dataparser.image_ids("eval")[index])
        scene, background = datamanager.dataparser.scene, model.background_color.to(self.device)
        optimized = replace(scene, cameras=model.camera_optimizer.cameras(scene.cameras))
        intrinsics = optimized.camera_of(image_id)
        was_training = model.training
        model.eval()
        registered = resect_on_trained_points(scene, image_id, model.track_positions(), intrinsics)
        correspondences = None
        if registered is not None:
            self.eval_poses[index], correspondences = registered
        self._update_cameras()
        camera = datamanager.eval_dataset.cameras[index : index + 1].to(self.device)
        image, mask = model.image_and_mask(datamanager.cached_eval[index], background)
        self.eval_poses[index] = refine_pose(
            model, camera, image, mask, self.config.alignment_steps, correspondences
        )
        model.train(was_training)
        self._update_cameras()
        self._aligned_steps[index] = step

    def _update_cameras(self) -> None:
        """Copy the optimized cameras to the data manager; in training, only those of the held-out images."""
        cameras = self.model.camera_optimizer
        with torch.no_grad():
            lens = None if (learned := cameras.lens()) is None else learned.to("cpu")
            optimized = OptimizedCameras(
                cameras.poses().cpu(), self.eval_poses.cpu(), cameras.focal().cpu(), lens
            )
        if self.test_mode == "val":  # in training, the optimizer starts from the dataset's training cameras
            self.datamanager.set_eval_cameras(optimized)
        else:
            self.datamanager.set_cameras(optimized)
            self.config.datamanager.optimized_cameras = optimized

    def get_eval_image_metrics_and_images(self, step: int) -> tuple[dict, dict]:
        """Align the pose of the next held-out image, and return image metrics and a comparison image.

        Args:
            step: Current iteration of the model.

        Returns:
            Metrics by name, and a dictionary with the entry `img`, the image and the rendering side by side
            (H, 2 W, 3).
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
        """Compute the mean metrics of all registered held-out images.

        Args:
            step: Current iteration of the model; held-out poses are first aligned to this model. None to keep
                the current poses, such as the poses from a loaded checkpoint.
            output_path: Folder to which renderings are saved; None to save none.
            get_std: Whether to compute standard deviations too; ignored for a single image.

        Returns:
            Metrics by name, including `held_out_unregistered`, the number of held-out images without a pose.

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
                f"there are no held-out photos to evaluate because {', '.join(unregistered)} could not be"
                " registered; hold out other photos with --pipeline.datamanager.dataparser.eval-interval"
                if unregistered
                else "there are no held-out photos to evaluate because none was held out; train with"
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
    """Check that the downscaled images at the start of training are at least as large as the SSIM window.

    Args:
        cameras: Cameras of the training images, at full training resolution.
        num_downscales: Number of times that width and height of the images are halved at the start.

    Raises:
        NopeSplatError: If an image is too small.
    """
    width, height = int(cameras.width.min()), int(cameras.height.min())
    if min(width, height) // 2**num_downscales < WINDOW:
        raise NopeSplatError(
            "invalid-option",
            f"training images of {width} x {height} pixels, halved {num_downscales} times, are smaller than"
            f" the SSIM window of {WINDOW} pixels; increase max-image-size or decrease num-downscales",
        )
