"""Settings of a training that are each in range, but make no sense together."""

from __future__ import annotations

from collections.abc import Iterator

from nerfstudio.engine.trainer import TrainerConfig

from nope_splat.errors import NopeSplatError
from nope_splat.plugin.pipeline import NopePipelineConfig
from nope_splat.sfm.checks import check_sfm_options
from nope_splat.sfm.initialization.monocular_depth import MonocularDepthInitialization


def check_contradictions(run: TrainerConfig, pipeline: NopePipelineConfig, resumed: bool) -> None:
    """Refuse what would be ignored silently, or never end.

    Args:
        run: Configuration of a training.
        pipeline: That of its data and model.
        resumed: Whether it goes on with an interrupted training.

    Raises:
        NopeSplatError: If settings contradict each other, with what to do about the first of them.
    """
    check_sfm_options(pipeline.datamanager.dataparser.sfm)
    for sentence in (*_of_the_run(run, resumed), *_of_the_cameras(pipeline), *_of_depth(pipeline)):
        raise NopeSplatError("conflicting-options", sentence)


def _of_the_run(config: TrainerConfig, resumed: bool) -> Iterator[str]:
    if config.machine.num_devices != 1 or config.machine.num_machines != 1:
        yield "trainings run on one device; leave out machine.num-devices and machine.num-machines"
    if config.load_dir is None and config.load_step is not None:
        yield "load-step chooses among the checkpoints of load-dir, which is not given; give it too"
    if config.load_dir is not None and config.load_checkpoint is not None and not resumed:
        yield "load-dir and load-checkpoint name two checkpoints to go on from; give one of them"
    if config.start_paused and "viewer" not in config.vis:
        yield (
            f"start-paused waits for a click in the viewer, and vis is {config.vis}; choose a vis with the"
            " viewer, or leave start-paused out"
        )


def _of_the_cameras(config: NopePipelineConfig) -> Iterator[str]:
    model, cameras = config.model, config.model.camera_optimizer
    if cameras.method != "adam":
        for name in ("trans_l2_penalty", "rot_l2_penalty"):
            if getattr(cameras, name):
                yield (
                    f"{name.replace('_', '-')} pulls on gradient steps, and joint adjustments take none; set"
                    " camera-optimizer.method to adam, or leave it out"
                )
        if model.track_3d_weight and model.track_points != "tied":
            yield (
                "track-3d-weight has no say where joint adjustments move cameras and track points; set"
                " camera-optimizer.method to adam or track-points to tied, or leave it out"
            )


def _of_depth(config: NopePipelineConfig) -> Iterator[str]:
    dataparser = config.datamanager.dataparser
    is_used = (
        isinstance(dataparser.sfm.initialization, MonocularDepthInitialization)
        or dataparser.seeds == "depth"
        or any(config.model.depth_weights())
    )
    if dataparser.sfm.depth.maps is not None and not is_used:
        yield (
            "depth.maps is given, but nothing uses depth; pass initialization:depth, set seeds to depth or a"
            " weight such as depth-weight, or leave it out"
        )
