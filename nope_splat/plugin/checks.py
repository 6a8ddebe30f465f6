"""Check for contradictory settings before a training run starts."""

from __future__ import annotations

from nerfstudio.engine.trainer import TrainerConfig

from nope_splat.errors import NopeSplatError
from nope_splat.plugin.pipeline import NopePipelineConfig
from nope_splat.sfm.checks import check_sfm_options
from nope_splat.sfm.initialization.monocular_depth import MonocularDepthInitialization


def check_contradictions(run: TrainerConfig, pipeline: NopePipelineConfig, resumed: bool) -> None:
    """Check for settings of a training run that contradict each other or would have no effect.

    Args:
        run: Configuration of the training run.
        pipeline: Configuration of data and model of the training run.
        resumed: Whether the training run resumes an interrupted training run.

    Raises:
        NopeSplatError: For the first contradiction; the message says how to resolve it.
    """
    check_sfm_options(pipeline.datamanager.dataparser.sfm)
    _check_run(run, resumed)
    model, dataparser = pipeline.model, pipeline.datamanager.dataparser
    if model.track_3d_weight and model.track_points != "tied" and not model.camera_optimizer.by_gradient:
        raise NopeSplatError(
            "conflicting-options",
            "track-3d-weight has no effect with joint refinement, which does not use the 3D track loss;"
            " pass refinement:gradient, set track-points to tied, or remove track-3d-weight",
        )
    uses_depth = (
        isinstance(dataparser.sfm.initialization, MonocularDepthInitialization)
        or dataparser.seeds == "depth"
        or any(model.depth_weights())
    )
    if dataparser.sfm.depth.maps is not None and not uses_depth:
        raise NopeSplatError(
            "conflicting-options",
            "depth.maps is set, but nothing uses depth; pass initialization:depth, set seeds to depth, set"
            " a weight such as depth-weight, or remove depth.maps",
        )


def _check_run(run: TrainerConfig, resumed: bool) -> None:
    """Check nerfstudio's settings; raise `NopeSplatError` for the first contradiction."""
    if run.machine.num_devices != 1 or run.machine.num_machines != 1:
        raise NopeSplatError(
            "conflicting-options",
            "training runs on a single device; remove machine.num-devices and machine.num-machines",
        )
    if run.load_dir is None and run.load_step is not None:
        raise NopeSplatError(
            "conflicting-options",
            "load-step selects a checkpoint in load-dir, but load-dir is not set; pass load-dir too",
        )
    if run.load_dir is not None and run.load_checkpoint is not None and not resumed:
        raise NopeSplatError(
            "conflicting-options",
            "load-dir and load-checkpoint both specify a checkpoint to resume from; pass only one of them",
        )
    if run.start_paused and "viewer" not in run.vis:
        raise NopeSplatError(
            "conflicting-options",
            f"start-paused waits for a click in the viewer, but vis is {run.vis}; set vis to viewer,"
            " or remove start-paused",
        )
